"""The order in which channels go: by group, by stage, or all in one.

    level of a class = (its place in its pool + 1) / (the classes of the pool) / (the share of the pool that is to go)

The classes of a pool are in the order in which they are missed least. A pool is a group of channels where one share
holds everywhere (scope "uniform"), or all groups together (scope "global"). What has a level of 1 or less goes; for
targets the share is 1, and all goes up to the lowest level that meets them; of one level earlier groups go first.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import fx

from fxprune.choosing.channel_amounts import Amount
from fxprune.choosing.graph_costs import GraphCosts
from fxprune.choosing.keeping import matches
from fxprune.choosing.targets import Targets
from fxprune.costs.latency.latency_table import LatencyTable
from fxprune.costs.parameter_holders import Holders
from fxprune.structures.channels.groups import Channels, Group
from fxprune.structures.channels.labels import LEAST, Array

ALL = 1 + 1e-6  # ties are a little above 1
_NEVER = np.inf
_TIE = 1e-12  # far less than any two levels differ by


@dataclass(eq=False)
class Field:
    """The channels of one graph, among which is chosen.

    Attributes:
        region: the path of the graph, "" of the outermost one.
        silent: the classes that nobody reads.
        worth: how much each class is missed, by class; -inf where nobody reads it.
        stays: which classes stay, by class.
    """

    region: str
    channels: Channels
    silent: Collection[int] = ()
    worth: NDArray[np.float64] = field(init=False)
    stays: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.stays = self.channels.stays.copy()
        self.worth = np.zeros(len(self.channels.labels))
        self.worth[list(self.silent)] = -np.inf

    def score(self, group: Group, worth: NDArray[np.float64]) -> None:
        """Note how much the free classes of ``group`` are missed; what is infinite stays."""
        self.worth[group.free] = worth
        self.worth[list(self.silent)] = -np.inf
        self.bar(group.free[np.isposinf(self.worth[group.free])].tolist())

    def bar(self, classes: Collection[int]) -> None:
        """Have ``classes`` stay."""
        self.stays[list(classes)] = True

    def in_order(self, group: Group) -> Array:
        """Return the classes of ``group`` that may go: first what nobody reads, then what is missed least."""
        free = group.free[~self.stays[group.free]]
        return free[np.argsort(self.worth[free], kind="stable")]

    @cached_property
    def costs(self) -> GraphCosts:
        """What the graph costs; see :func:`count_together` for what several hold."""
        return GraphCosts(self.channels.graph_module, self.channels)

    @cached_property
    def makers(self) -> Mapping[Group, Sequence[str]]:
        """The paths of the layers that make the channels of each group."""
        owner = {one: group for group in self.channels.groups for one in group.classes.tolist()}
        found: dict[Group, list[str]] = {group: [] for group in self.channels.groups}
        for path, classes in self.channels.outputs.items():
            if len(classes) and int(classes[0]) in owner:
                found[owner[int(classes[0])]].append(f"{self.region}.{path}" if self.region else path)
        return found

    def channels_of_a_class(self, group: Group) -> int:
        """Return how many channels of a layer go with each class of ``group``, 1 where they differ."""
        found = 0
        for path in self.makers[group]:
            _, counts = np.unique(self.channels.outputs[_inside(path, self.region)], return_counts=True)
            found = math.gcd(found, *counts.tolist())
        return max(found, 1)


def count_together(fields: Sequence[Field], graph_module: fx.GraphModule, latency: LatencyTable | None) -> None:
    """Have the costs of ``fields`` be those of parts of ``graph_module``: what several of them hold counts once."""
    holders, counted = Holders(graph_module), set[int]()
    for one in fields:
        held = {key: found for key, found in holders.held(one.channels.graph_module).items() if key not in counted}
        counted |= held.keys()
        one.costs = GraphCosts(one.channels.graph_module, one.channels, held.values(), latency)


def weights_of(targets: Targets, balance: float) -> dict[str, float]:
    """Return by cost how much its savings count, 1 in all: ``balance`` that of others where parameters count too.

    Memory counts as MACs.
    """
    others = ["macs"] if targets.macs is not None or targets.memory is not None else []
    others += ["milliseconds"] if targets.is_timed else []
    of_others = 1.0 if targets.params is None else balance
    found = {name: of_others / len(others) for name in others}
    return found if targets.params is None else {**found, "params": 1 - balance if others else 1.0}


class ChannelRanking:
    """The channels of all graphs in the order in which they go; ``levels`` say when, by graph and class.

    ``balance`` is how much MACs matter beside parameters, where both have a target and the ranking is by savings.
    """

    def __init__(self, fields: Sequence[Field], amount: Amount, balance: float = 0.5) -> None:
        self._fields = fields
        self._amount = amount
        self.balance = balance
        self._steps: dict[Group, int] = {}
        self.levels = [np.full(len(one.channels.labels), _NEVER) for one in fields]
        for number, (share, pool) in enumerate(self._pools()):
            self._rank(share, pool, number * _TIE if not amount.targets.is_empty else 0.0)

    def _pools(self) -> Iterator[tuple[float, list[tuple[int, Group]]]]:
        """Yield what is ranked together, with the share that is to go."""
        left = [(index, group) for index, one in enumerate(self._fields) for group in one.channels.groups]
        for pattern, share in (self._amount.stages or {"": ALL}).items():
            mine = [one for one in left if not pattern or self._is_of(pattern, *one)]
            left = [one for one in left if one not in mine]
            yield from ((share, pool) for pool in ([mine] if self._amount.scope == "global" else [[x] for x in mine]))

    def _is_of(self, pattern: str, index: int, group: Group) -> bool:
        return any(matches((pattern,), path) for path in self._fields[index].makers[group])

    def _rank(self, share: float, pool: Sequence[tuple[int, Group]], later: float) -> None:
        """Set the levels of the classes of ``pool``: those of which ``least`` and ``multiple_of`` leave enough."""
        found: list[tuple[int, Array]] = []
        width = 0
        for index, group in pool:
            one = self._fields[index]
            classes = one.in_order(group)
            width += group.width if len(classes) else 0
            found.append((index, classes[: max(0, group.width - self._least(one, group))]))
        if not width:
            return
        keys = np.concatenate([self.key(index, classes) for index, classes in found])
        levels = np.empty(len(keys))
        levels[np.argsort(keys, kind="stable")] = (np.arange(len(keys)) + 1) / width / share + later
        starts = np.cumsum([0, *(len(classes) for _, classes in found)])
        for (index, classes), start in zip(found, starts, strict=False):
            self.levels[index][classes] = levels[start : start + len(classes)]

    def key(self, index: int, classes: Array) -> NDArray[np.float64]:
        """Return what the classes of several groups are ranked by: their worth, for targets over what each saves."""
        worth: NDArray[np.float64] = self._fields[index].worth[classes]
        return worth / self.saved[index][classes] if self._amount.scope == "global" else worth

    @cached_property
    def saved(self) -> list[NDArray[np.float64]]:
        """What each class saves, by graph and class: the sum of its shares of all that has a target."""
        found = [np.zeros(len(one.channels.labels)) for one in self._fields]
        weights = weights_of(self._amount.targets, self.balance)
        if not weights:
            return [np.ones_like(one) for one in found]
        each = [one.costs.of_each(len(one.channels.labels)) for one in self._fields]
        for name, weight in weights.items():
            whole = sum(getattr(one.costs.left(), name) for one in self._fields) or 1.0
            for saved, one in zip(found, each, strict=True):
                saved += one[name] / whole * weight
        return [np.maximum(one, np.finfo(float).tiny) for one in found]

    def _least(self, one: Field, group: Group) -> int:
        """Return how many classes of ``group`` stay at least."""
        least, step = self._amount.least, self._step(one, group)
        if least <= LEAST and step == 1 and self._amount.multiple_of == 1 and least >= 1:
            # of every axis two stay anyway, chosen together; a share of all groups is of those that can go
            return LEAST if self._amount.scope == "global" else 0
        size = one.channels_of_a_class(group)
        wanted = math.ceil(least * group.width) if least < 1 else math.ceil(least / size)
        return -(-max(wanted, LEAST) // step) * step

    def _step(self, one: Field, group: Group) -> int:
        """Return of what the number of classes of ``group`` that are left is a multiple."""
        if group not in self._steps:
            multiple = self._amount.multiple_of
            own = multiple // math.gcd(multiple, one.channels_of_a_class(group)) if multiple > 1 else 1
            self._steps[group] = one.costs.step(group.classes, own) if self._amount.targets.is_timed else own
        return self._steps[group]

    @cached_property
    def steps(self) -> NDArray[np.float64]:
        """All levels at which anything goes, in order."""
        found: NDArray[np.float64] = np.unique(np.concatenate([np.zeros(0), *self.levels]))
        return found[: int(np.isfinite(found).sum())]

    def at(self, level: float) -> list[set[int]]:
        """Return what goes up to ``level``, by graph, and what nobody reads: of every axis enough stays."""
        found = []
        for one, levels in zip(self._fields, self.levels, strict=True):
            silent = {each for each in one.silent if np.isfinite(levels[each])}
            gone = one.channels.spared(set(np.flatnonzero(levels <= level).tolist()) | silent, levels)
            found.append(self._rounded(one, gone, levels) if self._is_stepped else gone)
        return found

    @property
    def _is_stepped(self) -> bool:
        return self._amount.multiple_of > 1 or self._amount.targets.is_timed

    def _rounded(self, one: Field, gone: set[int], levels: NDArray[np.float64]) -> set[int]:
        """Return ``gone`` without those that go last of each group, so that a multiple is left, or all of it."""
        for group in one.channels.groups:
            mine = sorted(gone.intersection(group.classes.tolist()), key=lambda each: levels[each])
            too_few = -(group.width - len(mine)) % self._step(one, group)
            gone = gone.difference(mine[max(0, len(mine) - too_few) :]) if too_few else gone
        return gone


def _inside(path: str, region: str) -> str:
    return path.removeprefix(f"{region}.") if region else path
