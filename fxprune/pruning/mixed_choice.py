"""Layers, and channels beside them, in one ranking: each by its score over what it saves of what has a target.

What is first in the ranking bars what it excludes. A conv that goes joins the channels of its input with those of its
output, so either it goes, or channels of these groups; what lies in a branch that goes is gone with it. Of n channels
of a group the score of the k-th to go counts n / (n - k + 1) times: what is left of a group is worth more the less it
is, as in LAMP (Lee et al., arXiv 2010.07611); that it is used beside layers is ours.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from torch import fx

from fxprune.choosing.channel_amounts import Amount
from fxprune.choosing.channel_ranking import ALL, ChannelRanking, Field, weights_of
from fxprune.choosing.channel_scores import normalized
from fxprune.choosing.channel_targets import Gone, Left, balances, lost, lowest
from fxprune.choosing.named import known_criteria, made
from fxprune.choosing.planned_sites import PlannedSite, planned_channels
from fxprune.choosing.samples import Samples
from fxprune.costs.activation_memory import activation_bytes
from fxprune.errors import FxpruneError, TargetError
from fxprune.facts.ranges import bounds_of_values
from fxprune.gates.words import told_by_kind
from fxprune.passes import RemoveChannels
from fxprune.passes.chains import AFTER_TRAINING
from fxprune.pipelines import KIND_OF
from fxprune.pipelines.pipeline import Pipeline
from fxprune.pruning.layer_sites import gates_by_name, removing
from fxprune.structures.channels.groups import Group
from fxprune.structures.channels.values import values_in
from fxprune.structures.gated_layers import layers as gates_that_go
from fxprune.structures.idle_activations import idle_without

_TRIES = 8


@dataclass(eq=False)
class Layer:
    """A conv or a branch that may go.

    ``nodes`` are those of the graph, and ``idle`` those that its removal leaves nothing to do: the sum of a branch,
    and activations. ``level`` is its place in the ranking.
    """

    kind: str
    name: str
    region: str
    nodes: frozenset[fx.Node]
    idle: frozenset[fx.Node]
    score: float
    level: float = np.inf


class _Choice(NamedTuple):
    """What may be chosen, and the sum of the scores that are lost with it."""

    lost: float
    gone: list[set[int]]
    layers: list[Layer]


class Mixed:
    """Chooses layers, and channels if these are among ``sites``.

    Args:
        graph_module: the traced graph.
        graphs: copies of it and of its regions, which ``step`` looks at.
        sites: some of "convs", "branches" and "channels".
        step: how channels are chosen; its criterion scores layers too.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        graphs: Sequence[tuple[str, fx.GraphModule]],
        sites: Collection[str],
        step: RemoveChannels,
    ) -> None:
        self._graph_module = graph_module
        self._graphs = dict(graphs)
        self.step = step
        self._has_channels = "channels" in sites
        self.layers = list(self._found({KIND_OF[one] for one in sites if one != "channels"}))
        self.taken: list[Layer] = []
        if not self.layers and not self._has_channels:
            raise FxpruneError(f"the model has no {' or '.join(sites)} that may go; fxprune inspect tells why")

    def _found(self, kinds: Collection[str]) -> Iterator[Layer]:
        """Yield the layers that the user does not keep, with their scores."""
        nodes = {}
        for region, graph in self._graphs.items():
            prefix = f"{region}." if region else ""
            bounds = bounds_of_values(graph) if self.step.amount.targets.is_timed else {}
            for site in self.step.kept.conv_sites(graph, region):
                if site.eligible:
                    own = (site.node,) if site.norm is None else (site.node, site.norm)
                    idle = idle_without(own[-1], site.node.all_input_nodes[0], bounds)
                    nodes["conv", prefix + (site.path or site.node.name)] = region, frozenset(own), idle
            for branch in self.step.kept.branches(graph, region):
                if branch.eligible:
                    idle = idle_without(branch.addition, branch.shortcut, bounds) | {branch.addition}
                    nodes["branch", prefix + branch.path] = region, frozenset(branch.nodes), idle
        gated, known = gates_by_name(self._graph_module, kinds)
        gates = {key: gate for key, gate in known.items() if key in nodes}
        criterion = made(self.step.criterion, known_criteria(), "criterion")
        self._is_marginal = criterion.is_marginal
        samples = Samples.of(self._graph_module, self.step.data)
        with criterion.measuring(gated, gates_that_go(gated), samples) as missed:
            for (kind, name), gate in gates.items():
                score = normalized(np.array([missed(gate)]), self.step.normalize or "none")[0]
                yield Layer(kind, name, *nodes[kind, name], float(score))

    def choose(self, fields: Sequence[Field], amount: Amount, left: Left) -> list[set[int]]:
        """Return the classes that go, by graph; :attr:`taken` are the layers. Raises as for channels alone."""
        if not self._has_channels:
            for one in fields:
                one.bar(range(len(one.stays)))
        left.peak = lambda gone: self._peak(fields, gone)
        amount = replace(amount, scope="global")
        found: list[_Choice] = []
        refused: list[TargetError] = []
        for balance in balances(amount):
            try:
                found += self._enough(fields, ChannelRanking(fields, amount, balance), left)
            except TargetError as error:  # what goes first excludes others
                refused.append(error)
        if not found:
            raise refused[0]
        best = min(found, key=lambda one: one.lost)
        self._take(best.layers, left)
        return best.gone

    def _enough(self, fields: Sequence[Field], ranking: ChannelRanking, left: Left) -> Iterator[_Choice]:
        """Yield what goes up to the lowest level that meets the targets, and without a layer that it ends with.

        Another that comes later may overshoot less. Raises TargetError if nothing is enough.
        """
        levels = [0.0, *self._merge(fields, ranking, left)]

        def at(level: float) -> list[set[int]]:
            self._take([one for one in self.layers if one.level <= level], left)
            return ranking.at(level)

        unmet = left.unmet(at(ALL))
        if unmet:
            raise left.refusal(unmet, self._told(at(ALL)))
        for _ in range(_TRIES):
            level = lowest(levels, lambda level: not left.unmet(at(level)))
            gone = at(level)
            yield _Choice(lost(fields, gone) + sum(one.score for one in self.taken), gone, self.taken)
            last = next((one for one in self.taken if one.level == level), None)
            if last is None:
                return
            last.level = np.inf
            if left.unmet(at(ALL)):
                return

    def _take(self, taken: list[Layer], left: Left) -> None:
        self.taken = taken
        left.without = frozenset().union(*(one.nodes | one.idle for one in taken))

    def _merge(self, fields: Sequence[Field], ranking: ChannelRanking, left: Left) -> list[float]:
        """Give layers and classes levels in one ranking; return these in order."""
        items: list[tuple[float, Layer | tuple[int, int]]] = [
            (one.score / max(self._saved(one, ranking.balance, left), 1e-12), one) for one in self.layers
        ]
        for index, levels in enumerate(ranking.levels):
            for group in fields[index].channels.groups:
                free = group.free[np.isfinite(levels[group.free])]
                classes = free[np.argsort(levels[free], kind="stable")]
                rarer = 1.0 if self._is_marginal else group.width / (group.width - np.arange(len(classes)))
                keys = (ranking.key(index, classes) * rarer).tolist()
                items += [(key, (index, one)) for key, one in zip(keys, classes.tolist(), strict=True)]
            levels[:] = np.inf
        items.sort(key=lambda item: item[0])
        beside = _Beside(fields)
        for one in self.layers:
            one.level = np.inf
        found = []
        for place, (_, item) in enumerate(items, start=1):
            level = place / len(items)
            if isinstance(item, Layer):
                if beside.takes_layer(item):
                    item.level = level
                    found.append(level)
            elif beside.takes_class(*item):
                ranking.levels[item[0]][item[1]] = level
                found.append(level)
        return found

    def _saved(self, layer: Layer, balance: float, left: Left) -> float:
        """Return the sum of its shares of all that has a target."""
        place = list(self._graphs).index(layer.region)
        shares = left.shares_with(place, layer.nodes | layer.idle)
        return sum(weight * shares[name] for name, weight in weights_of(self.step.amount.targets, balance).items())

    def _told(self, gone: Gone) -> str:
        count = sum(map(len, gone))
        kinds = [one.kind for one in self.taken]
        told = [told_by_kind({kind: kinds.count(kind) for kind in dict.fromkeys(kinds)})] if kinds else []
        return " and ".join([*told, *([f"{count:,} channels"] if count else [])])

    def _peak(self, fields: Sequence[Field], gone: Gone) -> float:
        """Return the most bytes that activations take at a time in what would be emitted without all that goes."""
        indices = {
            site.path: site.indices
            for one, classes in zip(fields, gone, strict=True)
            for site in planned_channels(one.channels, classes, one.worth, one.region)
        }
        step = self.step
        cut = RemoveChannels(indices=indices, groups=step.groups, statistics=step.statistics) if indices else None
        steps = removing(self._graph_module, cut, {kind: self.names(kind) for kind in ("conv", "branch")})
        plain = Pipeline([*steps, *AFTER_TRAINING], verify=False)(self._graph_module).graph_module
        return max(activation_bytes(plain).values(), default=0)

    def names(self, kind: str) -> list[str]:
        """Return what plans call the layers of a kind that are taken."""
        return [one.name for one in self.taken if one.kind == kind]

    def planned(self) -> list[PlannedSite]:
        """Return the layers that are taken, as a plan has them."""
        return [PlannedSite(one.kind, one.name, 1, (0,), (float(f"{one.score:.4g}"),)) for one in self.taken]

    def gone_layers(self) -> Mapping[str, Collection[str]]:
        """Return the paths of the layers that go with what is taken, by region."""
        found: dict[str, set[str]] = {}
        for one in self.taken:
            found.setdefault(one.region, set()).update(str(node.target) for node in one.nodes)
        return found


class _Beside:
    """What can still go beside what went before."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self._fields = {one.region: (index, one) for index, one in enumerate(fields)}
        self._group = [
            {each: group for group in one.channels.groups for each in group.classes.tolist()} for one in fields
        ]
        self._cut: set[Group] = set()
        self._tied: set[Group] = set()
        self._inside: list[set[int]] = [set() for _ in fields]
        self._gone: set[fx.Node] = set()

    def takes_class(self, index: int, one: int) -> bool:
        """Say whether a class can go, and have it go."""
        group = self._group[index][one]
        if group in self._tied or one in self._inside[index]:
            return False
        self._cut.add(group)
        return True

    def takes_layer(self, layer: Layer) -> bool:
        """Say whether a layer can go, and have it go."""
        if layer.nodes <= self._gone:
            return False
        index, field = self._fields[layer.region]
        if layer.kind == "conv":
            tied = {self._group[index].get(each) for node in layer.nodes for each in field.channels.classes_at(node)}
            groups = {group for group in tied if group is not None}
            if groups & self._cut:
                return False
            self._tied |= groups
        else:
            self._inside[index] |= _inner(field, layer.nodes)
        self._gone |= layer.nodes
        return True


def _inner(field: Field, nodes: frozenset[fx.Node]) -> set[int]:
    """Return the classes that nothing outside of ``nodes`` has."""
    inside = np.zeros(len(field.stays), dtype=bool)
    outside = inside.copy()
    for node, nest in field.channels.walk.values.items():
        flags = inside if node in nodes else outside
        for value in values_in(nest):
            for layer in value.layers:
                flags[field.channels.class_of[layer.labels.ravel()]] = True
    return set(np.flatnonzero(inside & ~outside).tolist())
