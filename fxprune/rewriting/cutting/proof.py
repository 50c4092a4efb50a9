"""The proof that shapes cannot give: every call, as it is written for what is kept, returns what was kept.

The walk is done once more, over the calls as they will be, from the labels that are left of each tensor. Whatever it
would join must be together already, and each value must have the labels that were foretold, element for element.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import fx

from fxprune.ops.call import Call
from fxprune.rewriting.cutting.kept import Kept
from fxprune.rewriting.cutting.layers import counts
from fxprune.rewriting.cutting.numbers import Numbers
from fxprune.rewriting.cutting.sizes import Fault
from fxprune.structures.channels.labels import NONE, Array, Labels, Reason
from fxprune.structures.channels.rules.table import rule
from fxprune.structures.channels.tensors import Record, Records
from fxprune.structures.channels.values import Layer, Value, map_values, values_in
from fxprune.structures.channels.walk import Walk


class _Settled(Labels):
    """Labels of which all that go together are known: what would join others is a fault."""

    def __init__(self, known: Labels) -> None:
        super().__init__()
        self._classes = known.classes
        self._stays = known.pinned()[self._classes] | (self._classes == NONE)

    def find(self, labels: Array) -> Array:
        found: Array = self._classes[labels]
        return found

    def join(self, first: Array, second: Array, reason: Reason) -> None:
        if first is second:
            return
        if len(first) != len(second):
            raise Fault(reason.node, "would join other numbers of channels")
        one, two = self.find(first), self.find(second)
        differ = one != two
        if not (self._stays[one[differ]].all() and self._stays[two[differ]].all()):
            raise Fault(reason.node, "would join channels that are apart")

    def pin(self, labels: Array, reason: Reason) -> None:
        if not self._stays[labels].all():
            raise Fault(reason.node, f"{reason.why}, once the others are gone")


class _Left(Records):
    """The records of what is kept of all tensors."""

    def __init__(self, kept: Kept, labels: Labels) -> None:
        super().__init__(labels)
        self._kept = kept

    def make(self, tensor: torch.Tensor) -> Record:
        left = super().make(tensor)
        shape = list(left.shape)
        for axis, vectors in self._kept.walk.records.of(tensor).axes.items():
            mask = self._kept.of_vectors(vectors)
            left.axes[axis] = tuple(self._kept.labels_left(one, mask) for one in vectors)
            shape[axis] = shape[axis] if mask is None else int(mask.sum())
        left.shape = tuple(shape)
        return left


class _Proof(Walk):
    """The walk over what is kept, each call on what was foretold of those before it."""

    def __init__(self, kept: Kept, edited: Collection[fx.Node]) -> None:
        before = kept.walk
        super().__init__(before.graph_module, whole=before.whole, approximate=before.approximate)
        self._kept, self._numbers, self._edited = kept, Numbers(kept), edited
        self.labels = _Settled(before.labels)
        self.records = _Left(kept, self.labels)

    def value(self, given: Any) -> Any:
        foretold = isinstance(given, fx.Node) and given in self._kept.walk.values and given.op != "get_attr"
        return self._kept.of(given) if foretold else super().value(given)

    def bare(self, node: fx.Node) -> Any:
        foretold = self._kept.of(node) if node in self._kept.walk.values else super().bare(node)
        return map_values(lambda one: Value(one.shape), foretold)

    def number(self, given: Any) -> Any:
        return fx.map_arg(given, lambda one: self._numbers.after(one))

    def goes_whole(self, node: fx.Node, of_few: bool) -> bool:
        return self._kept.walk.goes_whole(node, False)  # as it was before there were fewer

    def fresh(self, node: fx.Node, key: Any, count: int) -> Array:
        known = self._kept.walk.made[node, key]
        mask = self._kept.of_vectors((known,))
        found = self._kept.labels_left(known, mask)
        if len(found) != count:
            raise Fault(node, "makes another number of channels")
        return found

    def count(self, call: Call, name: str) -> int:
        if call.module is None:
            return int(self.number(call.argument(name)))
        return int(counts(call, self._kept, {})[name])

    def unforeseen(self, node: fx.Node) -> Any:
        if node in self._kept.walk.unknown:
            return super().unforeseen(node)
        raise Fault(node, "would be called with sizes that do not fit")

    def _value_of(self, node: fx.Node, rules: Any) -> Any:
        if node not in self._edited and _moves_nothing(Call(node)):
            return None  # as it was foretold
        found = super()._value_of(node, rules)
        foretold = self._kept.of(node)
        pairs = zip(values_in(found), values_in(foretold), strict=True)
        if not all(self._agree(one, other) for one, other in pairs):
            raise Fault(node, "would have other channels in its places than are foretold")
        return found

    def _agree(self, found: Value, foretold: Value) -> bool:
        if found.shape != foretold.shape or len(found.layers) != len(foretold.layers):
            return False
        return all(map(self._layers_agree, found.layers, foretold.layers))

    def _layers_agree(self, one: Layer, other: Layer) -> bool:
        if one.axes != other.axes:
            return False
        same = one.labels is other.labels
        return same or np.array_equal(self.labels.find(one.labels), self.labels.find(other.labels))


_OF_EACH = ("elementwise", "identity", "dropout", "arithmetic")
_IN_PLACE = (*_OF_EACH, "conv", "linear", "norm", "window", "adaptive pool")


def _moves_nothing(call: Call) -> bool:
    """Say whether a call leaves channels where they are: then they are those of the tensors that were cut for it."""
    if call.exact is None or call.kind not in (_IN_PLACE if call.module is not None else _OF_EACH):
        return False
    return call.kind != "conv" or call.module.groups == 1


def require_proof(kept: Kept, edits: Mapping[fx.Node, Any]) -> None:
    """Raise Fault where a call, written as ``edits`` say, would not return what is kept of its value."""
    before = {node: (node.target, node.args, node.kwargs) for node in edits}
    proof = _Proof(kept, edits)
    try:
        for node, edit in edits.items():
            node.target, node.args, node.kwargs = edit
        proof.run(rule)
    finally:
        for node, old in before.items():
            node.target, node.args, node.kwargs = old
