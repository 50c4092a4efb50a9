"""Measures what a table needs of a network's ops: each at its full width first, then staircases, then between.

Ops are timed in chunks, in turns within each, and each chunk is kept once it is done. When the time is over, what is
missing is named, with what stands in for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product

from fxprune.costs.latency.backends import Prepare, as_before
from fxprune.costs.latency.conditions import Conditions
from fxprune.costs.latency.latency_table import Family
from fxprune.costs.latency.stairs import SWEEP, Stairs, stairs_of
from fxprune.costs.latency.timed_ops import TimedOp
from fxprune.costs.latency.timing import in_turns
from fxprune.costs.latency.workloads import Widths, Workload
from fxprune.errors import FxpruneError

_CHUNK, _SHARES = 24, (1.0, 0.75, 0.5, 0.25, 0.125)
_TURNS, _MOST, _BURST = 4, 12, 3
Point = tuple[Workload, Widths]


class Measuring:
    """Fills ``families`` with what is measured.

    Args:
        conditions: under which ops are timed.
        prepare: makes a timer of an op's graph.
        families: what is known already; it is not measured again.
        until: when to stop, by time.monotonic().
        keep: called when more is known, a chunk at a time.
        tell: called with what share of the ops at hand is done, and what is being done.
    """

    def __init__(
        self,
        conditions: Conditions,
        prepare: Prepare,
        families: dict[str, Family],
        until: float = float("inf"),
        keep: Callable[[], None] = lambda: None,
        tell: Callable[[float, str], None] = lambda share, doing: None,
    ) -> None:
        self._conditions = conditions
        self._prepare = prepare
        self.families = families
        self._until = until
        self._keep = keep
        self._tell = tell

    def measure(self, ops: Iterable[TimedOp]) -> list[str]:
        """Measure what ``ops`` need, and return what was not measured, for a person.

        Raises FxpruneError if the time is over before every op was timed once.
        """
        by_family: dict[str, list[Workload]] = {}
        for op in ops:
            by_family.setdefault(op.workload.family, []).append(op.workload)
        full = [(one, one.widths) for each in by_family.values() for one in dict.fromkeys(each)]
        if not self._time(full, "ops as they are"):
            raise FxpruneError(
                f"not all of {len(full)} ops could be timed once in the seconds that were given; give more seconds"
            )
        missing = []
        for each in sorted(by_family.values(), key=self._cost, reverse=True):
            missing += self._complete(each)
        return missing

    def exact(self, ops: Iterable[TimedOp]) -> None:
        """Measure ``ops`` at their own widths."""
        self._time([(one.workload, one.workload.widths) for one in ops], "ops as they are")

    def _cost(self, workloads: Sequence[Workload]) -> float:
        points = self.families[workloads[0].family].points
        return sum(points[one.widths].milliseconds for one in workloads)

    def _complete(self, workloads: Sequence[Workload]) -> list[str]:
        """Measure the staircases of a family and the times between them."""
        first = workloads[0]
        family = self.families[first.family]
        if not first.widths:
            return []
        if not family.stairs:
            found = self._stairs(first, len(first.widths))
            if found is None:
                return [f"{first.family}: widths count in proportion"]
            family.stairs = found
        lines = tuple(
            _lines([one.widths[place] for one in workloads], stairs.step, first.steps[place], before)
            for place, (stairs, before) in enumerate(
                zip(family.stairs, family.lines or ((),) * len(family.stairs), strict=True)
            )
        )
        if not self._time([(first, widths) for widths in product(*lines)], first.family):
            return [f"{first.family}: times between widths are in proportion"]
        family.lines = lines
        self._keep()
        return []

    def _stairs(self, workload: Workload, count: int) -> tuple[Stairs, ...] | None:
        """Return the staircase along each parameter of an op that has weights; None if the time is over."""
        if workload.fused or max(workload.steps) > 1:
            return (Stairs(),) * count
        found = []
        for place in range(count):
            others = [min(64, width) for width in workload.widths]
            points = {
                width: tuple(width if at == place else other for at, other in enumerate(others)) for width in SWEEP
            }
            if not self._time([(workload, widths) for widths in points.values()], workload.family, turns=3 * _TURNS):
                return None
            known = self.families[workload.family].points
            found.append(stairs_of({width: known[widths].milliseconds for width, widths in points.items()}))
        return tuple(found)

    def _time(self, points: Sequence[Point], doing: str, turns: int = _TURNS) -> bool:
        """Time what is not known yet; return whether all is known then."""
        wanted = [one for one in dict.fromkeys(points) if one[1] not in self._known(one[0])]
        for chunk in _chunks(wanted):
            if time.monotonic() >= self._until:
                return False
            self._tell(0.0, doing)
            with as_before(self._conditions):
                timers = [self._prepare(*workload.make(widths, self._conditions)) for workload, widths in chunk]
                timings = in_turns(timers, turns=turns, most=max(_MOST, turns), burst=_BURST, until=self._until)
            for (workload, widths), timing in zip(chunk, timings, strict=True):
                self._known(workload)[widths] = timing
            self._keep()
        return True

    def _known(self, workload: Workload) -> dict[Widths, object]:
        return self.families.setdefault(workload.family, Family()).points  # type: ignore[return-value]


def _chunks(points: Sequence[Point]) -> Iterator[Sequence[Point]]:
    for start in range(0, len(points), _CHUNK):
        yield points[start : start + _CHUNK]


def _lines(widths: Sequence[int], step: int, own: int, before: Sequence[int]) -> tuple[int, ...]:
    """Return the widths at which times are measured: those of the ops, shares of the widest, on the staircase."""
    unit = max(step, own)
    wanted = {max(widths) * share for share in _SHARES} | set(widths)
    rounded = {max(unit, -(-int(width) // unit) * unit) for width in wanted}
    rounded |= set(before)
    if len(rounded) == 1:
        return (*rounded, 2 * max(rounded))
    return tuple(sorted(rounded))
