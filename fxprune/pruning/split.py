"""How much of what was saved went with layers, and how much with channels.

saved of a kind = sum over its sites, in the order in which they closed, of what each saved beside those before it
"""

from __future__ import annotations

from collections.abc import Sequence

from fxprune.choosing.graph_costs import Cost
from fxprune.choosing.remaining import Remaining, Site
from fxprune.pipelines import SITES_OF
from fxprune.structures.gated_layers import Gate

Split = dict[str, dict[str, float]]
"""By kind, "convs", "branches" and "channels", the shares of "macs", "params" and, where ops are timed, "ms"."""


def split_of(remaining: Remaining, closed: Sequence[Site], macs: float, params: int) -> Split:
    """Return the shares of the costs that went with the sites of each kind.

    Args:
        remaining: the costs of the graph with all of them.
        closed: what is gone, in turn.
        macs, params: of the traced network: what shares are of.
    """
    timed = {} if remaining.latency is None else {"ms": remaining.milliseconds(())}
    traced = {"macs": macs, "params": float(params), **timed}
    found: Split = {kind: dict.fromkeys(traced, 0.0) for kind in _kinds_in(remaining)}
    before = remaining.left(())
    for count, site in enumerate(closed, start=1):
        after = remaining.left(closed[:count])
        mine = found[_kind_of(site)]
        for name, saved in _by_name(before, after).items():
            if name in mine:
                mine[name] += saved / max(traced[name], 1e-12)
        before = after
    return found


def _kind_of(site: Site) -> str:
    return SITES_OF.get(site.kind, site.kind) if isinstance(site, Gate) else "channels"


def _kinds_in(remaining: Remaining) -> list[str]:
    kinds = dict.fromkeys(_kind_of(gate) for gate in remaining.layers.values())
    return [*sorted(kinds, reverse=True), *(["channels"] if remaining.channels else [])]  # convs before branches


def _by_name(before: Cost, after: Cost) -> dict[str, float]:
    names = {"macs": "macs", "params": "params", "ms": "milliseconds"}
    return {name: getattr(before, field) - getattr(after, field) for name, field in names.items()}
