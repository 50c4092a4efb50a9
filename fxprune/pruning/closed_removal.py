"""A graph without what training has closed, to train on: its other gates stay as they are.

s * norm(conv(x)) + a * x   ->   a * x                             closed
conv(x; W * g[columns])     ->   conv'(x[kept]; W[:, kept] * g[kept])   where the others are closed
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import fx, nn

from fxprune.gates.channel_gate import ChannelScale
from fxprune.gates.gate import ScaledLayer
from fxprune.ir.nodes import called_module
from fxprune.passes import EliminateDeadCode, RemoveChannels, RemoveLayers, RemoveUnusedSubmodules
from fxprune.pipelines.pipeline import Pipeline
from fxprune.rewriting.contract import Pass
from fxprune.structures.channel_chunk import columns_of_gates
from fxprune.structures.channels.groups import Channels
from fxprune.structures.gated_layers import Gate, gates_of
from fxprune.weights.slicing import Slice, noting_slices, part_of


@dataclass(frozen=True)
class RemoveClosedChannels(RemoveChannels):
    """Remove the channels that training has closed, and no others: what is zero and not closed may be trained.

    Around gates of layers that are open, or closed and still there, all channels stay.
    """

    name: ClassVar[str] = "remove-closed-channels"

    def silent(self, channels: Channels) -> set[int]:
        """Return the classes that are closed and can go: of a scale that several have all or none."""
        closed: list[set[int]] = []  # by scale
        others: set[int] = set()  # what a removed layer has joined may have several gates
        for node, (places, classes) in columns_of_gates(channels).items():
            module = called_module(node)
            assert isinstance(module, ChannelScale)
            is_closed = module.closed_classes.cpu().numpy()
            closed += [set(classes[places == one].tolist()) for one in np.flatnonzero(is_closed)]
            others.update(classes[~is_closed[places]].tolist())
        found = (set().union(*closed) - others) & super().silent(channels)
        while torn := found & set().union(*(one for one in closed if not one <= found)):
            found -= torn
        return found


class Source(NamedTuple):
    """Where a tensor of a cut graph is from: its key before, and which of its places are left, by axis."""

    key: str
    places: Mapping[int, torch.Tensor]


class Shortened(NamedTuple):
    """A graph without what was closed.

    ``layers`` are the gates that were removed, by path; ``channels`` the places that gates of channels lost;
    ``slices`` are the tensors that lost something, ``gone`` the parameters that went; ``sources`` say by key what
    each tensor was.
    """

    graph_module: fx.GraphModule
    layers: dict[str, ScaledLayer]
    channels: dict[str, list[int]]
    slices: list[Slice]
    gone: set[torch.Tensor]
    sources: dict[str, Source]


def shortened(graph_module: fx.GraphModule) -> Shortened | None:
    """Return ``graph_module``, which is not changed, without its closed layers and channels; None if none can go."""
    gates = gates_of(graph_module)
    layers = {gate.path: gate.module for gate in gates if _can_go(gate)}
    # scales that layers shared go with the last one: what is left is the same, in however many cuts they went
    steps: list[Pass] = [RemoveLayers(paths=tuple(layers)), EliminateDeadCode()] if layers else []
    if any(isinstance(gate.module, ChannelScale) and bool(gate.module.closed_classes.any()) for gate in gates):
        steps.append(RemoveClosedChannels())
    if not steps:
        return None
    with noting_slices() as noted:
        made = Pipeline([*steps, RemoveUnusedSubmodules()], verify=False)(graph_module).graph_module
    if made is graph_module:
        return None
    before, after = tensors_of(graph_module), tensors_of(made)
    slices = [one for one in noted if any(one.part is tensor for tensor in after.values())]
    parts = {id(one.part): one for one in slices}
    keys = {id(tensor): key for key, tensor in before.items()}
    held = {id(tensor) for tensor in after.values()} | {id(one.whole) for one in slices}
    return Shortened(
        made,
        layers,
        dict(_lost(gates, {gate.path for gate in gates_of(made)}, noted)),
        slices,
        {one for one in graph_module.parameters() if id(one) not in held},
        {key: _source(tensor, parts.get(id(tensor)), keys) for key, tensor in after.items()},
    )


def _can_go(gate: Gate) -> bool:
    """Say whether a gate is closed and nothing of it is trained: a shortcut of its own may still be."""
    return gate.removable and gate.module.closed and gate.module.parametrization != "free"


def _source(tensor: torch.Tensor, part: Slice | None, keys: Mapping[int, str]) -> Source:
    return Source(keys[id(tensor)], {}) if part is None else Source(keys[id(part.whole)], part.places)


def _lost(
    gates: Collection[Gate], left: Collection[str], noted: Collection[Slice]
) -> Iterator[tuple[str, list[int]]]:
    """Yield the places that each gate of channels lost: of one that is not left itself those that are closed."""
    kept = {id(one.whole): one.places[0].tolist() for one in noted if 0 in one.places}
    for gate in gates:
        if not isinstance(gate.module, ChannelScale):
            continue
        if gate.path not in left:
            yield gate.path, gate.module.closed_classes.nonzero().flatten().tolist()
        elif id(gate.module.gate) in kept:
            yield gate.path, sorted({*range(gate.width)} - {*kept[id(gate.module.gate)]})


def tensors_of(module: Any) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers of a module by the keys of its state, shared ones by each of theirs."""
    found = dict(module.named_parameters(remove_duplicate=False))
    return found | dict(module.named_buffers(remove_duplicate=False))


def narrowed_state(tensors: Mapping[str, torch.Tensor], sources: Mapping[str, Source]) -> dict[str, torch.Tensor]:
    """Return the tensors of a graph once it is cut, by their own keys; copies, parameters of parameters."""
    return {key: _kept(tensors[one.key], one) for key, one in sources.items()}


def _kept(tensor: torch.Tensor, source: Source) -> torch.Tensor:
    found = part_of(tensor, source.places)
    return nn.Parameter(found, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else found
