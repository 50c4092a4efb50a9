"""What gates are ranked by where a target asks for more than training has made zero."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import fx

from fxprune.choosing.criteria.half_gate import HalfGate
from fxprune.choosing.criteria.weight_norm import WeightNorm
from fxprune.choosing.named import known_criteria, made
from fxprune.choosing.samples import Samples
from fxprune.errors import FxpruneValueError
from fxprune.ir.copies import copy_module
from fxprune.ir.module_tree import every_module
from fxprune.structures.gated_layers import Gate, layers

BY_SCALE = ("scale", "scale-per-mac")


class Ranking(NamedTuple):
    """By what gates with these ``scales`` are ranked, the lowest first to go; ``is_guess`` if scales say nothing."""

    name: str
    scales: Mapping[fx.Node, float]
    values: Mapping[fx.Node, float]
    is_guess: bool = False

    @property
    def missed(self) -> Mapping[fx.Node, float]:
        """How much each is missed, whatever removing it saves: its scale, if that ranks; else what ranks it."""
        return self.scales if self.name in BY_SCALE else self.values

    @property
    def advice(self) -> str:
        """What to say where the ranking is one that nobody asked for."""
        return (
            f"no scale was trained: layers are ranked by the norm of their weights per MAC ({self.name}); "
            f"rank={HalfGate.name} ranks them by the damage on the example inputs (fxprune run --data)"
        )


def ranked_by(graph_module: fx.GraphModule, gates: Sequence[Gate], rank: str | None) -> Ranking:
    """Return the values by which ``gates``, of ``graph_module`` and its regions, are ranked.

    ``rank`` is "scale", "scale-per-mac", or the name of a criterion, whose value counts per MAC that removal saves,
    on the graph's example inputs; None is "scale" if any was trained, and else the norm of the weights.
    """
    scales = {gate.node: gate.module.effective_scale for gate in gates}
    untrained = bool(scales) and all(abs(scale - 1) < 1e-6 for scale in scales.values())
    name = rank or (WeightNorm.name if untrained else BY_SCALE[0])
    if name == "scale":
        return Ranking(name, scales, scales)
    missed = scales if name in BY_SCALE else _missed(graph_module, gates, name)
    return Ranking(name, scales, {gate.node: missed[gate.node] / max(gate.macs, 1) for gate in gates}, rank is None)


def _missed(graph_module: fx.GraphModule, gates: Sequence[Gate], name: str) -> dict[fx.Node, float]:
    """Return how much each gate is missed, by the criterion of that name, which works on a copy."""
    criterion = made(name, known_criteria(), "criterion")
    measured = _with_own_gates(graph_module, gates)
    twins = {gate.path: gate for gate in layers(measured)}
    with criterion.measuring(measured, twins.values(), Samples.of(graph_module)) as missed:
        found = {gate.node: missed(twins[gate.path]) for gate in gates}
    for gate in gates:
        if math.isnan(found[gate.node]):
            raise FxpruneValueError(f"{name} of {gate.subject} is NaN: nothing can rank it; train it anew")
    return found


def _with_own_gates(graph_module: fx.GraphModule, gates: Sequence[Gate]) -> fx.GraphModule:
    """Return a copy that shares all tensors but those of gates, which a criterion may move."""
    own = {id(gate.module) for gate in gates}
    shared = [one for one in every_module(graph_module) if id(one) not in own]
    tensors = [tensor for one in shared for tensor in (*one._parameters.values(), *one._buffers.values())]
    copied: fx.GraphModule = copy_module(graph_module, memo={id(tensor): tensor for tensor in tensors})  # type: ignore[assignment]
    return copied
