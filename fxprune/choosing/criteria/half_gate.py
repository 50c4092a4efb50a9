"""How much the outputs change when a layer, or a channel, is half closed."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from torch import fx, nn

from fxprune.choosing.criteria.base import Criterion, Needs, Score
from fxprune.choosing.samples import Samples
from fxprune.choosing.sites import ChannelSite, Site
from fxprune.facts.input_rms import root_mean_square
from fxprune.facts.kept_state import keeping_state
from fxprune.gates.gate import ScaledLayer
from fxprune.ir.module_tree import evaluating
from fxprune.ir.nodes import as_taken_now, example_inputs_of, graphs_of
from fxprune.ir.pytrees import tensors_in
from fxprune.structures.channels.running import Read, Running, Worth
from fxprune.structures.gated_layers import Gate


class HalfGate(Criterion):
    """``|f(x; g/2) - f(x; g)| / |f(x; g)|`` on the first batch x, root mean squares over all outputs: ours.

    What opaque code returns may jump with the data, so a layer inside it is compared by the outputs of its region, on
    the region's example. A gate is in units of the weights, a shortcut in units of the layer's input on x. A channel
    is halved where it is read, by all that read it: what a gate of all that goes together does at 1/2. It takes a run
    a channel.
    """

    name: ClassVar[str] = "half-gate"
    needs: ClassVar[Needs] = "inputs"

    @contextmanager
    def measuring(self, graph_module: fx.GraphModule, sites: Collection[Site], samples: Samples) -> Iterator[Score]:
        """Return what compares a site; the outputs of each region with all sites are worked out once."""
        graphs = dict(graphs_of(graph_module))
        references: dict[str, list[torch.Tensor]] = {}
        gates = [one for one in sites if isinstance(one, Gate)]
        done, of = 0, sum(one.width for one in sites)

        def damage(site: Any) -> Any:
            nonlocal done
            graph = graphs[site.region]
            inputs = example_inputs_of(graph) if site.region else as_taken_now(graph, samples.inputs)
            if site.region not in references:
                with _measuring_inputs(one for one in gates if one.region == site.region):
                    references[site.region] = _outputs(graph, inputs)
            if isinstance(site, ChannelSite):
                first, done = done, done + site.width
                return self._of_channels(site, inputs, references[site.region], (first, of))
            with site.lowered(0.5):
                return _relative_difference(references[site.region], _outputs(graph, inputs))

        with evaluating(graph_module), torch.no_grad():
            yield damage

    def _of_channels(
        self, site: ChannelSite, inputs: tuple[Any, ...], reference: list[torch.Tensor], told: tuple[int, int]
    ) -> Worth:
        """Return the damage of each channel of a site; ``told`` is how many were before, of how many."""
        found = np.zeros(site.width)
        for index, one in enumerate(site.group.free.tolist()):
            self.comparing(told[0] + index, told[1])
            with keeping_state(site.channels.graph_module):
                outputs = tensors_in(Running(site.channels, _halving(one)).run(*inputs))
            found[index] = _relative_difference(reference, outputs)
        return found


def _halving(of: int) -> Callable[[Read, torch.Tensor], torch.Tensor]:
    """Return what halves all that is read of a class."""

    def see(read: Read, value: torch.Tensor) -> torch.Tensor:
        is_of = np.any([classes == of for classes in read.classes], axis=0)
        if not is_of.any():
            return value
        factor = torch.from_numpy(np.where(is_of, 0.5, 1.0)).to(value.device, value.dtype)
        shape = [1] * value.dim()
        shape[read.axis] = -1
        return value * factor.view(shape)

    return see


@contextmanager
def _measuring_inputs(layers: Iterator[Gate]) -> Iterator[None]:
    """Take the size of what ResConvs read as their shortcut's unit, where that changes nothing."""

    def measuring(module: ScaledLayer) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def measure(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:  # a copy may stand in for it
            rms = root_mean_square(inputs[0])
            if 0 < rms < math.inf:
                module.set_units(input_rms=rms)

        return measure

    modules = [layer.module for layer in layers]
    untouched = [one for one in modules if one.untouched]
    handles = [one.register_forward_pre_hook(measuring(one)) for one in untouched]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _outputs(graph: fx.GraphModule, probe: Any) -> list[torch.Tensor]:
    """Return what ``graph`` returns in its present state, which stays."""
    with keeping_state(graph):
        return tensors_in(graph(*probe))


def _relative_difference(reference: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """Return the root mean square of the difference over that of ``reference``; infinite for other shapes."""
    gap = size = 0.0
    for a, b in zip(reference, other, strict=True):
        if a.shape != b.shape:
            return math.inf
        if a.is_floating_point():
            gap += float((a.double() - b.double()).square().mean())
            size += float(a.double().square().mean())
    return math.sqrt(gap / size) if size else math.sqrt(gap)
