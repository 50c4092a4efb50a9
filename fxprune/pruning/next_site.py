"""Which layer, or which channels, go next while a network trains: what is missed least for what it saves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Any

from torch import fx

from fxprune.choosing.chunks import Chunks
from fxprune.choosing.criteria.half_gate import HalfGate
from fxprune.choosing.named import known_criteria, known_searches, made
from fxprune.choosing.plan import Plan
from fxprune.choosing.remaining import Remaining, Site
from fxprune.choosing.samples import Samples
from fxprune.choosing.targets import Targets
from fxprune.errors import TargetError
from fxprune.facts.shapes import shape
from fxprune.pruning.kept_sites import KeptSites
from fxprune.pruning.surplus import Surplus
from fxprune.structures.channel_chunk import Chunk
from fxprune.structures.channels.running import Worth
from fxprune.structures.gated_layers import Gate

Left = dict[str, Site]
Comparing = Callable[[int, int], None]


class NextSite:
    """Picks what closes next, as :class:`fxprune.SteeredL1` says.

    Args:
        remaining: what a graph with gates costs without some of its sites.
        sites: what is left of these: they are compared in the graph as it is trained now, which may have been cut.
        targets: the shares to leave.
        plan: by which criterion sites are compared, how the next is searched, how many channels close together.
        probe: the inputs on which sites are compared.
        training: it trains already, see :class:`fxprune.pruning.surplus.Surplus`.

    Attributes:
        criterion, within, search: what the plan names.
        surplus: what the graph has beyond its targets.
        chunks: the channels of each group that would be next.
        damages: how much sites were missed when they were last compared, by path.
        no_relief: the paths of those that did not lower the peak of memory.
    """

    def __init__(
        self,
        remaining: Remaining,
        sites: KeptSites,
        targets: Targets,
        plan: Plan,
        probe: tuple[Any, ...],
        *,
        training: bool = False,
    ) -> None:
        self._remaining, self.sites, self._targets = remaining, sites, targets
        self._samples = Samples.of_inputs(probe)
        self.criterion = made(plan.criterion, known_criteria(), "criterion")
        self.within = made(plan.within, known_criteria(), "criterion")
        self.search = made(plan.search, known_searches(), "search")
        self.chunks = Chunks(remaining, plan.chunk, plan.multiple_of)
        self.surplus = self._surplus = Surplus(remaining.graph_module, targets, remaining, training=training)
        saved = remaining.saved(self.first(), ())
        self._params = {path: max(1.0, cost.params) for path, cost in saved.items()}
        self.damages: dict[str, float] = {}
        self.no_relief: set[str] = set()

    def limit_time(self, milliseconds: float | None) -> None:
        """Take over what a target of time is in milliseconds, as the clock of another run measured it."""
        if self._surplus.time is not None and milliseconds is not None:
            self._surplus.time.limit = milliseconds

    def first(self) -> list[Site]:
        """Return all layers, and a chunk of each group."""
        return [*self._remaining.layers.values(), *self.chunks.first()]

    def beside(self, chosen: Sequence[Site], comparing: Comparing) -> tuple[Site, float]:
        """Return what goes next beside ``chosen``, and its share of all that is to be saved.

        ``comparing`` is told before each site is compared; raises TargetError if nothing is left.
        """
        left = self.left_beside(chosen)
        with self.criterion.measuring(self.sites.graph_module, self.sites.gates, self._samples) as missed:
            path = self._searched(left, chosen, self._of_sites(missed), comparing)
        return left[path], self._surplus.shares(left.values(), chosen)[path]

    def measured(self, site: Site) -> Site:
        """Return ``site``, a layer with the units that it has where layers are compared, if it is left there."""
        if isinstance(site, Gate) and self.sites.is_left(site):
            now = self.sites.now(site)
            assert isinstance(now, Gate)
            with self.criterion.measuring(self.sites.graph_module, [now], self._samples) as missed:
                missed(now)
        return site

    def left_beside(self, chosen: Sequence[Site]) -> Left:
        """Return by path what may still go: what lies in a chosen branch goes with it; of a group the next chunk."""
        gone: set[fx.Node] = set().union(*(one.nodes for one in chosen))
        taken = {one.path for one in chosen if isinstance(one, Gate)}
        layers = [
            layer
            for path, layer in self._remaining.layers.items()
            if layer.node not in gone and path not in taken and self.sites.is_left(layer)
        ]
        chunks: list[Chunk] = []
        if self._remaining.channels:
            worth = self._worth()
            closed: dict[str, list[int]] = {}
            for one in chosen:
                if isinstance(one, Chunk):
                    closed.setdefault(one.path, []).extend(one.places)
            chunks = [one for one in self.chunks.after(closed, worth) if self.sites.is_left(one)]
            saved = self._remaining.saved(chunks, chosen)  # nothing where all that reads a group is gone
            chunks = [one for one in chunks if any(saved[one.path])]
        left = {one.path: one for one in self._compatible([*layers, *chunks], chosen)}
        if not left:
            raise TargetError(f"the targets cannot be met, {self._targets}: no layer is left to remove; ask for more")
        return left

    def _worth(self) -> dict[str, Worth]:
        """Return how much the channels of each group are missed beside each other, by place."""
        sites = self.sites.channel_sites()
        with self.within.measuring(self.sites.graph_module, sites, self._samples) as missed:
            known = {site.path: missed(site) for site in sites}
        return {path: self.sites.by_place(path, known.get(path)) for path in self._remaining.channels}

    def _of_sites(self, missed: Callable[[Any], Any]) -> Callable[[Any], float]:
        """Return what says of a layer or a chunk how much it is missed: a chunk as its channels are together."""

        def score(site: Site) -> float:
            now = self.sites.now(site)
            if isinstance(now, Gate) or isinstance(self.criterion, HalfGate):
                return float(missed(now))
            return float(missed(self.sites.channel_site(now.path))[list(now.places)].sum())

        return score

    def _compatible(self, sites: Sequence[Site], chosen: Sequence[Site]) -> list[Site]:
        """Return those of ``sites`` that can go beside what was chosen: a conv's removal ties channels together."""
        if not self._remaining.channels or not self._remaining.layers:
            return list(sites)
        tied: frozenset[int] = frozenset().union(
            *(self._remaining.joined_without(one) for one in chosen if isinstance(one, Gate))
        )
        cut = {int(label) for one in chosen if isinstance(one, Chunk) for label in one.classes}
        return [
            one
            for one in sites
            if (tied.isdisjoint(one.classes.tolist()) if isinstance(one, Chunk) else self._ties_none(one, cut))
        ]

    def _ties_none(self, layer: Gate, cut: Collection[int]) -> bool:
        return self._remaining.joined_without(layer).isdisjoint(cut)

    def _searched(
        self, left: Left, chosen: Sequence[Site], missed: Callable[[Any], float], comparing: Comparing
    ) -> str:
        """Return the path of the next: of those that relieve the memory, if that is asked for."""
        damage = cache(lambda path: missed(left[path]))
        weights = self._weights(left.values(), chosen)

        def search(weights: Mapping[str, float], may_go: Callable[[str], bool] = _is_candidate) -> str | None:
            return self.search.next_layer(weights, self.damages, damage, may_go, comparing)

        relieves = self.relief(left, chosen)
        path = search(weights, relieves or _is_candidate)
        if path is None:
            self.no_relief.clear()  # it takes more than one of them
            path = search(weights)
        assert path is not None
        if relieves is None and self._surplus.is_met([*chosen, left[path]]):
            beyond = self._surplus.overshoots(left.values(), chosen)
            path = search({one: weights[one] * beyond[one] for one in beyond}) or path
        return path

    def _weights(self, left: Collection[Site], chosen: Sequence[Site]) -> dict[str, float]:
        """Return by path what a site's damage counts times: the less it saves and can be learnt again, the more."""
        params, shares = self._surplus.params, self._surplus.shares(left, chosen)
        params_must_go = params is not None and params.excess(chosen) > 0
        alike = Counter(shape(one.node) for one in left if isinstance(one, Gate))
        weights = {}
        for one in left:
            share = max(shares[one.path], 1e-9)
            kept = 1.0 if params_must_go else (self._params[one.path] / share) ** 0.5
            many = alike[shape(one.node)] if isinstance(one, Gate) else self._many(one, chosen)
            weights[one.path] = kept / share / many
        return weights

    def _many(self, chunk: Chunk, chosen: Sequence[Site]) -> float:
        """Return how many chunks are left of a group."""
        gone = sum(len(one.places) for one in chosen if isinstance(one, Chunk) and one.path == chunk.path)
        return (chunk.gate.width - gone) / len(chunk.places)

    def relief(self, left: Left, chosen: Sequence[Site]) -> Callable[[str], bool] | None:
        """Return what says of a layer whether its removal brings memory nearer to its target; None if that is met."""
        if self._surplus.memory is None:
            return None
        memory = self._surplus.memory
        excess = memory.excess(chosen)

        def relieves(path: str) -> bool:
            if path not in self.no_relief and memory.excess([*chosen, left[path]]) >= excess:
                self.no_relief.add(path)  # the less is left, the less likely it will
            return path not in self.no_relief

        return relieves if excess else None


def _is_candidate(path: str) -> bool:
    return True
