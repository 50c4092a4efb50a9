"""Which channels of a graph can go together, as groups of classes that are alternatives to each other.

    channels = Channels(graph_module)
    for group in channels.groups:
        print(group.name, group.width, len(group.free))

A class is what can only go together: one output of a conv, the entries of its norm, the columns that read it. A group
is the classes of one axis: the 64 outputs of a conv and all that is joined with them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from fxprune.facts.shapes import META, metadata_in
from fxprune.gates.base import Gated
from fxprune.ir.module_tree import every_tensor
from fxprune.ir.nodes import called_modules
from fxprune.structures.channels.labels import LEAST, NONE, Array, Labels, Reason
from fxprune.structures.channels.rules.table import rule
from fxprune.structures.channels.settling import settle_all
from fxprune.structures.channels.values import values_in
from fxprune.structures.channels.walk import Walk


@dataclass(frozen=True, eq=False)
class Group:
    """Classes that are alternatives to each other.

    Attributes:
        name: the path of the layer that makes them, the first one in the graph.
        classes: all of them, each by its smallest label, in the order of the channels.
        free: those that can go.
    """

    name: str
    classes: Array
    free: Array

    @property
    def width(self) -> int:
        """How many classes there are."""
        return len(self.classes)


class Channels:
    """The channels of one graph, as it is now.

    Args:
        graph_module: a traced graph, or a region.
        whole: of grouped convs, norms and heads whole groups go, and not the same channels of each.
        approximate: layer norms may lose channels: their statistics are of the others then.
        gated: of a graph with gates of layers the channels are asked for that there are without these, for gates of
            their own and what they cost; nothing can be cut of such a graph.
    """

    def __init__(
        self, graph_module: fx.GraphModule, *, whole: bool = False, approximate: bool = False, gated: bool = False
    ) -> None:
        self.graph_module = graph_module
        self.walk = Walk(graph_module, whole=whole, approximate=approximate, gated=gated)
        self.walk.run(rule)
        settle_all(self.walk)
        self._pin_short_axes()

    @property
    def labels(self) -> Labels:
        """The labels that classes are made of."""
        return self.walk.labels

    @cached_property
    def class_of(self) -> Array:
        """The class of each label."""
        return self.labels.classes

    @cached_property
    def reasons(self) -> dict[int, Reason]:
        """Why classes stay, by class."""
        return self.labels.reasons()

    @cached_property
    def axes(self) -> list[tuple[fx.Node, Array]]:
        """The classes along each axis that has labels, and who is first to have them: of every one some must stay."""
        arrays: dict[int, tuple[fx.Node, Array]] = {}
        for node, nest in (*self.walk.values.items(), *self.walk.hidden.items()):
            for value in values_in(nest):
                for layer in value.layers:
                    arrays.setdefault(id(layer.labels), (node, layer.labels))
        found: dict[bytes, tuple[fx.Node, Array]] = {}
        for node, labels in arrays.values():
            for classes in self._along_axes(labels):
                found.setdefault(classes.tobytes(), (node, classes))
        return list(found.values())

    def _along_axes(self, labels: Array) -> Iterator[Array]:
        classes = self.class_of[labels]
        if classes.ndim == 1:
            yield _distinct(classes)
            return
        for place in range(classes.ndim):
            rows = np.moveaxis(classes, place, 0).reshape(classes.shape[place], -1)
            if (rows == rows[:, :1]).all():
                yield _distinct(rows[:, 0])

    def _pin_short_axes(self) -> None:
        """Have what is one of two classes of an axis, or the only one, stay."""
        for node, classes in self.axes:
            if len(classes) <= LEAST:
                self.labels.pin(classes[classes != NONE], Reason(node, "has no more than two channels"))

    def flagged(self, classes: Collection[int]) -> NDArray[np.bool_]:
        """Return, by class, whether it is one of ``classes``."""
        found = np.zeros(len(self.labels), dtype=bool)
        found[np.fromiter(classes, dtype=np.int64, count=len(classes))] = True
        return found

    def spared(self, gone: Collection[int], worth: NDArray[np.float64]) -> set[int]:
        """Return ``gone`` without those of which an axis would have too few left: what is worth most stays."""
        goes = self.flagged(gone)
        for _, classes in sorted(self.axes, key=lambda one: len(one[1])):  # parts first: they serve the whole too
            going = classes[goes[classes]]
            missing = LEAST - (len(classes) - len(going))
            if missing > 0:
                goes[going[np.argsort(-worth[going], kind="stable")[:missing]]] = False
        self._let_go(goes, np.flatnonzero(self.flagged(gone) & ~goes), worth)
        return set(np.flatnonzero(goes).tolist())

    def _let_go(self, goes: NDArray[np.bool_], spared: Array, worth: NDArray[np.float64]) -> None:
        """Have those of ``spared`` go that no axis needs: parts that overlap may each have spared their own."""
        if not len(spared):
            return
        axes = [classes for _, classes in self.axes if np.isin(classes, spared).any()]
        for one in spared[np.argsort(worth[spared], kind="stable")]:
            mine = [classes for classes in axes if one in classes]
            if all(np.count_nonzero(~goes[classes]) > LEAST for classes in mine):
                goes[one] = True

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """All groups, in the order of the graph; those of which nothing can go too."""
        components = Labels()
        labels = components.fresh(len(self.labels) - 1)
        starts = [first for first, end in self.labels.ranges if first < end]
        second = np.delete(labels, np.array(starts, dtype=np.int64) - 1)  # those that were made with the one before
        reason = Reason(next(iter(self.graph_module.graph.nodes)), "")
        components.join(self.class_of[second - 1], self.class_of[second], reason)
        classes = labels[self.class_of[labels] == labels]
        component = components.find(classes)
        order = np.argsort(component, kind="stable")
        together = np.split(classes[order], np.flatnonzero(np.diff(component[order])) + 1)
        return tuple(group for one in together for group in self._group_of(one))

    def _group_of(self, classes: Array) -> Iterator[Group]:
        """Yield the group of ``classes``, if a layer makes any of them."""
        makers = self._makers[classes]
        if (makers >= 0).any():
            path = self._paths[int(makers[makers >= 0][0])]
            yield Group(path, classes, classes[~self.stays[classes]])

    @cached_property
    def stays(self) -> NDArray[np.bool_]:
        """Which classes stay, by class."""
        return self.labels.pinned()

    def all_stay(self, vectors: Iterable[Array]) -> bool:
        """Say whether no class of these labels can go."""
        return all(self.stays[self.class_of[one]].all() for one in vectors)

    @cached_property
    def _makers(self) -> Array:
        """Which of :attr:`rows` is the first that makes a class, by class; -1 if none does."""
        found = np.full(len(self.labels), -1, dtype=np.int64)
        for index, (tensor, axis) in reversed(list(enumerate(self.rows))):
            for one in self.walk.records.of(tensor).axes[axis]:
                found[self.class_of[one]] = index
        return found

    @cached_property
    def _paths(self) -> list[str]:
        """The path of the layer of each of :attr:`rows`: of what a gate wraps that of the gate."""
        named = every_tensor(self.graph_module, "_parameters")
        paths = {id(one): name.rpartition(".")[0] for name, one in named.items()}
        calls = called_modules(self.graph_module).items()
        gates = [(str(node.target), module) for node, module in calls if isinstance(module, Gated)]
        inside = {f"{path}.{name}": path for path, module in gates for name in module._modules}
        found = [paths.get(id(tensor), "") for tensor, _ in self.rows]
        return [inside.get(path, path) for path in found]

    def classes_at(self, node: fx.Node) -> set[int]:
        """Return the classes of all that ``node`` reads and computes, of what its numbers were read from too."""
        nodes = [node, *node.all_input_nodes]
        for one in nodes:
            if one is not node and not metadata_in(one.meta.get(META)):
                nodes += [source for source in one.all_input_nodes if source not in nodes]
        values = [one for each in nodes for one in values_in(self.walk.values.get(each))]
        labels = [layer.labels.ravel() for value in values for layer in value.layers]
        return set(self.class_of[np.concatenate(labels)].tolist()) if labels else set()

    def name_of(self, one: int) -> str:
        """Return the path of the layer that makes a class; "" if none does."""
        maker = int(self._makers[one])
        return self._paths[maker] if maker >= 0 else ""

    @cached_property
    def outputs(self) -> dict[str, Array]:
        """The classes of each layer's output channels, by its path."""
        return {
            path: self.class_of[self.walk.records.of(tensor).axes[axis][0]]
            for path, (tensor, axis) in zip(self._paths, self.rows, strict=True)
            if path
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


def _distinct(classes: Array) -> Array:
    """Return the classes in order, each once: mostly as they are."""
    if (classes[1:] > classes[:-1]).all():
        return classes
    ordered = np.sort(classes)
    return ordered[np.diff(ordered, prepend=-1) > 0]
