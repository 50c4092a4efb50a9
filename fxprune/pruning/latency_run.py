"""One measurement of a network: its ops alone, random prunings as wholes, the fit, and how far that is off."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from torch import fx

from fxprune.costs.latency.backends import Instrument, as_before, instrument
from fxprune.costs.latency.conditions import Conditions
from fxprune.costs.latency.fit import Fit, FitError, fitted, judged
from fxprune.costs.latency.latency_cache import LatencyCache
from fxprune.costs.latency.latency_table import LatencyTable
from fxprune.costs.latency.layouts import inputs_in, lay_out
from fxprune.costs.latency.measuring import Measuring
from fxprune.costs.latency.network_ops import inputs_at, ops_of_all
from fxprune.costs.latency.timed_ops import TimedOp
from fxprune.costs.latency.timing import Timer, Timing, in_turns
from fxprune.costs.latency.workloads import digest
from fxprune.errors import FxpruneError, FxpruneWarning, first_line
from fxprune.ir.copies import copy_module
from fxprune.ir.pytrees import map_tensors
from fxprune.pruning.random_prunings import random_prunings

_LOGGER = logging.getLogger(__name__)
_NETWORKS, _FITTED = 16, (0, 2, 4, 6, 9, 11, 13, 15)  # which are fitted: both ends are
_LONGEST = 60.0  # seconds that whole networks are timed, if each was once
_NOISY = 0.1  # above this spread, and twice the error that is usual, a fit is said to mean little
_SHARE_OF_OPS = 0.7  # of the time that is given
"""How much of the seconds that are given ops may take, the rest is for whole networks."""


class LatencyRun:
    """One measurement of a network.

    Args:
        conditions: under which it runs.
        timer: the user's own, if one is asked.
        cache: what is known, and is kept.
        seconds: about how long it may take; None: as long as it takes.
    """

    def __init__(
        self, conditions: Conditions, timer: Callable[..., Any] | None, cache: LatencyCache, seconds: float | None
    ) -> None:
        self._conditions = conditions
        self._timer, self._timed_by = timer, instrument(conditions, timer)
        self._pace = self._timed_by.pace
        if self._pace is not None:
            self._pace.note(cache.pace)
        self._cache = cache
        self._start = time.monotonic()
        self._seconds = math.inf if seconds is None else seconds
        self._missing: list[str] = []

    def table(self, graph_module: fx.GraphModule) -> LatencyTable:
        """Return what ops take, and the fit, from what the cache holds and what is measured."""
        ops = ops_of_all(graph_module, self._conditions.batch, self._conditions.layout)
        name = digest(*(one.workload for one in ops))
        known = self._cache.networks.get(name)
        families = self._cache.families
        if known is None or not all(one.workload.family in families for one in ops):
            known = self._measured(graph_module, ops)
            if not self._missing:
                self._cache.networks[name] = known
                self._cache.keep()
        error = None if known["error"] is None else FitError(**known["error"])
        table = LatencyTable(self._conditions, families, Fit(**known["fit"]), error, self._missing)
        self._tell_problems(table)
        return table

    def _measured(self, graph_module: fx.GraphModule, ops: Sequence[TimedOp]) -> dict[str, Any]:
        networks = random_prunings(graph_module, _NETWORKS)
        if self._timer is None:
            _require_run(networks[0], self._conditions)
        of_networks = [ops_of_all(one, self._conditions.batch, self._conditions.layout) for one in networks]
        measuring = Measuring(
            self._conditions,
            self._timed_by,
            self._cache.families,
            self._start + _SHARE_OF_OPS * self._seconds,
            self._cache.keep,
            lambda share, doing: _LOGGER.info("%s", doing, extra={"share": _SHARE_OF_OPS * share}),
        )
        seen = {one.workload.family for one in ops}
        others = [one for each in of_networks for one in each if one.workload.family not in seen]
        if self._pace is not None:
            with as_before(self._conditions):
                self._pace.look()
        self._missing += measuring.measure([*ops, *others])
        found = self._fit(networks, of_networks)
        if self._pace is not None:
            self._cache.pace = self._pace.usual
        return found

    def _fit(self, networks: Sequence[fx.GraphModule], of_networks: Sequence[Sequence[TimedOp]]) -> dict[str, Any]:
        """Return the fit to half of ``networks``, and how far it is off for the others; of what there is time for."""
        _LOGGER.info("whole networks", extra={"share": _SHARE_OF_OPS})
        order = [*_FITTED, *(one for one in range(len(networks)) if one not in _FITTED)]
        until = self._start + self._seconds
        timings = timed([networks[one] for one in order], self._conditions, self._timed_by, until)
        if not timings:
            raise FxpruneError("no network could be timed in the seconds that were given; give more seconds")
        if len(timings) < len(order):
            self._missing.append(f"{len(order) - len(timings)} of {len(order)} whole networks")
        table = LatencyTable(self._conditions, self._cache.families)
        sums = [table.sums(of_networks[one]) for one in order[: len(timings)]]
        times = [self._at_usual_pace(one) for one in timings]
        count = len(_FITTED)
        fit = fitted(sums[:count], times[:count]) if len(times) > 2 else Fit()
        error = None
        if len(times) > count + 1:
            spread = median(one.spread for one in timings)
            error = judged([fit.of(one) for one in sums[count:]], times[count:], spread)._asdict()
        return {"fit": fit._asdict(), "error": error}

    def _at_usual_pace(self, timing: Timing) -> float:
        """Return the milliseconds that a network would have taken, had the machine been as usual."""
        return timing.milliseconds if self._pace is None else self._pace.as_usual(timing.milliseconds, timing.pace)

    def _tell_problems(self, table: LatencyTable) -> None:
        if self._missing:
            more = f", and {len(self._missing) - 1} more" if self._missing[1:] else ""
            message = f"{self._seconds:g} seconds were too few to measure all: {self._missing[0]}{more}"
            warnings.warn(message, FxpruneWarning, stacklevel=4)
        error = table.error
        if error is not None and error.spread > _NOISY and error.median > _NOISY / 2:
            message = (
                f"the machine is too noisy for latencies: repeats of a network are {error.spread:.0%} apart, "
                f"predictions {error.median:.0%} off (at worst {error.worst:.0%}); measure it while nothing else runs"
            )
            warnings.warn(message, FxpruneWarning, stacklevel=4)


def _require_run(network: fx.GraphModule, conditions: Conditions) -> None:
    """Raise FxpruneError if a network cannot be run under ``conditions``, before anything is timed."""
    try:
        with as_before(conditions):
            network, inputs = _placed(network, conditions)
            network(*inputs)
    except FxpruneError:
        raise
    except Exception as error:
        raise FxpruneError(f"the network does not run under {conditions}: {first_line(error)}") from error


def _placed(network: fx.GraphModule, conditions: Conditions) -> tuple[fx.GraphModule, tuple[Any, ...]]:
    """Return a copy of a network, and inputs, as ``conditions`` want them."""
    inputs = map_tensors(inputs_at(network, conditions.batch), conditions.placed)
    found = conditions.placed(copy_module(network)).eval()
    lay_out(found, conditions.layout)
    return found, inputs_in(found, inputs, conditions.layout)


def timed(
    networks: Sequence[fx.GraphModule], conditions: Conditions, timed_by: Instrument, until: float
) -> list[Timing]:
    """Return what plain networks take, in turns: the first of them, if the time is over before all are prepared."""
    timers: list[Timer] = []
    with as_before(conditions):
        for one in networks:
            if time.monotonic() >= until:
                break
            timers.append(timed_by.whole(*_placed(one, conditions)))
        until = min(until, time.monotonic() + _LONGEST)
        return in_turns(timers, timed_by.of_networks, until, timed_by.pace)
