"""Which channels of a graph can go together, as groups of classes that are alternatives to each other.

    channels = Channels(graph_module)
    for group in channels.groups:
        print(group.name, group.width, len(group.free))

A class is what can only go together: one output of a conv, the entries of its norm, the columns that read it. A group
is the classes of one axis: the 64 outputs of a conv and all that is joined with them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import fx

from fxprune.facts.shapes import META, metadata_in
from fxprune.structures.channels.labels import NONE, Array, Labels, Reason
from fxprune.structures.channels.rules.table import rule
from fxprune.structures.channels.values import values_in
from fxprune.structures.channels.walk import Walk

LEAST = 2
"""How many classes of an axis stay at least: an axis of size 1 would be broadcast."""


@dataclass(frozen=True)
class Group:
    """Classes that are alternatives to each other.

    Attributes:
        name: the path of the layer that makes them, the first one in the graph.
        classes: all of them, each by its smallest label, in the order of the channels.
        pinned: why some of them stay, by class.
    """

    name: str
    classes: tuple[int, ...]
    pinned: Mapping[int, Reason]

    @property
    def width(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    @cached_property
    def free(self) -> tuple[int, ...]:
        """The classes that can go."""
        return tuple(one for one in self.classes if one not in self.pinned)


class Channels:
    """The channels of one graph, as it is now.

    Args:
        graph_module: a traced graph, or a region.
        whole: of grouped convs, norms and heads whole groups go, and not the same channels of each.
        approximate: layer norms may lose channels: their statistics are of the others then.
    """

    def __init__(self, graph_module: fx.GraphModule, *, whole: bool = False, approximate: bool = False) -> None:
        self.graph_module = graph_module
        self.walk = Walk(graph_module, whole=whole, approximate=approximate)
        self.walk.run(rule)
        self.walk.settle_all()
        self._pin_short_axes()

    @property
    def labels(self) -> Labels:
        """The labels that classes are made of."""
        return self.walk.labels

    @cached_property
    def class_of(self) -> Array:
        """The class of each label."""
        return self.labels.find(np.arange(len(self.labels), dtype=np.int64))

    @cached_property
    def reasons(self) -> dict[int, Reason]:
        """Why classes stay, by class."""
        return self.labels.reasons()

    @cached_property
    def axes(self) -> list[tuple[fx.Node, Array]]:
        """The classes along each axis that has labels, and who computes it: of every one some must stay."""
        found: dict[int, tuple[fx.Node, Array]] = {}
        for node, nest in (*self.walk.values.items(), *self.walk.hidden.items()):
            for value in values_in(nest):
                for layer in value.layers:
                    found.setdefault(id(layer.labels), (node, layer.labels))
        return [(node, classes) for node, one in found.values() for classes in self._along_axes(one)]

    def _along_axes(self, labels: Array) -> Iterator[Array]:
        classes = self.labels.find(labels)
        if classes.ndim == 1:
            yield np.unique(classes)
            return
        for place in range(classes.ndim):
            rows = np.moveaxis(classes, place, 0).reshape(classes.shape[place], -1)
            if (rows == rows[:, :1]).all():
                yield np.unique(rows[:, 0])

    def _pin_short_axes(self) -> None:
        """Have what is one of two classes of an axis, or the only one, stay."""
        for node, classes in self.axes:
            if len(classes) <= LEAST:
                self.labels.pin(classes[classes != NONE], Reason(node, "has no more than two channels"))

    def spared(self, gone: Collection[int], worth: Array | np.ndarray) -> set[int]:
        """Return ``gone`` without those of which an axis would have too few left: what is worth most stays."""
        found = set(gone)
        for _, classes in sorted(self.axes, key=lambda one: len(one[1])):  # parts first: they serve the whole too
            going = [one for one in classes.tolist() if one in found]
            missing = LEAST - (len(classes) - len(going))
            if missing > 0:
                found.difference_update(sorted(going, key=lambda one: -worth[one])[:missing])
        return found

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """All groups, in the order of the graph; those of which nothing can go too."""
        components = Labels()
        components.fresh(len(self.labels))
        reason = Reason(next(iter(self.graph_module.graph.nodes)), "")
        for first, end in self.labels.ranges:
            classes = self.class_of[first:end]
            components.join(classes[:-1], classes[1:], reason)
        return tuple(self._groups_of(components))

    def _groups_of(self, components: Labels) -> Iterator[Group]:
        names = self._names
        members: dict[int, list[int]] = {}
        classes = np.unique(self.class_of[1:])
        for component, one in zip(components.find(classes).tolist(), classes.tolist(), strict=True):
            members.setdefault(component, []).append(one)
        for together in members.values():
            named = next((names[one] for one in together if one in names), None)
            if named is not None:
                pinned = {one: self.reasons[one] for one in together if one in self.reasons}
                yield Group(named, tuple(together), pinned)

    @cached_property
    def _names(self) -> dict[int, str]:
        """The layer that makes each class, by the path of its weight."""
        paths = {id(one): name for name, one in self.graph_module.named_parameters()}
        found: dict[int, str] = {}
        for tensor, axis in self.rows:
            path = paths.get(id(tensor), "").rpartition(".")[0]
            for one in self.walk.records.of(tensor).axes.get(axis, ()):
                for each in self.class_of[one].tolist():
                    found.setdefault(each, path)
        return found

    def classes_at(self, node: fx.Node) -> set[int]:
        """Return the classes of all that ``node`` reads and computes, of what its numbers were read from too."""
        nodes = [node, *node.all_input_nodes]
        for one in nodes:
            if one is not node and not metadata_in(one.meta.get(META)):
                nodes += [source for source in one.all_input_nodes if source not in nodes]
        values = [one for each in nodes for one in values_in(self.walk.values.get(each))]
        labels = [layer.labels.ravel() for value in values for layer in value.layers]
        return set(self.class_of[np.concatenate(labels)].tolist()) if labels else set()

    def name_of(self, label: int) -> str:
        """Return the path of the layer that makes a class; "" if none does."""
        return self._names.get(int(self.class_of[label]), "")

    @cached_property
    def outputs(self) -> dict[str, Array]:
        """The classes of each layer's output channels, by its path."""
        paths = {id(one): name.rpartition(".")[0] for name, one in self.graph_module.named_parameters()}
        return {
            paths[id(tensor)]: self.class_of[vectors[0]]
            for tensor, axis in self.rows
            for vectors in [self.walk.records.of(tensor).axes[axis]]
            if id(tensor) in paths
        }

    @cached_property
    def rows(self) -> list[tuple[torch.Tensor, int]]:
        """The weights that make channels, each with the axis of its rows."""
        columns = {(id(one.weight), one.axis) for one in self.walk.readers if one.weight is not None}
        return [
            (record.tensor, axis)
            for record in self.walk.records
            if record.tensor.dim() > 1
            for axis, vectors in record.axes.items()
            if vectors and (id(record.tensor), axis) not in columns
        ]

    def magnitudes(self) -> np.ndarray:
        """Return the L1 norm of the rows of each class, by label; 0 where it has none."""
        found = np.zeros(len(self.labels))
        for tensor, axis in self.rows:
            sums = tensor.detach().double().abs().flatten(1) if axis == 0 else tensor.detach().double().abs()
            total = sums.sum(1) if axis == 0 else sums.movedim(axis, 0).flatten(1).sum(1)
            for one in self.walk.records.of(tensor).axes[axis]:
                np.add.at(found, self.class_of[one], total.cpu().numpy())
        return found
