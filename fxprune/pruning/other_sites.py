"""What a target that cannot be met could be met with: the kinds of sites that have no scale yet.

without all 6 removable layers 0.420 of the MACs are left   ->   ...; channels can go too: what="all"
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import fx

from fxprune.choosing.remaining import Remaining
from fxprune.choosing.targets import Targets
from fxprune.costs.latency.latency_table import table_of
from fxprune.errors import FxpruneError, TargetError
from fxprune.pipelines import SITES_OF, What
from fxprune.pipelines.chains import insert_scales
from fxprune.pruning.predictions import Latency
from fxprune.pruning.surplus import Surplus
from fxprune.structures.gated_layers import gates_of


@contextmanager
def suggesting_others(gated: fx.GraphModule) -> Iterator[None]:
    """Have a TargetError inside name the kinds of sites that ``gated`` has no gates of."""
    try:
        yield
    except TargetError as error:
        kinds = {gate.kind for gate in gates_of(gated)}
        others = [words for kind, words in SITES_OF.items() if kind not in kinds]
        if not others or not kinds:
            raise
        told = f"{', '.join(others[:-1])} and {others[-1]}" if others[1:] else others[0]
        raise TargetError(f'{error}; or give {told} scales too, if any can go: what="all" (--what all)') from error


def require_met(
    traced: fx.GraphModule,
    gated: fx.GraphModule,
    targets: Targets,
    latency: Latency | None = None,
    *,
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
) -> None:
    """Raise TargetError if ``targets`` cannot be met in ``gated``, made of ``traced``: says whether all kinds can."""
    table = table_of(latency)
    try:
        Surplus(gated, targets, Remaining(gated, latency=table))
    except TargetError as error:
        kinds = {gate.kind for gate in gates_of(gated)}
        if kinds >= SITES_OF.keys():
            raise
        sites: What = "all"
        try:
            everything = insert_scales(traced, what=sites, keep=keep, only=only, verify=False).graph_module
            Surplus(everything, targets, Remaining(everything, latency=table))
        except TargetError as other:
            raise TargetError(f"{error}; nor is it met by convs, branches and channels together: {other}") from error
        except FxpruneError:  # nothing else can have a scale
            raise error from None
        raise TargetError(f"{error}; convs, branches and channels together can meet it: --what all") from error
