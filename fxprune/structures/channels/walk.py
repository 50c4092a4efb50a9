"""One walk over a graph: where the labels of every value are, and which of them go together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import fx

from fxprune.facts.shapes import META, metadata_in
from fxprune.gates.channel_gate import ScaledAxis, ScaledColumns
from fxprune.ir.by_mode import is_by_mode
from fxprune.ir.node_targets import attribute
from fxprune.ir.nodes import called_module
from fxprune.ops.call import Call
from fxprune.structures.channels.labels import Array, Labels, Reason
from fxprune.structures.channels.moving import TooLarge
from fxprune.structures.channels.tensors import Record, Records, Vectors, meet
from fxprune.structures.channels.values import Layer, Value, map_values, values_in

_UNFORESEEN = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


class Reader(NamedTuple):
    """Columns that read channels: at ``node``, ``axis`` of its weight, with the labels of each column.

    ``weight`` is None where activations are multiplied: then ``axis`` is that of ``operand``, the first of them.
    """

    node: fx.Node
    weight: torch.Tensor | None
    axis: int
    vectors: Vectors
    operand: fx.Node | None = None


class Walk:
    """The labels of one graph.

    ``whole``: whole groups and heads go, not the same channel of each of them. ``gated``: gates of layers are what
    they gate; a barrier otherwise, but for those at rest.
    """

    def __init__(
        self, graph_module: fx.GraphModule, *, whole: bool = False, approximate: bool = False, gated: bool = False
    ) -> None:
        self.graph_module = graph_module
        self.whole = whole
        self.approximate = approximate
        self.gated = gated
        self.labels = Labels()
        self.records = Records(self.labels)
        self.readers: list[Reader] = []
        self.values: dict[fx.Node, Any] = {}
        self.hidden: dict[fx.Node, Value] = {}
        self.fixed: list[tuple[Value, int]] = []
        self.made: dict[tuple[fx.Node, Any], Array] = {}
        self.foreign: list[tuple[torch.Tensor, Reason]] = []
        self.unknown: set[fx.Node] = set()
        self._whole_at: set[fx.Node] = set()

    # what rules ask

    def value(self, given: Any) -> Any:
        """Return the labels of an argument: a Value, a nest of them, or None."""
        if isinstance(given, fx.Node):
            found = self.values.get(given)
            if found is None and given.op == "get_attr":
                found = self.values[given] = self._value_of_tensor(given)
            return found
        return tuple(self.value(one) for one in given) if isinstance(given, (tuple, list)) else None

    def number(self, given: Any) -> Any:
        """Return an argument with the numbers of the example in the place of nodes."""
        return fx.map_arg(given, lambda node: node.meta.get(META))

    def count(self, call: Call, name: str) -> int:
        """Return an argument that is a number of groups."""
        return int(self.number(call.argument(name)))

    def goes_whole(self, node: fx.Node, of_few: bool) -> bool:
        """Say whether whole groups go of what ``node`` computes: as is asked, or where of so few none could go."""
        if of_few and not isinstance(called_module(node), ScaledColumns):  # which had more, and goes on within
            self._whole_at.add(node)
        return self.whole or node in self._whole_at

    def fresh(self, node: fx.Node, key: Any, count: int) -> Array:
        """Return new labels that ``node`` makes."""
        found = self.made[node, key] = self.labels.fresh(count)
        return found

    def record(self, call: Call, name: str) -> Record | None:
        """Return the record of a parameter that a call is given, or that its layer has; None if it has none."""
        if call.module is not None:
            tensors = call.module._parameters if name in call.module._parameters else call.module._buffers
            if name in tensors:
                own = tensors[name]
                return None if own is None else self.records.of(own)
        given = call.argument(name)
        if isinstance(called_module(given), ScaledAxis):
            given = given.args[0]
        if isinstance(given, fx.Node) and given.op == "get_attr":
            tensor = attribute(self.graph_module, str(given.target))
            if isinstance(tensor, torch.Tensor):
                return self.records.of(tensor)
        return None

    def settled(self, value: Value, axis: int) -> Value:
        """Return ``value`` with no layer that varies along ``axis`` and others too: one of them is chosen."""
        if all(len(one.axes) == 1 or axis not in one.axes for one in value.layers):
            return value
        return value.with_layers(
            one if len(one.axes) == 1 or axis not in one.axes else self.chosen(one) for one in value.layers
        )

    def chosen(self, layer: Layer) -> Layer:
        """Return ``layer`` along one of its axes: all that is at one place of it goes together."""
        reason = Reason(self._node, "cut at the same place everywhere")
        kept = 0 if self.whole else len(layer.axes) - 1
        labels = layer.labels
        for place in reversed(range(len(layer.axes))):
            if place != kept:
                labels = self.labels.join_along(labels, place, reason)
        return Layer((layer.axes[kept],), labels)

    def along(self, value: Value, axis: int) -> Vectors:
        """Return the labels along ``axis`` of all layers, once all is settled: of several axes one was chosen."""
        if len(value.layers) == 1 and value.layers[0].axes == (axis,):
            return (value.layers[0].labels,)
        found = [self._along(layer, axis) for layer in value.layers if axis in layer.axes]
        return tuple(one for one in found if one is not None)

    def _along(self, layer: Layer, axis: int) -> Array | None:
        if len(layer.axes) == 1:
            return layer.labels
        place = layer.axes.index(axis)
        rows = self.labels.find(np.moveaxis(layer.labels, place, 0).reshape(layer.labels.shape[place], -1))
        return rows[:, 0] if (rows == rows[:, :1]).all() else None

    def mixed(self, value: Value, axes: Iterable[int], reason: Reason) -> Value:
        """Return ``value`` with the labels along ``axes`` joined; those of a layer without other axes stay."""
        axes = set(axes)
        if all(axes.isdisjoint(one.axes) for one in value.layers):
            return value
        found = []
        for layer in value.layers:
            rest = layer
            for axis in sorted(axes.intersection(layer.axes)):
                place = rest.axes.index(axis)
                joined = self.labels.join_along(rest.labels, place, reason)
                rest = Layer(rest.axes[:place] + rest.axes[place + 1 :], joined)
            if rest.axes:
                found.append(rest)
            else:
                self.labels.pin(rest.labels.reshape(1), reason)
        return value.with_layers(found)

    def broadcast(self, values: Sequence[Value], shape: Sequence[int], reason: Reason) -> Value:
        """Return what is made of several values, broadcast to ``shape``: labels at one place are joined."""
        rank = len(shape)
        aligned = [_aligned(one, rank) for one in values]
        labelled = [one for one in aligned if one.layers]
        if not labelled:
            return Value(tuple(shape))
        if len(aligned) == 1:
            return Value(tuple(shape), labelled[0].layers)
        aligned = [self._undivided(one, aligned, shape) for one in aligned]
        found: list[Layer] = []
        for axes in dict.fromkeys(layer.axes for one in aligned for layer in one.layers):
            wide = [one for one in aligned if any(one.shape[a] > 1 for a in axes)]
            vectors = [tuple(layer.labels for layer in one.layers if layer.axes == axes) for one in wide]
            first = vectors[0] or next(one for one in vectors if one)
            for other in vectors:
                first = meet(self.labels, first, other, reason)
            found += [Layer(axes, one) for one in first]
        return Value(tuple(shape), tuple(found))

    def _undivided(self, value: Value, others: Sequence[Value], shape: Sequence[int]) -> Value:
        """Return ``value`` with its layers along several axes chosen where others do not have them likewise."""
        layers = []
        for layer in value.layers:
            wide = [one for one in others if len(layer.axes) > 1 and any(one.shape[a] > 1 for a in layer.axes)]
            same = all(any(each.axes == layer.axes for each in one.layers) for one in wide)
            layers.append(layer if same else self.chosen(layer))
        return value.with_layers(layers)

    def pin(self, value: Any, why: str) -> None:
        """Have all that a value holds stay."""
        reason = Reason(self._node, why)
        for one in values_in(value):
            for layer in one.layers:
                self.labels.pin(layer.labels.ravel(), reason)

    def bare(self, node: fx.Node) -> Any:
        """Return what ``node`` computes, with no labels."""
        return _bare(node.meta.get(META))

    # the walk

    def run(self, rules: Callable[[Walk, Call], Any]) -> None:
        """Walk over all nodes; ``rules`` says what each call makes of the labels that it reads."""
        for node in self.graph_module.graph.nodes:
            self._node = node
            if node.op == "placeholder":
                self.values[node] = self.bare(node)
            elif node.op == "output":
                self.pin(tuple(map(self.value, node.all_input_nodes)), "an output of the network")
            elif node.op != "get_attr":
                self.values[node] = self._value_of(node, rules)

    def _value_of(self, node: fx.Node, rules: Callable[[Walk, Call], Any]) -> Any:
        meta = node.meta.get(META)
        if not metadata_in(meta):
            return None
        if is_by_mode(node) and meta is not None:
            both = [one for one in map(self.value, node.args[1:]) if isinstance(one, Value)]
            return self.broadcast(
                both, self.bare(node).shape, Reason(node, "differs between training and evaluation")
            )
        try:
            found = rules(self, Call(node))
        except TooLarge:
            return self.barrier(node, "its labels are too many")
        except _UNFORESEEN:
            return self.unforeseen(node)
        as_run = map_values(_shape, found) == map_values(_shape, self.bare(node))
        return found if as_run else self.unforeseen(node)

    def unforeseen(self, node: fx.Node) -> Any:
        """Have what a rule had not foreseen be a barrier."""
        self.unknown.add(node)
        return self.barrier(node, "is called in a way that channels do not know")

    def barrier(self, node: fx.Node, why: str) -> Any:
        """Have all that ``node`` reads stay, its layer's own tensors too; return what it computes, without labels."""
        self.pin(tuple(map(self.value, node.all_input_nodes)), why)
        module = called_module(node)
        if module is not None:
            reason = Reason(node, why)
            self.foreign += [(one, reason) for one in (*module.parameters(), *module.buffers())]
        return self.bare(node)

    def _value_of_tensor(self, node: fx.Node) -> Any:
        tensor = attribute(self.graph_module, str(node.target))
        if not isinstance(tensor, torch.Tensor):
            return None
        if not tensor.is_floating_point():
            return Value(tuple(tensor.shape))
        record = self.records.of(tensor)
        shape = record.shape
        layers = [Layer((axis,), one) for axis in range(len(shape)) for one in record.along(axis)]
        return Value(shape, tuple(layers))


def _shape(value: Value) -> list[int]:
    return list(value.shape)


def _aligned(value: Value, rank: int) -> Value:
    """Return ``value`` with axes of size 1 in front."""
    ahead = rank - len(value.shape)
    if ahead == 0:
        return value
    layers = (Layer(tuple(axis + ahead for axis in one.axes), one.labels) for one in value.layers)
    return Value((1,) * ahead + value.shape, tuple(layers))


def _bare(meta: Any) -> Any:
    if hasattr(meta, "shape") and hasattr(meta, "dtype"):
        return Value(tuple(meta.shape))
    if isinstance(meta, (tuple, list)):
        return tuple(_bare(part) for part in meta)
    return {key: _bare(part) for key, part in meta.items()} if isinstance(meta, dict) else None
