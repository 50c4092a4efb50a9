"""What a plan says, and the gates that stand for it while a network trains: each from the other.

closing = closing_of(plan, traced, gated)                  # SteeredL1(gated, closing=closing, meet_after=4000)
...
plan_of(traced, gated, shrink.closed_in_turn).save("plan.json")
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import fx

from fxprune.choosing.channel_choice import by_indices, require_left
from fxprune.choosing.fingerprint import fingerprint
from fxprune.choosing.planned_sites import PlannedSite, planned_channels
from fxprune.choosing.remaining import Remaining, Site
from fxprune.choosing.sites import ChannelSite
from fxprune.choosing.targets import Targets
from fxprune.errors import FxpruneError, FxpruneValueError, did_you_mean
from fxprune.pipelines.chains import insert_scales
from fxprune.pipelines.result import PipelineResult
from fxprune.pruning.layer_sites import name_of, names_of_layers
from fxprune.pruning.pruning_plan import PruningPlan
from fxprune.structures.channel_chunk import Chunk
from fxprune.structures.gated_layers import Gate

_NOTHING = Targets()
_EMPTY = "the plan has nothing that could close: it is empty"


@dataclass(frozen=True)
class Closing:
    """Which gates close, in turn: each by its path, with the places of its channels; none of a layer's gate."""

    gates: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def digest(self) -> str:
        """What tells it from others, in a few letters."""
        return hashlib.sha256(repr(self.gates).encode()).hexdigest()[:12]

    def sites(self, remaining: Remaining, sizes: Mapping[str, int]) -> Iterator[Site]:
        """Yield what closes, in turn: of a group of channels so many at a time as ``sizes`` says, by path."""
        for path, places in self.gates:
            if not places:
                yield remaining.layers[path]
            for first in range(0, len(places), sizes.get(path, 1)):
                yield remaining.chunk(path, places[first : first + sizes[path]])


def shares_of(sites: Sequence[Site], remaining: Remaining) -> list[float]:
    """Return the share of each of all MACs that ``sites`` save in turn; equal ones where they save none."""
    saved = [remaining.saved([one], sites[:index])[one.path].macs for index, one in enumerate(sites)]
    whole = sum(saved)
    return [one / whole if whole > 0 else 1 / len(sites) for one in saved]


def closing_of(plan: PruningPlan, traced: fx.GraphModule, gated: fx.GraphModule) -> Closing:
    """Return the gates of ``gated``, which was made of ``traced``, that close for a plan, in its order.

    Raises:
        LoadError: it is a plan for another network; says where they differ.
        FxpruneValueError: something of it has no gate, or it says nothing.
    """
    plan.require_fits(traced)
    if (plan.groups, plan.statistics) != ("within", "exact"):
        raise FxpruneValueError(
            f"a plan of groups={plan.groups!r} and statistics={plan.statistics!r} cannot be trained to zero: gates "
            "are of 'within' and 'exact'; apply it before training"
        )
    reading = _Reading(Remaining(gated), traced)
    found = Closing(tuple(one for site in plan.sites for one in reading.read(site)))
    if not found.gates:
        raise FxpruneValueError(_EMPTY)
    reading.require_sense()
    return found


def require_alone(targets: Targets, **others: Any) -> None:
    """Raise FxpruneError if anything else says what goes beside a plan; ``others`` by name, as they were given."""
    given = [name for name, value in {"targets": not targets.is_empty, **others}.items() if value]
    if given:
        raise FxpruneError(f"a plan says what goes: leave {' and '.join(given)} out, or the plan")


def gated_for(plan: PruningPlan, traced: fx.GraphModule, *, verify: bool = True) -> tuple[PipelineResult, Closing]:
    """Return ``traced`` with gates on what a plan has, and those that close; raises as :func:`closing_of`."""
    plan.require_fits(traced)
    if not plan.what:
        raise FxpruneValueError(_EMPTY)
    inserted = insert_scales(traced, what=plan.what, verify=verify)
    return inserted, closing_of(plan, traced, inserted.graph_module)


class _Reading:
    """The gates that the sites of a plan mean."""

    def __init__(self, remaining: Remaining, traced: fx.GraphModule) -> None:
        names = names_of_layers(traced)
        self._layers = {(gate.kind, name_of(gate, names)): gate for gate in remaining.layers.values()}
        self._remaining = remaining
        self._sites = [remaining.site(path) for path in remaining.channels]
        self._channels = {site.region: site.channels for site in self._sites}
        self._places = {
            (site.region, one): (site.path, place)
            for site in self._sites
            for place, one in enumerate(site.group.classes.tolist())
            if one
        }
        self._closed: dict[str, set[int]] = {region: set() for region in self._channels}
        self._going: list[Gate] = []

    def read(self, site: PlannedSite) -> list[tuple[str, tuple[int, ...]]]:
        """Return the gates of a site, with the places of channels that were not read before."""
        if not site.indices:
            return []
        if site.kind == "channels":
            return self._read_channels(site)
        gate = self._layers.get((site.kind, site.path))
        if gate is None:
            hint = did_you_mean(site.path, [name for kind, name in self._layers if kind == site.kind])
            raise FxpruneValueError(f"the {site.kind} {site.path} of the plan is not there, or has no gate{hint}")
        if gate in self._going:
            return []
        self._going.append(gate)
        return [(gate.path, ())]

    def _read_channels(self, site: PlannedSite) -> list[tuple[str, tuple[int, ...]]]:
        found: dict[str, list[int]] = {}
        asked = by_indices([*self._channels.items()], {site.path: site.indices})
        for (region, channels), classes in zip(self._channels.items(), asked, strict=True):
            for one, (path, index) in classes.items():
                if channels.stays[one]:
                    reason = channels.reasons.get(one)
                    raise FxpruneValueError(f"channel {index} of {path} in the plan cannot go: {reason}")
                if one not in self._closed[region] and (region, one) in self._places:  # nobody reads the others
                    gate, place = self._places[region, one]
                    found.setdefault(gate, []).append(place)
                    self._closed[region].add(one)
        return [(gate, tuple(places)) for gate, places in found.items()]

    def require_sense(self) -> None:
        """Raise FxpruneValueError where too little of an axis is left, or a conv joins channels that go."""
        for region, channels in self._channels.items():
            require_left(channels, self._closed[region])
        for gate in self._going:
            if not self._remaining.joined_without(gate).isdisjoint(self._closed.get(gate.region, ())):
                raise FxpruneValueError(
                    f"the plan has {gate.subject} and channels that it reads or makes, which would be joined: "
                    "leave one of the two"
                )


def plan_of(
    traced: fx.GraphModule,
    gated: fx.GraphModule,
    closed: Sequence[Site],
    criterion: str = "",
    targets: Targets = _NOTHING,
) -> PruningPlan:
    """Return as a plan for ``traced`` what was closed in ``gated``, which was made of it.

    Args:
        traced: what :func:`fxprune.trace` returned.
        gated: the graph with gates.
        closed: its gates of layers, and chunks of channels, that are zero for good, in the order of the plan.
        criterion, targets: for a person.
    """
    names = names_of_layers(traced)
    remaining = Remaining(gated)
    layers = [one for one in closed if isinstance(one, Gate)]
    inside = {one.path for one in layers if any(one.nodes < other.nodes for other in layers)}
    nodes: set[fx.Node] = set().union(*(one.nodes for one in layers))
    sites = {path: remaining.site(path) for path in remaining.channels}
    gone = _classes([one for one in closed if isinstance(one, Chunk)], sites)
    for layer in layers:
        gone[layer.region] = gone.get(layer.region, set()) - remaining.joined_without(layer)
    found: list[PlannedSite] = []
    for one in closed:
        if isinstance(one, Gate):
            found += [] if one.path in inside else [PlannedSite(one.kind, name_of(one, names), 1, (0,))]
            continue
        site = sites[one.path]
        mine = gone[site.region] & set(site.group.classes[list(one.places)].tolist())
        found += _named(site, mine, nodes)
    return PruningPlan(found, fingerprint(traced), criterion, targets)


def _classes(closed: Sequence[Chunk], sites: Mapping[str, ChannelSite]) -> dict[str, set[int]]:
    """Return by region the classes of what was closed, without those that an axis needs."""
    found: dict[str, set[int]] = {}
    for one in closed:
        site = sites[one.path]
        classes = site.group.classes[list(one.places)].tolist()
        found.setdefault(site.region, set()).update(each for each in classes if each)
    channels = {site.region: site.channels for site in sites.values()}
    return {
        region: channels[region].spared(classes, np.zeros(len(channels[region].labels)))
        for region, classes in found.items()
    }


def _named(site: ChannelSite, classes: Collection[int], gone: Collection[fx.Node]) -> list[PlannedSite]:
    """Return what names ``classes`` of a group, by layers that stay."""
    graph = site.channels.graph_module.graph
    without = {str(node.target) for node in gone if node.graph is graph}
    worth = np.zeros(len(site.channels.labels))
    return [replace(one, scores=()) for one in planned_channels(site.channels, classes, worth, site.region, without)]
