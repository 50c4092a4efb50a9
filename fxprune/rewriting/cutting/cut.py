"""Take channels out of a graph: its calls, its layers and its tensors are written anew for what is kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import fx

from fxprune.gates.base import Gated, ungated
from fxprune.ir.kept_channels import KeptPlaces, note_kept
from fxprune.ir.node_targets import attribute, set_attribute, set_buffer
from fxprune.ir.nodes import called_modules, input_at
from fxprune.ir.weight_blocks import move_blocks
from fxprune.ops.call import Call
from fxprune.rewriting.cutting.arguments import Arguments
from fxprune.rewriting.cutting.gates import NarrowerGates
from fxprune.rewriting.cutting.kept import Kept
from fxprune.rewriting.cutting.layers import narrower, narrower_at_rest
from fxprune.rewriting.cutting.proof import require_proof
from fxprune.structures.channels.values import Value
from fxprune.structures.channels.walk import Walk
from fxprune.weights.slicing import narrowed

Edit = tuple[Any, tuple[Any, ...], dict[str, Any]]


class Cut:
    """A graph without the classes ``gone``: planned and proved here, made by :meth:`apply`. Raises Fault."""

    def __init__(self, walk: Walk, gone: Collection[int]) -> None:
        self.walk = walk
        self.kept = Kept(walk, gone)
        self.edits = self._plan()
        self._places: dict[int, Mapping[int, torch.Tensor]] = {}  # what is left of tensors, by their identity
        require_proof(self.kept, self.edits)

    def _plan(self) -> Mapping[fx.Node, Edit]:
        arguments = Arguments(self.kept)
        found = {node: arguments.rewritten(node) for node in self.walk.graph_module.graph.nodes}
        return {node: edit for node, edit in found.items() if edit is not None}

    def apply(self) -> dict[fx.Node, str]:
        """Edit the graph; return the nodes that changed, and what became of each."""
        graph = self.walk.graph_module.graph
        self._note_kept()
        tensors = self._tensors()
        told = self._replace_layers(tensors)
        told |= self._replace_gates(tensors)
        for node in graph.find_nodes(op="get_attr"):
            self._replace_tensor(node, tensors)
        for node, (target, args, kwargs) in self.edits.items():
            node.target, node.args, node.kwargs = target, args, kwargs
            told.setdefault(node, "counts the channels that are left")
        for node in reversed(graph.nodes):
            if not node.users and _is_idle(Call(node)):
                told.pop(node, None)
                graph.erase_node(node)
        return told

    def _note_kept(self) -> None:
        """Note what is left of what each node computes."""
        left: dict[int, KeptPlaces] = {}
        for node, value in self.walk.values.items():
            if isinstance(value, Value) and value.layers:
                masks = {axis: self.kept.along(value, axis) for layer in value.layers for axis in layer.axes}
                for mask in masks.values():
                    if mask is not None and id(mask) not in left:
                        left[id(mask)] = KeptPlaces(np.flatnonzero(mask), len(mask))
                note_kept(node, {axis: left[id(mask)] for axis, mask in masks.items() if mask is not None})

    def _tensors(self) -> dict[int, torch.Tensor]:
        """Return what is left of the tensors that lose something, by the identity of what they were."""
        found = {}
        places: dict[int, torch.Tensor] = {}
        for record in self.walk.records:
            cut = {}
            for axis, vectors in record.axes.items():
                mask = self.kept.of_vectors(vectors)
                if mask is not None:
                    if id(mask) not in places:
                        places[id(mask)] = torch.from_numpy(np.flatnonzero(mask))
                    cut[axis] = places[id(mask)]
            if cut:
                found[id(record.tensor)] = narrowed(record.tensor, cut)
                self._places[id(record.tensor)] = cut
        return found

    def _replace_gates(self, tensors: Mapping[int, torch.Tensor]) -> dict[fx.Node, str]:
        """Replace the gates that lose scales, and what multiplies by them."""
        gates = NarrowerGates(self.kept)
        scales = gates.scales()
        told: dict[fx.Node, str] = {}
        for node in gates.readers:
            new = gates.reader(node, tensors)
            if isinstance(new, torch.nn.Identity):
                node.replace_all_uses_with(input_at(node), propagate_meta=False)
                node.graph.erase_node(node)
            elif new is not None:
                told[node] = "multiplies the columns that are left"
                self._move_blocks(node, gates.readers[node])
                set_attribute(self.walk.graph_module, str(node.target), new)
                node.args = gates.reads(node) if isinstance(new, Gated) else node.args[:1]
        for node, scale in scales.items():
            if scale is None:
                node.graph.erase_node(node)
            else:
                told[node] = f"{scale.width} scales are left"
                set_attribute(self.walk.graph_module, str(node.target), scale)
        return told

    def _replace_layers(self, tensors: Mapping[int, torch.Tensor]) -> dict[fx.Node, str]:
        graph_module = self.walk.graph_module
        made: dict[int, Any] = {}
        told: dict[fx.Node, str] = {}
        for node, module in called_modules(graph_module).items():  # several may call the same
            if isinstance(module, Gated) and not module.narrows:
                continue
            if id(module) not in made:
                made[id(module)] = module, self._narrower(Call(node), tensors)
            new = made[id(module)][1]
            if new is not None:
                told[node] = describe(ungated(module), ungated(new))
                set_attribute(graph_module, str(node.target), new)
                self._move_blocks(node, module)
        return told

    def _move_blocks(self, node: fx.Node, module: torch.nn.Module) -> None:
        """Have the noted blocks of what ``node`` called, a layer or a gate around one, be of what is left of it."""
        move_blocks(node, self._places.get(id(ungated(module)._parameters.get("weight")), {}))

    def _narrower(self, call: Call, tensors: Mapping[int, torch.Tensor]) -> Any:
        if isinstance(call.module, Gated):
            return narrower_at_rest(call.node, call.module, self.kept, tensors)
        return None if call.exact is None else narrower(call, self.kept, tensors)

    def _replace_tensor(self, node: fx.Node, tensors: Mapping[int, torch.Tensor]) -> None:
        graph_module = self.walk.graph_module
        new = tensors.get(id(attribute(graph_module, str(node.target))))
        if new is not None:
            put = set_attribute if isinstance(new, torch.nn.Parameter) else set_buffer
            put(graph_module, str(node.target), new)


def _is_idle(call: Call) -> bool:
    """Say whether a call that nobody reads does nothing."""
    return call.kind == "size" or (call.kind == "check" and call.node.args[0] is True)


_COUNTS = {
    "in_channels": "input channels",
    "out_channels": "channels",
    "in_features": "input features",
    "out_features": "features",
    "num_features": "channels",
    "num_channels": "channels",
    "num_parameters": "slopes",
    "embedding_dim": "features",
    "groups": "groups",
}


def describe(old: Any, new: Any) -> str:
    """Return what became of a layer: "64 -> 41 channels, 128 -> 90 input channels"."""
    before, after = vars(old), vars(new)
    told = [f"{before[n]} -> {after[n]} {words}" for n, words in _COUNTS.items() if before.get(n) != after.get(n)]
    return ", ".join(told) or "fewer channels"
