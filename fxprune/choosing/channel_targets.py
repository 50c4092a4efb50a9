"""As many channels as targets ask for: what is left is told by a formula, activation memory by a cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property

import numpy as np
from torch import fx

from fxprune.choosing.channel_amounts import Amount
from fxprune.choosing.channel_ranking import ALL, Field, Ranking, count_together
from fxprune.choosing.graph_costs import Cost, total
from fxprune.choosing.keeping import KEPT
from fxprune.choosing.removal import OVERSHOOT
from fxprune.choosing.targets import Targets
from fxprune.costs.macs import total_macs, total_params
from fxprune.errors import TargetError
from fxprune.ir.nodes import TRACED_MACS

Gone = Sequence[Collection[int]]
"""The classes that go, by graph."""
_BALANCES = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)
_OF = {"macs": "MACs", "params": "parameters", "memory": "activation memory"}


class Left:
    """What is left of what has a target once channels are gone, as shares of what was traced.

    ``peak`` says how many bytes of activations are held at most: that takes a cut. ``without`` is what goes of other
    things: nodes of all graphs.
    """

    without: frozenset[fx.Node] = frozenset()

    def __init__(
        self, graph_module: fx.GraphModule, fields: Sequence[Field], targets: Targets, peak: Callable[[Gone], float]
    ) -> None:
        self._fields = fields
        self._targets = targets
        self.peak = peak
        count_together(fields, graph_module)
        macs, params = float(total_macs(graph_module)), float(total_params(graph_module))
        self._totals = Cost(macs, params)
        self._traced = Cost(graph_module.meta.get(TRACED_MACS, macs), params)

    def of(self, gone: Gone) -> dict[str, float]:
        """Return the shares, by what has a target."""
        saved = self._saved(gone)
        costs = zip(Cost._fields, self._totals, saved, self._traced, strict=True)
        found = {
            name: (total - saved) / (traced or 1)
            for name, total, saved, traced in costs
            if getattr(self._targets, name) is not None
        }
        if self._targets.memory is not None:
            found["memory"] = self.peak(gone) / (self._peak_of_all or 1.0)
        return found

    def _saved(self, gone: Gone) -> Cost:
        parts = zip(self._fields, gone, strict=True)
        left = total([one.costs.left(frozenset(each), self.without) for one, each in parts])
        return Cost(*(whole - rest for whole, rest in zip(self._whole, left, strict=True)))

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
        return {name: share for name, share in self.of(gone).items() if share > getattr(self._targets, name) + 1e-12}


def choose(fields: Sequence[Field], amount: Amount, left: Left) -> list[set[int]]:
    """Return the classes that go, by graph: those that nobody reads too.

    Raises:
        TargetError: a target is not met when all goes that may; says what can be.
    """
    if amount.targets.is_empty:
        return Ranking(fields, amount).at(ALL if amount.ratio is not None else 0.0)
    found = [_fewest(Ranking(fields, amount, balance), left, amount.targets) for balance in balances(amount)]
    return min(found, key=lambda gone: lost(fields, gone))


def _fewest(ranking: Ranking, left: Left, targets: Targets) -> list[set[int]]:
    least = ranking.at(ALL)
    unmet = left.unmet(least)
    if unmet:
        count = sum(map(len, least))
        raise cannot_be_met(targets, unmet, f"{count:,} channels" if count else "")
    return ranking.at(lowest([0.0, *ranking.steps.tolist()], lambda level: not left.unmet(ranking.at(level))))


def balances(amount: Amount) -> Sequence[float]:
    """Return how much MACs may matter beside parameters: what is best where both have a target is tried."""
    wanted = amount.targets
    has_both = wanted.params is not None and (wanted.macs is not None or wanted.memory is not None)
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


def overshoot(amount: Amount, shares: Mapping[str, float], layers: bool = False) -> str | None:
    """Return what to say where much less than every target is left, because groups go in steps; None where not.

    ``layers`` says whether any go too.
    """
    wanted = {name: getattr(amount.targets, name) for name in shares}
    nearest = min(shares, key=lambda name: wanted[name] - shares[name], default="")
    if not nearest or wanted[nearest] - shares[nearest] <= OVERSHOOT or (amount.multiple_of == 1 and not layers):
        return None
    return (
        f"{shares[nearest]:.1%} of the {_OF[nearest]} are left where target_{nearest}={wanted[nearest]:g} was asked "
        "for: "
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


def cannot_be_met(targets: Targets, unmet: Mapping[str, float], what: str) -> TargetError:
    """Return what to raise where ``unmet`` is left without all of ``what`` may go; "" if nothing may."""
    name, share = next(iter(unmet.items()))
    without = f"without all {what} that may go" if what else "nothing may go:"
    return TargetError(
        f"target_{name}={getattr(targets, name):g} cannot be met: {without} {share:.3f} of the {_OF[name]} "
        f"are left; ask for at least {share + 5e-4:.3f}"
    )
