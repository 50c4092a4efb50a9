"""As many channels as targets ask for: what is left is told by a formula, activation memory by a cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property

import numpy as np
from torch import fx

from fxprune.choosing.channel_amounts import Amount
from fxprune.choosing.channel_ranking import ALL, ChannelRanking, Field, count_together, weights_of
from fxprune.choosing.graph_costs import Cost, total
from fxprune.choosing.keeping import KEPT
from fxprune.choosing.removal import OVERSHOOT
from fxprune.choosing.targets import Targets
from fxprune.choosing.time_asked import milliseconds_asked, time_error
from fxprune.choosing.time_terms import fit_of
from fxprune.costs.latency.latency_table import LatencyTable
from fxprune.costs.macs import total_macs, total_params
from fxprune.errors import TargetError
from fxprune.ir.nodes import TRACED_MACS

Gone = Sequence[Collection[int]]
"""The classes that go, by graph."""
_BALANCES = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)
_OF = {"macs": "MACs", "params": "parameters", "memory": "activation memory"}


class Left:
    """What is left of what has a target once channels are gone, as shares of what was traced; time as milliseconds.

    ``latency`` says how long ops take, if that has a target. ``peak`` says how many bytes of activations are held at
    most: that takes a cut. ``without`` is what goes of other things: nodes of all graphs.
    """

    without: frozenset[fx.Node] = frozenset()

    def __init__(
        self,
        graph_module: fx.GraphModule,
        fields: Sequence[Field],
        targets: Targets,
        peak: Callable[[Gone], float],
        latency: LatencyTable | None = None,
    ) -> None:
        self._fields = fields
        self._targets = targets
        self.peak = peak
        self._latency = latency if targets.is_timed else None
        count_together(fields, graph_module, self._latency)
        macs, params = float(total_macs(graph_module)), float(total_params(graph_module))
        self._totals = Cost(macs, params)
        self._traced = Cost(graph_module.meta.get(TRACED_MACS, macs), params)

    def of(self, gone: Gone) -> dict[str, float]:
        """Return the shares, by what has a target; of time the milliseconds."""
        saved = self._saved(gone)
        found = {}
        for name in ("macs", "params"):
            if getattr(self._targets, name) is not None:
                whole, part, traced = (getattr(one, name) for one in (self._totals, saved, self._traced))
                found[name] = (whole - part) / (traced or 1)
        if self._latency is not None:
            found["milliseconds"] = self._unpruned - saved.milliseconds
        if self._targets.memory is not None:
            found["memory"] = self.peak(gone) / (self._peak_of_all or 1.0)
        return found

    def _saved(self, gone: Gone) -> Cost:
        parts = zip(self._fields, gone, strict=True)
        left = total([one.costs.left(frozenset(each), self.without) for one, each in parts])
        return Cost(*(whole - rest for whole, rest in zip(self._whole, left, strict=True)))

    @cached_property
    def _unpruned(self) -> float:
        """The milliseconds of the whole network, as predicted."""
        assert self._latency is not None
        return fit_of(self._latency)[0] + self._whole.milliseconds

    @cached_property
    def limits(self) -> dict[str, float]:
        """What :meth:`of` may be, by what has a target."""
        wanted = {name: getattr(self._targets, name) for name in ("macs", "params", "memory")}
        found = {name: share for name, share in wanted.items() if share is not None}
        if self._latency is not None:
            found["milliseconds"] = milliseconds_asked(self._targets, self._unpruned)
        return found

    def shares_with(self, place: int, nodes: frozenset[fx.Node]) -> dict[str, float]:
        """Return the share of each cost that goes with nodes of the graph at ``place``, beside nothing else."""
        saved = self._fields[place].costs.saved((), nodes)
        found = {name: getattr(saved, name) / max(getattr(self._totals, name), 1) for name in ("macs", "params")}
        if self._latency is not None:
            found["milliseconds"] = saved.milliseconds / self._whole.milliseconds
        return found

    @cached_property
    def _whole(self) -> Cost:
        """What the terms of all graphs come to."""
        return total([one.costs.left() for one in self._fields])

    @cached_property
    def _peak_of_all(self) -> float:
        without, self.without = self.without, frozenset()
        found = self.peak([()] * len(self._fields))
        self.without = without
        return found

    def unmet(self, gone: Gone) -> dict[str, float]:
        """Return those that are above their targets."""
        return {name: left for name, left in self.of(gone).items() if left > self.limits[name] + 1e-12}

    def share(self, name: str, amount: float) -> float:
        """Return an amount of what :meth:`of` tells as a share of the whole."""
        return amount / self._unpruned if name == "milliseconds" else amount

    def refusal(self, unmet: Mapping[str, float], what: str) -> TargetError:
        """Return what to raise where ``unmet`` is left without all of ``what`` may go; "" if nothing may."""
        name, left = next(iter(unmet.items()))
        without = f"without all {what} that may go" if what else "nothing may go:"
        if name == "milliseconds":
            return time_error(self._targets, self.limits[name], left, without)
        return TargetError(
            f"target_{name}={getattr(self._targets, name):g} cannot be met: {without} {left:.3f} of the {_OF[name]} "
            f"are left; ask for at least {left + 5e-4:.3f}"
        )


def choose(fields: Sequence[Field], amount: Amount, left: Left) -> list[set[int]]:
    """Return the classes that go, by graph: those that nobody reads too.

    Raises:
        TargetError: a target is not met when all goes that may; says what can be.
    """
    if amount.targets.is_empty:
        return ChannelRanking(fields, amount).at(ALL if amount.ratio is not None else 0.0)
    found = [_fewest(ChannelRanking(fields, amount, balance), left) for balance in balances(amount)]
    return min(found, key=lambda gone: lost(fields, gone))


def _fewest(ranking: ChannelRanking, left: Left) -> list[set[int]]:
    least = ranking.at(ALL)
    unmet = left.unmet(least)
    if unmet:
        count = sum(map(len, least))
        raise left.refusal(unmet, f"{count:,} channels" if count else "")
    return ranking.at(lowest([0.0, *ranking.steps.tolist()], lambda level: not left.unmet(ranking.at(level))))


def balances(amount: Amount) -> Sequence[float]:
    """Return how much MACs and time may matter beside parameters: what is best where both have a target is tried."""
    wanted = amount.targets
    has_both = wanted.params is not None and len(weights_of(wanted, 0.5)) > 1
    return _BALANCES if has_both and amount.scope == "global" else (0.5,)


def lost(fields: Sequence[Field], gone: Gone) -> float:
    """Return the sum of what the classes ``gone`` are worth."""
    return sum(
        float(one.worth[[each for each in classes if np.isfinite(one.worth[each])]].sum())
        for one, classes in zip(fields, gone, strict=True)
    )


def lowest(levels: Sequence[float], is_enough: Callable[[float], bool]) -> float:
    """Return the lowest of ``levels``, in order, that is enough; the last one is."""
    first, last = -1, len(levels) - 1
    while last - first > 1:
        middle = (first + last) // 2
        first, last = (first, middle) if is_enough(levels[middle]) else (middle, last)
    return levels[last]


def overshoot(amount: Amount, left: Left, gone: Gone) -> str | None:
    """Return what to say where much less than every target is left, because groups go in steps; None where not."""
    layers, found = bool(left.without), left.of(gone)
    beyond = {name: left.share(name, left.limits[name] - one) for name, one in found.items()}
    nearest = min(beyond, key=beyond.__getitem__, default="")
    if not nearest or beyond[nearest] <= OVERSHOOT or (amount.multiple_of == 1 and not layers):
        return None
    if nearest == "milliseconds":
        told = f"a forward pass takes {found[nearest]:.4g} ms, as predicted, where {left.limits[nearest]:.4g} ms"
    else:
        told = f"{found[nearest]:.1%} of the {_OF[nearest]} are left where target_{nearest}={left.limits[nearest]:g}"
    return (
        f"{told} was asked for: "
        + ("layers go as a whole" if layers else f"groups go in steps of multiple_of={amount.multiple_of}")
        + ("; scope=global overshoots less" if amount.scope == "uniform" else "")
    )


def why_nothing(fields: Sequence[Field], amount: Amount) -> str:
    """Return why no channel goes."""
    free = sum(len(group.free) for one in fields for group in one.channels.groups)
    if not free:
        reasons = Counter(one.why for each in fields for one in each.channels.reasons.values())
        most = f": {reasons.most_common(1)[0][0]}" if reasons else ""
        return f"no channel can go{most}; fxprune inspect --channels tells why each stays"
    if all(one.stays[group.free].all() for one in fields for group in one.channels.groups):
        return f"no channel can go: all {free:,} that could are {KEPT}"
    if amount.ratio is not None:
        return f"ratio={amount.ratio} is less than one channel of each group, or least and multiple_of leave none"
    if not amount.targets.is_empty:
        return "no channel has to go: all targets are met"
    return (
        "every channel is read: close gates of InsertChannelGate first, or give a ratio, or indices of those "
        "that shall go"
    )
