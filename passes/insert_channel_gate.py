"""Put a scale on every channel that can go, where it is read.

conv(x; W)   ->   conv(x; W * g[columns])        g = 1: the same function
q @ k'       ->   (q * g) @ k'                   where two activations are multiplied
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import fx, nn

from fxprune.choosing.channel_choice import kept_classes
from fxprune.choosing.keeping import KEPT
from fxprune.facts.shapes import note_shape
from fxprune.gates.base import Gated
from fxprune.gates.channel_gate import ChannelScale, ScaledAxis, ScaledColumns
from fxprune.ir.by_mode import MODE
from fxprune.ir.node_targets import attribute, free_target
from fxprune.ir.nodes import called_module
from fxprune.rewriting.contract import Contract, Log
from fxprune.rewriting.keeping_pass import KeepingPass
from fxprune.rewriting.rewriter import Rewriter
from fxprune.structures.channels.groups import Channels, Group
from fxprune.structures.channels.tensors import Vectors
from fxprune.structures.channels.walk import Reader


@dataclass(frozen=True)
class InsertChannelGate(KeepingPass):
    """Put a scale on every channel that can go, in the columns of the weights that read it.

    Gates of layers, if there are to be any, come before: what a ResConv reads is multiplied in front of it, for its
    shortcut reads it too.

    Args:
        groups: of grouped convs, of norms and of heads the same channels "within" each have one
            scale, or "whole" ones do.
        keep, only: layers whose output channels get none (see :mod:`fxprune.choosing.keeping`).
    """

    name: ClassVar[str] = "insert-channel-gate"
    after: ClassVar[tuple[str, ...]] = ("split-attention", "insert-resconv", "insert-branch-scale")
    contract: ClassVar[Contract] = Contract.VALUES
    changes_shapes: ClassVar[bool] = False
    groups: Literal["within", "whole"] = "within"

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        """Insert a gate for every group with channels that can go."""
        if any(isinstance(called_module(node), ChannelScale) for node in graph_module.graph.nodes):
            log.warn("the graph has gates of channels already")
            return
        channels = Channels(graph_module, whole=self.groups == "whole", gated=True)
        kept, held = kept_classes(channels, self.kept, log.region)
        for node in held:
            log.decline(node, KEPT)
        insertion = _Insertion(channels, Rewriter(graph_module, log, self.name))
        for group in channels.groups:
            classes = [one for one in group.free.tolist() if one not in kept]
            if classes:
                insertion.add(group, classes)
            elif not len(group.free):
                reason = channels.reasons[int(group.classes[0])]
                log.decline(reason.node, f"the channels of {group.name or 'parameters'} stay: {reason.why}")
        insertion.insert_all()


class _Insertion:
    """The gates of one graph, and where they are read."""

    def __init__(self, channels: Channels, rewriter: Rewriter) -> None:
        self._channels = channels
        self._rewriter = rewriter
        self._gate_of = np.zeros(len(channels.labels), dtype=np.int64)  # by class: which gate, from 1
        self._entry_of = np.zeros(len(channels.labels), dtype=np.int64)
        self._gates: list[tuple[Group, int]] = []

    def add(self, group: Group, classes: list[int]) -> None:
        """Have ``classes`` of ``group`` get a gate."""
        self._gates.append((group, len(classes)))
        self._gate_of[classes] = len(self._gates)
        self._entry_of[classes] = np.arange(len(classes))

    def insert_all(self) -> None:
        """Insert the gates, and have all readers multiply by them."""
        readers = self._channels.walk.readers
        first: dict[int, fx.Node] = {}
        used = [self._used(reader.vectors) for reader in readers]
        order = {node: place for place, node in enumerate(self._rewriter.graph_module.graph.nodes)}
        for reader, gates in zip(readers, used, strict=True):
            for gate in gates:
                if gate not in first or order[reader.node] < order[first[gate]]:
                    first[gate] = reader.node
        nodes = {gate: self._insert_gate(gate, before) for gate, before in first.items()}
        wrapped: set[tuple[fx.Node, int]] = set()
        for reader, gates in zip(readers, used, strict=True):
            if gates and (reader.node, reader.axis) not in wrapped:
                wrapped.add((reader.node, reader.axis))
                self._insert_reader(reader, gates, nodes)

    def _used(self, vectors: Vectors) -> list[int]:
        found = {int(one) for vector in vectors for one in np.unique(self._gate_of[self._channels.class_of[vector]])}
        return sorted(found - {0})

    def _insert_gate(self, gate: int, before: fx.Node) -> fx.Node:
        group, width = self._gates[gate - 1]
        graph_module = self._rewriter.graph_module
        scale = ChannelScale(width, _any_float(graph_module))
        scale.training = graph_module.training
        target = self._rewriter.put(free_target(graph_module, f"{group.name}_channels"), scale)
        node = self._rewriter.insert("call_module", target, (), before=before, of=[before])
        node.meta.pop(MODE, None)  # both modes read it
        note_shape(node, scale.gate)
        self._rewriter.log.rewrote(node, f"{width} of {group.width} channels of {group.name} now have a scale of 1")
        return node

    def _index(self, vectors: Vectors, gates: list[int]) -> torch.Tensor:
        """Return for each column the place of its scale, in 1 and the scales of ``gates``; (layers, columns)."""
        starts = np.zeros(len(self._gates) + 1, dtype=np.int64)
        place = 1
        for gate in gates:
            starts[gate] = place
            place += self._gates[gate - 1][1]
        classes = np.stack([self._channels.class_of[one] for one in vectors])
        owners = self._gate_of[classes]
        return torch.from_numpy(np.where(owners > 0, starts[owners] + self._entry_of[classes], 0))

    def _insert_reader(self, reader: Reader, gates: list[int], nodes: Mapping[int, fx.Node]) -> None:
        node, graph_module = reader.node, self._rewriter.graph_module
        index = self._index(reader.vectors, gates)
        scales = [nodes[gate] for gate in gates]
        layer = called_module(node)
        if isinstance(layer, Gated) and not isinstance(layer, ScaledColumns):  # of a layer: its shortcut reads too
            axis = 1
            x = self._channels.walk.value(node.args[0])
            self._multiply(node, node.args[0], axis, self._index(self._channels.walk.along(x, axis), gates), scales)
            return
        if isinstance(layer, ScaledColumns):  # called before
            node.args = (*node.args, *scales)
            return
        if layer is not None:
            index = index.to(_any_float(layer).device)
            wrapper = ScaledColumns(layer, index, reader.axis)
            wrapper.training = layer.training
            if any(str(one.target).startswith(f"{node.target}.") for one in node.graph.find_nodes(op="get_attr")):
                node.target = free_target(graph_module, f"{node.target}_scaled")
            self._rewriter.set_layer(node, wrapper)
            node.args = (*node.args, *scales)
            return
        self._multiply(node, self._operand(reader), reader.axis, index, scales)

    def _multiply(self, node: fx.Node, operand: Any, axis: int, index: torch.Tensor, scales: list[fx.Node]) -> None:
        """Have ``node`` read ``operand`` times ``scales`` along ``axis``."""
        graph_module = self._rewriter.graph_module
        value = operand.meta["tensor_meta"]
        module = ScaledAxis(index.to(_any_float(graph_module).device), axis % len(value.shape))
        target = self._rewriter.put(free_target(graph_module, f"{operand.name}_scaled"), module)
        new = self._rewriter.insert("call_module", target, (operand, *scales), before=node, of=[operand])
        _read_once(node, operand, new)

    def _operand(self, reader: Reader) -> Any:
        """Return the operand that is multiplied: the weight of a function, or the first of a product."""
        if reader.operand is not None:
            return reader.operand
        owner = self._rewriter.graph_module
        reads = [one for one in reader.node.all_input_nodes if one.op == "get_attr"]
        return next(one for one in reads if attribute(owner, str(one.target)) is reader.weight)


def _read_once(node: fx.Node, old: fx.Node, new: fx.Node) -> None:
    """Have ``node`` read ``new`` where it first reads ``old``: of x times x one side is multiplied, never both."""
    done = False

    def change(one: fx.Node) -> fx.Node:
        nonlocal done
        if one is not old or done:
            return one
        done = True
        return new

    node.args, node.kwargs = fx.map_arg((node.args, node.kwargs), change)


def _any_float(module: nn.Module) -> torch.Tensor:
    """Return a parameter or a buffer of ``module`` that holds floating-point numbers."""
    return next(one for one in (*module.parameters(), *module.buffers()) if one.is_floating_point())
