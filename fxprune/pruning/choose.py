"""Choose what goes of a network, as a plan: channels, convs, branches, or any mix of them.

plan = fxprune.choose(traced, "channels", fxprune.Targets(macs=0.5), criterion="taylor", data=loader)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import fx

from fxprune.choosing.channel_targets import why_nothing
from fxprune.choosing.fingerprint import fingerprint
from fxprune.choosing.named import known_criteria, made
from fxprune.choosing.planned_sites import PlannedSite, planned_channels
from fxprune.choosing.targets import Targets
from fxprune.choosing.time_asked import require_latency
from fxprune.costs.latency.latency_table import table_of
from fxprune.errors import FxpruneValueError
from fxprune.ir.arguments import require_arguments
from fxprune.ir.copies import copy_graphs
from fxprune.ir.nodes import require_graph
from fxprune.passes import RemoveChannels
from fxprune.pipelines import What, sites_named
from fxprune.pruning.channel_step import channel_step
from fxprune.pruning.mixed_choice import Mixed
from fxprune.pruning.predictions import Latency
from fxprune.pruning.pruning_plan import PruningPlan
from fxprune.rewriting.contract import Log


def choose(
    graph_module: fx.GraphModule,
    what: What = "channels",
    targets: Targets | None = None,
    *,
    latency: Latency | None = None,
    **options: Any,
) -> PruningPlan:
    """Return what goes of a traced network, as a plan; nothing is removed.

    Layers, and channels beside layers, are ranked in one, each by its score over what it saves of all that has a
    target. What would join channels that are chosen, the removal of a conv between them, is not chosen any more, and
    the other way around.

    Args:
        graph_module: what :func:`fxprune.trace` returned; it is never changed.
        what: some of "convs", "branches" and "channels", as "branches,channels" or in a sequence, or "all".
        targets: the shares of costs to leave, or a time.
        latency: what predicts times, for a target of these: a :class:`fxprune.LatencyModel`, whose conditions say on
            what device and for how large a batch. Channels then go in steps that save time there.
        options: those of :class:`fxprune.passes.RemoveChannels`: criterion, ratio, scope, multiple_of, least,
            normalize, data, keep, only, ...

    Raises:
        FxpruneError: an option is none, makes no sense, or ``what`` has nothing that may go.
        TargetError: the targets cannot be met; says what can.

    Warns:
        FxpruneWarning: what the user should know: that channels were compared on example inputs, say.
    """
    require_arguments(choose, locals())
    graph_module = require_graph(graph_module, "choose")
    sites = sites_named(what)
    table = table_of(latency)
    require_latency(targets or Targets(), table, "choose")
    step = channel_step("choose", targets or Targets(), {**options, "latency": table})
    log = Log()
    graphs = copy_graphs(graph_module)
    mixed = None if sites == ("channels",) else Mixed(graph_module, graphs, sites, _in_one(step, sites))
    chosen = step.chosen(graphs, log) if mixed is None else mixed.step.chosen(graphs, log, mixed.choose)
    gone = {} if mixed is None else mixed.gone_layers()
    found: list[PlannedSite] = []
    for one, classes, _ in chosen:
        found += planned_channels(one.channels, classes, one.worth, one.region, gone.get(one.region, ()))
    found += [] if mixed is None else mixed.planned()
    if not found:
        log.warn(why_nothing([one.field for one in chosen], step.amount) if mixed is None else "nothing has to go")
    log.show(stacklevel=2)
    return PruningPlan(
        found,
        fingerprint(graph_module),
        made(step.criterion, known_criteria(), "criterion").name,
        targets or Targets(),
        step.groups,
        step.statistics,
    )


def _in_one(step: RemoveChannels, sites: Sequence[str]) -> RemoveChannels:
    """Return ``step`` with scores that compare with those of layers."""
    if step.ratio is not None:
        raise FxpruneValueError(f"a ratio is of channels; give targets where {sites[0]} may go")
    return replace(step, scope="global", normalize=step.normalize or "none")
