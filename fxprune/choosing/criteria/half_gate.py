"""How much the outputs change when a layer is half closed."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import fx, nn

from fxprune.choosing.criteria.base import Criterion
from fxprune.facts.input_rms import root_mean_square
from fxprune.facts.kept_state import keeping_state
from fxprune.gates.gate import ScaledLayer
from fxprune.ir.module_tree import evaluating
from fxprune.ir.nodes import as_taken_now, example_inputs_of, graphs_of
from fxprune.ir.pytrees import tensors_in
from fxprune.structures.gated_layers import Gate


class HalfGate(Criterion):
    """``|f(x; g/2) - f(x; g)| / |f(x; g)|`` on the probe x, root mean squares over all outputs: ours.

    What opaque code returns may jump with the data, so a layer inside it is compared by the outputs of its region, on
    the region's example. A gate is in units of the weights, a shortcut in units of the layer's input on the probe.
    """

    name: ClassVar[str] = "half-gate"

    @contextmanager
    def measuring(
        self, graph_module: fx.GraphModule, layers: Collection[Gate], probe: tuple[Any, ...]
    ) -> Iterator[Callable[[Gate], float]]:
        """Return what compares a layer; the outputs of each region with all layers are worked out once."""
        graphs = dict(graphs_of(graph_module))
        references: dict[str, list[torch.Tensor]] = {}

        def damage(layer: Gate) -> float:
            graph = graphs[layer.region]
            inputs = example_inputs_of(graph) if layer.region else as_taken_now(graph, probe)
            if layer.region not in references:
                with _measuring_inputs(one for one in layers if one.region == layer.region):
                    references[layer.region] = _outputs(graph, inputs)
            with layer.lowered(0.5):
                return _relative_difference(references[layer.region], _outputs(graph, inputs))

        with evaluating(graph_module), torch.no_grad():
            yield damage


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
