"""What may go of a network, one thing at a time: each conv, each branch, and shares of each group of channels.

channels conv1, 25% of 64     the 16 that a criterion puts last, with all that goes with them
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import fx

from fxprune.choosing.channel_choice import kept_classes
from fxprune.choosing.channel_ranking import Field
from fxprune.choosing.channel_scores import site_scores
from fxprune.choosing.criteria.base import Criterion
from fxprune.choosing.keeping import Kept
from fxprune.choosing.planned_sites import PlannedSite, planned_channels
from fxprune.choosing.removal import sizes_of_untrained
from fxprune.choosing.samples import Samples
from fxprune.choosing.sites import sites_of
from fxprune.costs.macs import batch_size, node_macs
from fxprune.costs.parameter_holders import Holders
from fxprune.ir.nodes import graphs_of
from fxprune.pipelines import KIND_OF
from fxprune.pruning.layer_sites import gates_by_name
from fxprune.pruning.sensitivity.removal_runs import Run, WithoutLayer, without_channels
from fxprune.rewriting.cutting.cut import Cut
from fxprune.rewriting.cutting.sizes import Fault
from fxprune.structures.channels.groups import Channels, Group
from fxprune.structures.channels.labels import Array
from fxprune.structures.channels.reading import unread


@dataclass(frozen=True, eq=False)
class SingleRemoval:
    """One thing that may go.

    Attributes:
        kind, path: of what, as plans name it; of channels the path of the first layer that makes them.
        goes, width: how many classes of channels go, and how many there are; 1 of 1 for a conv or a branch.
        macs, params: what goes with it of both, of MACs for one sample.
        planned: the same as a plan has it.
        run: how the network runs without it.
        order: of channels, all that can go of their group, what is missed least first; empty for layers.
    """

    kind: str
    path: str
    goes: int
    width: int
    macs: float
    params: float
    planned: tuple[PlannedSite, ...]
    run: Run
    order: tuple[int, ...] = ()


@dataclass(frozen=True)
class NotMeasured:
    """What may go, and is not measured, with the reason."""

    kind: str
    path: str
    why: str


class Removals:
    """All single removals of one graph.

    Args:
        graph_module: a traced graph.
        what: some of "convs", "branches" and "channels".
        kept: what the user keeps.
        channels: those of the graph.
    """

    def __init__(self, graph_module: fx.GraphModule, what: Collection[str], kept: Kept, channels: Channels) -> None:
        self._graph_module = graph_module
        self._kinds = [KIND_OF[one] for one in what]
        self._kept = kept
        self._channels = channels
        self._refused: list[NotMeasured] = []
        self._holders = Holders(graph_module)
        kept.require_sense(graphs_of(graph_module))

    def layers(self) -> Iterator[SingleRemoval]:
        """Yield the convs and branches that may go, in the order of the graph."""
        kinds = [kind for kind in self._kinds if kind != "channels"]
        gates = gates_by_name(self._graph_module, kinds)[1] if kinds else {}
        sizes = sizes_of_untrained(gates.values())
        factors = {
            key: gate.module.left_over(cut=True, input_rms=sizes.get(gate.node)) for key, gate in gates.items()
        }
        yield from self._convs(factors)
        yield from self._branches(factors)

    def _convs(self, factors: Mapping[tuple[str, str], float]) -> Iterator[SingleRemoval]:
        """Yield the convs that have a factor, which is of what is left of their input."""
        for site in self._kept.conv_sites(self._graph_module):
            key = "conv", site.path or site.node.name
            if site.eligible and site.conv is not None and key in factors:
                nodes = frozenset((site.node,) if site.norm is None else (site.node, site.norm))
                run = WithoutLayer(site.node, site.conv.input, site.norm or site.node, factors[key], nodes)
                yield self._layer(*key, nodes, run)

    def _branches(self, factors: Mapping[tuple[str, str], float]) -> Iterator[SingleRemoval]:
        """Yield the branches that have a factor."""
        for branch in self._kept.branches(self._graph_module):
            key = "branch", branch.path
            if branch.eligible and key in factors:
                run = WithoutLayer(branch.addition, branch.shortcut, branch.addition, factors[key])
                yield self._layer(*key, frozenset(branch.nodes), run)

    def _layer(self, kind: str, path: str, nodes: frozenset[fx.Node], run: Run) -> SingleRemoval:
        macs = float(sum(map(node_macs, nodes)) / batch_size(self._graph_module))
        return SingleRemoval(
            kind, path, 1, 1, macs, self._holders.only_by(nodes), (PlannedSite(kind, path, 1, (0,)),), run
        )

    def channels(
        self, criterion: str | Criterion, samples: Samples, shares: Sequence[float]
    ) -> Iterator[SingleRemoval]:
        """Yield ``shares`` of each group, in the order of the graph: what ``criterion`` puts last on ``samples``.

        What nobody reads goes first. A share of which as many go as of the one before is left out.
        """
        field = Field("", self._channels, unread(self._channels))
        field.bar(kept_classes(self._channels, self._kept)[0])
        sites = sites_of(self._channels)
        scores = site_scores(self._graph_module, sites, criterion, samples) if sites else []
        for site, worth in zip(sites, scores, strict=True):
            field.score(site.group, worth)
        for group in (site.group for site in sites):
            yield from self._of_group(field, group, sorted(shares))

    def _of_group(self, field: Field, group: Group, shares: Sequence[float]) -> Iterator[SingleRemoval]:
        order = field.in_order(group)
        wanted = [set(order[: round(share * group.width)].tolist()) for share in shares]
        by_count = {len(gone): gone for gone in (self._channels.spared(one, field.worth) for one in wanted) if gone}
        why = self._why_not(by_count[max(by_count)], order) if by_count else ""
        if why:
            self._refused.append(NotMeasured("channels", group.name or "of the model itself", why))
            return
        for count, gone in sorted(by_count.items()):
            saved = field.costs.saved(gone)
            run = without_channels(self._channels, gone)
            planned = self._planned(gone, order)
            place = "channels", group.name, count, group.width
            yield SingleRemoval(*place, saved.macs, saved.params, planned, run, tuple(order.tolist()))

    def _planned(self, gone: Collection[int], order: Array) -> tuple[PlannedSite, ...]:
        """Return these classes as plans name them, with their places in ``order`` for scores."""
        places = np.zeros(len(self._channels.labels))
        places[order] = np.arange(len(order))
        return tuple(planned_channels(self._channels, gone, places))

    def _why_not(self, gone: Collection[int], order: Array) -> str:
        """Return why these classes cannot be cut; "" if they can."""
        if not self._planned(gone, order):
            return "no layer makes them, and plans name channels by layers"
        try:
            Cut(self._channels.walk, gone)
        except Fault as fault:
            return f"{fault.node.name} {fault.why}"
        return ""

    def not_measured(self) -> list[NotMeasured]:
        """Return what may go inside opaque modules, which run as a whole, and the channels that cannot be cut."""
        found = list(dict.fromkeys(self._refused))
        for region, graph in graphs_of(self._graph_module)[1:]:
            sites: list[tuple[str, str]] = []
            if "conv" in self._kinds:
                convs = self._kept.conv_sites(graph, region)
                sites += [("conv", one.path or one.node.name) for one in convs if one.eligible]
            if "branch" in self._kinds:
                sites += [("branch", one.path) for one in self._kept.branches(graph, region) if one.eligible]
            if "channels" in self._kinds:
                sites += [("channels", one.path) for one in sites_of(Channels(graph))]
            why = f"it is inside {region}, which is opaque and runs as a whole"
            found += [NotMeasured(kind, f"{region}.{path}", why) for kind, path in sites]
        return found
