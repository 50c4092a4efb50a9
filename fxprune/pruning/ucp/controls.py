"""Widths that nothing was looked at for: what found widths have to be better than, at equal counts.

uniform = control_widths(traced, fxprune.Targets(macs=0.5))              # the same share of each judged conv goes
random = control_widths(traced, fxprune.Targets(macs=0.5), seed=1)       # of each conv another one
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from fxprune.choosing.criteria.width_shares import WidthShares
from fxprune.choosing.targets import Targets
from fxprune.errors import FxpruneValueError
from fxprune.ir.arguments import require_arguments
from fxprune.ir.nodes import require_graph
from fxprune.pruning.latency_model import LatencyModel
from fxprune.pruning.ucp.widths import Widths, chosen_by


def control_widths(
    graph_module: fx.GraphModule,
    targets: Targets,
    *,
    seed: int | None = None,
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
    latency: LatencyModel | None = None,
) -> Widths:
    """Return uniform or random widths of the convs that uniform channel pruning judges.

    Args:
        graph_module: what :func:`fxprune.trace` returned; it is never changed.
        targets: the shares of costs to leave, or a time as it is predicted.
        seed: of random widths; without one they are uniform. Convs that have to be alike are.
        keep, only: patterns over the paths of layers whose channels stay.
        latency: what predicts times, for a target of these.

    Raises:
        FxpruneValueError: there are no targets.
        TargetError: they cannot be met; says what can.
    """
    require_arguments(control_widths, locals())
    graph_module = require_graph(graph_module, "control_widths")
    if targets.is_empty:
        raise FxpruneValueError("how much is to go? give targets")
    return chosen_by(WidthShares(seed), graph_module, targets, keep=keep, only=only, latency=latency)
