"""Measures what a table needs of a network's ops: each at its full width first, then staircases, then between.

Ops are timed in turns, as many at once as memory is for, and kept once that is done. When the time is over, what is
missing is named, with what stands in for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product

from torch import fx

from fxprune.costs.latency.backends import Instrument, as_before
from fxprune.costs.latency.conditions import Conditions
from fxprune.costs.latency.latency_table import Family, Lines, Ways
from fxprune.costs.latency.stairs import SWEEP, Stairs, Way, stairs_of
from fxprune.costs.latency.timed_ops import TimedOp
from fxprune.costs.latency.timing import Timer, Timing, in_turns
from fxprune.costs.latency.workloads import Widths, Workload
from fxprune.errors import FxpruneError, first_line
from fxprune.ir.pytrees import tensors_in

_BYTES, _SWEPT = 1 << 29, 2
_NEAR = 0.12  # lines are further apart than this, relative
_SHARES, _STRAIGHT = (1.0, 0.6, 0.3, 0.12), (1.0, 0.4)
Point = tuple[Workload, Widths]


class Measuring:
    """Fills ``families`` with what is measured.

    Args:
        conditions: under which ops are timed.
        instrument: times an op's graph.
        families: what is known already; it is not measured again.
        until: when to stop, by time.monotonic().
        keep: called when more is known, a chunk at a time.
        tell: called with what share of this is done, and what is being done.
    """

    def __init__(
        self,
        conditions: Conditions,
        instrument: Instrument,
        families: dict[str, Family],
        until: float = float("inf"),
        keep: Callable[[], None] = lambda: None,
        tell: Callable[[float, str], None] = lambda share, doing: None,
    ) -> None:
        self._conditions = conditions
        self._instrument = instrument
        self.families = families
        self._until = until
        self._keep = keep
        self._tell = tell

    def measure(self, ops: Iterable[TimedOp]) -> list[str]:
        """Measure what ``ops`` need, and return what was not measured, for a person.

        Raises FxpruneError if the time is over before every op was timed once.
        """
        works = list(dict.fromkeys(op.workload for op in ops))
        if not self._time([(one, one.widths) for one in works], "ops as they are"):
            raise FxpruneError(
                f"not all of {len(works)} ops could be timed once in the seconds that were given; give more seconds"
            )
        by_family: dict[str, list[Workload]] = {}
        for one in works:
            if one.widths:
                by_family.setdefault(one.family, []).append(one)
        self._find_stairs([each[0] for each in by_family.values()])
        return self._measure_between(by_family)

    def exact(self, ops: Iterable[TimedOp]) -> bool:
        """Measure ``ops`` at the very widths that they have; return whether there was time for all."""
        return self._time([(one.workload, one.workload.widths) for one in ops], "ops as they are")

    def _find_stairs(self, works: Sequence[Workload]) -> None:
        """Tell families their staircases: one for all ops of a kind, by sweeps of some that take longest."""
        by_kind: dict[str, list[Workload]] = {}
        for one in works:
            if not self.families[one.family].stairs:
                by_kind.setdefault(one.kind, []).append(one)
        swept = {
            kind: sorted(each, key=lambda one: -self._known(one)[one.widths].milliseconds)[:_SWEPT]
            for kind, each in by_kind.items()
            if not each[0].fused and not each[0].straight and max(each[0].steps) == 1
        }
        wanted = [(one, at) for each in swept.values() for one in each for at in _sweeps(one)]
        is_known = self._time(wanted, "staircases")
        for kind, each in by_kind.items():
            stairs: tuple[Stairs, ...] = (Stairs(),) * len(each[0].widths)
            if kind in swept and is_known:
                sweeps = [self._swept(one) for one in swept[kind]]
                stairs = tuple(stairs_of(along) for along in zip(*sweeps, strict=True))
            for one in each:
                if kind not in swept or is_known:
                    self.families[one.family].stairs = stairs

    def _swept(self, work: Workload) -> list[dict[int, float]]:
        """Return the milliseconds by width along each parameter."""
        known = self._known(work)
        return [
            {at[place]: known[at].milliseconds for at in _sweep(work, place)} for place in range(len(work.widths))
        ]

    def _measure_between(self, by_family: Mapping[str, Sequence[Workload]]) -> list[str]:
        """Measure families at the crossings of lines; return what is missing."""
        grids = {name: self._grids(works) for name, works in by_family.items()}
        wanted = {
            name: [(by_family[name][0], at) for lines in each.values() for at in product(*lines)]
            for name, each in grids.items()
        }
        own = {(each[0].family, one.widths) for each in by_family.values() for one in each}
        again = [  # those at full width too: all under the same circumstances
            (work, at)
            for name, points in wanted.items()
            if not self.families[name].grids
            for work, at in points
            if (work.family, at) in own
        ]
        self._time([one for points in wanted.values() for one in points], "between widths", again=again)
        missing = []
        for name, each in grids.items():
            if each and all(at in self.families[name].points for _, at in wanted[name]):
                self.families[name].grids = each
            else:
                missing.append(f"{name}: between widths, in proportion to them")
        self._keep()
        return missing

    def _grids(self, works: Sequence[Workload]) -> dict[Ways, Lines]:
        """Return the lines at whose crossings a family is measured: fewer where a way has no steps."""
        family = self.families[works[0].family]
        ways = [stairs.ways([one.widths[place] for one in works]) for place, stairs in enumerate(family.stairs)]
        grids = {}
        for chosen in product(*ways) if ways else ():
            is_stepped = set(chosen) == {"stepped"}
            shares = _SHARES if is_stepped and not works[0].straight else _STRAIGHT
            before = family.grids.get(chosen) or ((),) * len(chosen)
            grids[chosen] = tuple(
                _lines(
                    _wanted(works, place, shares, stairs.narrow if way == "narrow" else None, is_stepped),
                    way,
                    stairs,
                    works[0].steps[place],
                    before[place],
                )
                for place, (way, stairs) in enumerate(zip(chosen, family.stairs, strict=True))
            )
        return grids

    def _time(self, points: Sequence[Point], doing: str, again: Sequence[Point] = ()) -> bool:
        """Time what is not known yet, and some ``again``; return whether all is known then."""
        anew = set(again)
        wanted = [one for one in dict.fromkeys(points) if one in anew or not self._is_known(*one)]
        done = 0
        while done < len(wanted) and time.monotonic() < self._until:
            self._tell(done / len(wanted), doing)
            with as_before(self._conditions):
                timers = self._prepared(wanted[done:])
                timings = in_turns(timers, self._instrument.of_ops, self._until, self._instrument.pace)
            for (workload, widths), timing in zip(wanted[done:], timings, strict=False):
                self._known(workload)[widths] = timing
            done += len(timers)
            self._keep()
        return done == len(wanted)

    def _prepared(self, points: Sequence[Point]) -> list[Timer]:
        """Return timers of the first of ``points``, as many as memory is for."""
        timers, held = [], 0
        for workload, widths in points:
            timer, size = self._prepared_one(workload, widths)
            timers.append(timer)
            held += size
            if held > _BYTES or time.monotonic() >= self._until:
                break
        return timers

    def _prepared_one(self, workload: Workload, widths: Widths) -> tuple[Timer, int]:
        """Return a timer, and the bytes that it holds; what runs at no other width takes what it takes at its own."""
        own = self._known(workload).get(workload.widths)
        try:
            graph, inputs = workload.make(widths, self._conditions)
            made = fx.Interpreter(graph).run(*inputs)  # raises if it cannot be
            timer = self._instrument.alone(graph, inputs)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            if own is None or isinstance(error, FxpruneError):
                raise FxpruneError(f"{workload.family} cannot be run alone: {first_line(error)}") from error
            milliseconds = own.milliseconds
            return lambda: milliseconds, 0
        own_of_each = sum(one.nbytes for one in (*graph.parameters(), *tensors_in(made)))
        copies = self._instrument.copies(graph, inputs, made)
        return timer, copies * own_of_each + sum(one.nbytes for one in tensors_in(inputs))

    def _is_known(self, workload: Workload, widths: Widths) -> bool:
        """Say whether it was timed, and the machine was as usual then."""
        timing, pace = self._known(workload).get(widths), self._instrument.pace
        return timing is not None and (pace is None or not pace.is_off(timing.pace))

    def _known(self, workload: Workload) -> dict[Widths, Timing]:
        return self.families.setdefault(workload.family, Family()).points


def _sweeps(work: Workload) -> list[Widths]:
    return [at for place in range(len(work.widths)) for at in _sweep(work, place)]


def _sweep(work: Workload, place: int) -> list[Widths]:
    """Return the widths at which the staircase along a parameter shows; the others are narrow."""
    others = [min(SWEEP[0], width) for width in work.widths]
    return [(*others[:place], width, *others[place + 1 :]) for width in SWEEP]


def _wanted(
    works: Sequence[Workload], place: int, shares: Sequence[float], below: int | None, is_stepped: bool
) -> list[float]:
    """Return the widths to measure: shares of the widest, if any ``below`` that, and those of the ops themselves.

    The ops' own are left out where a way without steps is taken, but of what is narrow.
    """
    widths = [one.widths[place] for one in works]
    widest = max(widths) if below is None else min(max(widths), below - 1)
    return [*(widest * share for share in shares), *(widths if is_stepped or below is not None else ())]


def _lines(wanted: Sequence[float], way: Way, stairs: Stairs, step: int, before: Sequence[int]) -> tuple[int, ...]:
    """Return the widths at which times are measured: ``before`` and those wanted that a way has, on the staircase."""
    unit, found = max(stairs.step, step), set(before)
    for width in wanted:
        if way == "stepped":
            rounded = max(unit, -(-int(width) // unit) * unit)
        elif way == "narrow":
            rounded = max(1, int(width))
        else:
            rounded = max(stairs.step, int(width)) // stairs.aligned * stairs.aligned + 1
        if stairs.way(rounded) == way and all(abs(rounded - one) > _NEAR * max(rounded, one) for one in found):
            found.add(rounded)
    return tuple(sorted(found)) if len(found) > 1 else (*found, 2 * max(found))
