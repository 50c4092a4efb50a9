"""How far a graph with layer scales is from a target for the memory of a forward pass, once some of them are gone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack

import torch
from torch import fx

from fxprune.choosing.budget import Budget
from fxprune.costs.activation_memory import activation_bytes
from fxprune.errors import TargetError
from fxprune.ir.module_tree import evaluating
from fxprune.ir.nodes import origins, place
from fxprune.passes import RemoveLayers
from fxprune.passes.chains import AFTER_TRAINING
from fxprune.pipelines.pipeline import Pipeline
from fxprune.structures.gated_layers import Gate, awake, layers, macs_in_turn

_COMPILE = Pipeline([RemoveLayers(threshold=0.0), *AFTER_TRAINING], verify=False)
_NO_UNIT = 0.7  # for shortcuts, in the place of units that are measured later


class MemoryBudget(Budget):
    """The most bytes of activations that a forward pass may hold: a share of what it holds with all of its layers.

    Counted in the network that would be emitted, see :func:`fxprune.costs.activation_memory.activation_bytes`.

    Attributes:
        limit: the bytes, for the traced batch.

    Raises:
        TargetError: even without any layer more is held; says how much.
    """

    def __init__(self, graph_module: fx.GraphModule, share: float) -> None:
        self.graph_module = graph_module
        everything = layers(graph_module)
        with ExitStack() as opened:
            for layer in everything:
                if layer.module.closed:
                    opened.enter_context(awake(layer))
                    _set_gate(layer, 1.0)
            whole = max(self._bytes_without(()).values())
        self.limit = share * whole
        held = self._bytes_without(everything)
        peak = max(held, key=held.__getitem__)
        if held[peak] > self.limit:
            least = held[peak] / whole
            advice = f"ask for at least {least + 5e-4:.3f}"
            if least > 0.9995:
                advice = f"no removal lowers that, which is the most at {place(peak)}: leave target_memory out"
            raise TargetError(
                f"target_memory={share:g} cannot be met: without all {len(everything)} removable layers a forward "
                f"pass still holds {least:.3f} of the memory; {advice}"
            )

    def excess(self, removed: Sequence[Gate]) -> float:
        """Return by how many bytes the network without ``removed`` is above the limit, summed over its nodes."""
        return sum(max(0.0, held - self.limit) for held in self._bytes_without(removed).values())

    def macs_to_meet_it(self) -> int:
        """Return the MACs of one sample of layers that meet it when they go: the largest ones that hold a peak.

        A peak is a node at which more than the limit is held. Each turn compiles once, and takes layers until every
        peak lies in one of them; where none lies in any, as many of the largest as were taken before.
        """
        largest = sorted(layers(self.graph_module), key=lambda layer: -layer.macs)
        left, chosen = largest, list[Gate]()
        while left and (peaks := self._peaks_without(chosen)):
            chosen += _holding(left, peaks) or left[: max(1, len(chosen))]
            gone = frozenset().union(*(layer.nodes for layer in chosen))
            left = [layer for layer in largest if layer.node not in gone]
        return sum(macs_in_turn(chosen))

    def _peaks_without(self, removed: Sequence[Gate]) -> set[str]:
        """Return the traced nodes whose compiled ones hold too much in the network without ``removed``."""
        held = self._bytes_without(removed)
        return {name for node, count in held.items() if count > self.limit for name in origins(node)}

    def _bytes_without(self, removed: Collection[Gate]) -> dict[fx.Node, int]:
        with evaluating(self.graph_module), ExitStack() as closed:
            for layer in removed:
                closed.enter_context(awake(layer))
                _set_gate(layer, 0.0)
            compiled = _COMPILE(self.graph_module).graph_module
        return activation_bytes(compiled)


def _holding(ranked: Sequence[Gate], peaks: set[str]) -> list[Gate]:
    """Return the first of ``ranked`` that together hold all of ``peaks`` that any of them holds."""
    found = []
    for layer in ranked:
        inside = set() if layer.region else {name for node in layer.nodes for name in origins(node)}
        if not peaks.isdisjoint(inside):
            found.append(layer)
            peaks = peaks - inside
    return found


@torch.no_grad()
def _set_gate(layer: Gate, gate: float) -> None:
    """Set the gate of ``layer``, and the unit of its shortcut, if it has one, so that this is not 1 by chance."""
    layer.module.gate.fill_(gate)
    if layer.module.has_shortcut:
        layer.module.set_units(input_rms=float(layer.module.unit("gain")) * _NO_UNIT)
