"""How long a network and its prunings take: measured on the backend that runs them, and predicted from that.

    model = fxprune.LatencyModel.measure(traced, backend="onnxruntime", threads=1)
    model.milliseconds(traced), model.measured(traced).milliseconds
    print(model.table.error)                                   # on prunings that the fit has not seen

    t(net) = a + b (sum of the ops, each timed alone) + c (number of ops)

fitted to random prunings of this very network, and judged by others.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import median
from typing import Any, get_args

import torch
from torch import fx

from fxprune.costs.latency.backends import Instrument, as_before, instrument
from fxprune.costs.latency.conditions import Backend, Conditions, Layout, require_backend
from fxprune.costs.latency.fit import Fit, FitError, fitted, judged
from fxprune.costs.latency.latency_cache import LatencyCache, cache_folder
from fxprune.costs.latency.latency_table import LatencyTable
from fxprune.costs.latency.layouts import inputs_in, lay_out
from fxprune.costs.latency.measuring import Measuring
from fxprune.costs.latency.network_ops import inputs_at, ops_of_all
from fxprune.costs.latency.timed_ops import TimedOp
from fxprune.costs.latency.timing import Timer, Timing, in_turns
from fxprune.costs.latency.workloads import digest
from fxprune.costs.macs import batch_size
from fxprune.errors import FxpruneError, FxpruneValueError, FxpruneWarning, first_line
from fxprune.ir.arguments import require_arguments
from fxprune.ir.copies import copy_module
from fxprune.ir.nodes import require_graph
from fxprune.ir.pytrees import map_tensors
from fxprune.pruning.random_prunings import plain, random_prunings

_LOGGER = logging.getLogger(__name__)
_NETWORKS, _FITTED = 16, (0, 2, 4, 6, 9, 11, 13, 15)  # which are fitted: both ends are
_LONGEST = 60.0  # seconds that whole networks are timed, if each was once
_NOISY = 0.1  # above this spread, and twice the error that is usual, a fit is said to mean little
_SHARE_OF_OPS = 0.7  # of the time that is given
"""How much of the seconds that are given ops may take, the rest is for whole networks."""


@dataclass(frozen=True)
class LatencyModel:
    """What a network takes, predicted from what its ops take: see :meth:`measure`.

    Attributes:
        table: what the ops take at any widths, the fit to whole networks, and its error.
        timer: the user's own, if one is asked. In a file, and in other processes, a model has it if it can be
            pickled: a function of a module, no lambda. Without it, it predicts, and measures nothing.
    """

    table: LatencyTable
    timer: Callable[..., Any] | None = field(default=None, repr=False, compare=False)

    @cached_property
    def _instrument(self) -> Instrument:
        """What times a network."""
        name = self.table.conditions.backend
        if self.timer is None and name not in get_args(Backend):
            raise FxpruneError(
                f"{name} is a timer of your own that did not come along: what cannot be pickled, a lambda say, stays "
                "in its process; make it a function of a module"
            )
        return instrument(self.table.conditions, self.timer)

    def __getstate__(self) -> dict[str, Any]:
        """Return what files and other processes get: nothing that is made anew, and a timer that can be pickled."""
        kept = {name: value for name, value in vars(self).items() if name != "_instrument"}
        return kept if _can_be_pickled(self.timer) else {**kept, "timer": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> LatencyModel:
        """Return the model itself, which is never changed, with its timer."""
        return self

    @classmethod
    def measure(
        cls,
        graph_module: fx.GraphModule,
        *,
        backend: str = "eager",
        device: str | None = None,
        batch: int | None = None,
        threads: int | None = None,
        dtype: str | None = None,
        layout: Layout = "contiguous",
        measure: Callable[..., Any] | None = None,
        seconds: float | None = None,
        cache: bool | str | os.PathLike[str] = True,
    ) -> LatencyModel:
        """Time the ops of a graph, and random prunings of it: 8 that the model is fitted to, and 8 that judge it.

        Times of one thread of the CPU are those that the thread ran: what other processes take is left out.
        Progress is told by logging (:mod:`fxprune.ir.time_left`).

        Args:
            graph_module: a traced graph, with gates or without; it stays as it is.
            backend: "eager", "compile" (torch.compile) or "onnxruntime"; with ``measure`` its name.
            device: "cpu", "cuda"; where the graph's weights are by default.
            batch: how many inputs at a time; as many as were traced by default.
            threads: of the CPU; torch's number by default, and put back to that.
            dtype: "float32", "bfloat16", say; the weights' own by default.
            layout: "contiguous" or "channels_last".
            measure: a timer of your own: called with a plain GraphModule and a tuple of inputs, it returns
                milliseconds. A phone can be asked so.
            seconds: about how long it may take; what was not measured then is in ``table.missing``.
            cache: whether what was measured is kept, and where: True for the user's folder of caches. Another
                machine's, or another version's, is measured anew.

        Raises:
            FxpruneError: the backend or the device is not there (says what to install), it cannot run the network, or
                ``seconds`` are not enough to time each op once.
            FxpruneValueError: a number or a name that makes no sense.

        Warns:
            FxpruneWarning: the seconds were over before all was measured, or the machine is so noisy that the fit
                means little; says the spread of repeats.
        """
        require_arguments(LatencyModel.measure.__func__, locals(), "LatencyModel.measure")  # type: ignore[attr-defined]
        graph_module = require_graph(graph_module, "LatencyModel.measure")
        if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
            raise FxpruneValueError(f"seconds is a finite number above 0; got {seconds}")
        given = {"device": device, "batch": batch, "threads": threads, "dtype": dtype}
        asked = _own_conditions(graph_module) | {name: value for name, value in given.items() if value is not None}
        is_unnamed = measure is not None and backend == "eager"
        conditions = Conditions("measure" if is_unnamed else backend, layout=layout, **asked)
        if measure is None:
            require_backend(conditions)
        elif conditions.backend in get_args(Backend):
            raise FxpruneValueError(
                f"measure= is a timer of your own, and {backend} is ours: give it another name, as backend='phone'"
            )
        folder = None if is_unnamed and cache is True else cache_folder(cache)  # of which device does it tell?
        with torch.random.fork_rng(devices=[]):
            return _Run(conditions, measure, LatencyCache(conditions, folder), seconds).model(graph_module)

    def milliseconds(self, graph_module: fx.GraphModule) -> float:
        """Return what the network that will be emitted of a graph takes, predicted; new kinds of ops are timed."""
        graph_module = require_graph(graph_module, "LatencyModel.milliseconds")
        known, ops = self.table.families, self.table.all_ops(graph_module)
        unknown = [one for one in ops if one.workload.family not in known]
        if unknown:
            Measuring(self.table.conditions, self._instrument, known).exact(unknown)
        return self.table.of_ops(ops)

    def measured(self, graph_module: fx.GraphModule) -> Timing:
        """Return what the network that will be emitted of a graph takes, under the same conditions."""
        graph_module = require_graph(graph_module, "LatencyModel.measured")
        return self.measured_in_turns([graph_module])[0]

    def measured_in_turns(self, graph_modules: Sequence[fx.GraphModule]) -> list[Timing]:
        """Return what each of several networks takes, called in turns: what slows the machine down slows all."""
        networks = [plain(require_graph(one, "LatencyModel.measured_in_turns")) for one in graph_modules]
        return _timed(networks, self.table.conditions, self._instrument, math.inf)

    def measured_beside(self, graph_module: fx.GraphModule, whole: fx.GraphModule, milliseconds: float) -> Timing:
        """Return what a network takes while ``whole`` takes ``milliseconds``, as it did when it was timed before.

        Both are called in turns, and what the one takes is told at the pace of the other: a machine that is slower
        now makes no network slower.
        """
        found, now = self.measured_in_turns([graph_module, whole])
        return found._replace(milliseconds=found.milliseconds * milliseconds / now.milliseconds)

    def corrected(self, predicted: float, measured: float) -> LatencyModel:
        """Return the model moved such that what it ``predicted`` becomes what was ``measured``, in milliseconds."""
        for name, value in (("predicted", predicted), ("measured", measured)):
            if not (math.isfinite(value) and value > 0):
                raise FxpruneValueError(f"{name} is in milliseconds, a finite number above 0; got {value}")
        fit, factor = self.table.fit, measured / predicted
        moved = fit._replace(a=fit.a * factor, b=fit.b * factor, c=fit.c * factor)
        return replace(self, table=self.table.with_fit(moved, self.table.error))


def _can_be_pickled(timer: Callable[..., Any] | None) -> bool:
    try:
        pickle.dumps(timer)
    except Exception:  # what a class of the user's raises may be anything
        return False
    return True


def _own_conditions(graph_module: fx.GraphModule) -> dict[str, Any]:
    """Return where the weights of a graph are, their dtype, how many inputs were traced, and torch's threads."""
    weight = next((one for one in graph_module.parameters() if one.is_floating_point()), torch.empty(0))
    return {
        "device": str(weight.device),
        "batch": int(batch_size(graph_module)),
        "threads": torch.get_num_threads(),
        "dtype": str(weight.dtype).rpartition(".")[2],
    }


class _Run:
    """One measurement of a network."""

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

    def model(self, graph_module: fx.GraphModule) -> LatencyModel:
        """Return the model, from what the cache holds and what is measured."""
        ops = ops_of_all(graph_module, self._conditions.batch, self._conditions.layout)
        name = digest(*(one.workload for one in ops))
        known = self._cache.networks.get(name)
        families = self._cache.families
        if known is None or self._was_off(known) or not all(one.workload.family in families for one in ops):
            known = self._measured(graph_module, ops)
            if not self._missing:
                self._cache.networks[name] = known
                self._cache.keep()
        error = None if known["error"] is None else FitError(**known["error"])
        table = LatencyTable(self._conditions, families, Fit(**known["fit"]), error, self._missing)
        self._tell_problems(table)
        return LatencyModel(table, self._timer)

    def _was_off(self, known: Mapping[str, Any]) -> bool:
        return self._pace is not None and self._pace.is_off(known["pace"])

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
        timings = _timed([networks[one] for one in order], self._conditions, self._timed_by, until)
        if not timings:
            raise FxpruneError("no network could be timed in the seconds that were given; give more seconds")
        if len(timings) < len(order):
            self._missing.append(f"{len(order) - len(timings)} of {len(order)} whole networks")
        table = LatencyTable(self._conditions, self._cache.families)
        sums = [table.sums(of_networks[one]) for one in order[: len(timings)]]
        times = [one.milliseconds for one in timings]
        count = len(_FITTED)
        fit = fitted(sums[:count], times[:count]) if len(times) > 2 else Fit()
        error = None
        if len(times) > count + 1:
            spread = median(one.spread for one in timings)
            error = judged([fit.of(one) for one in sums[count:]], times[count:], spread)._asdict()
        return {"fit": fit._asdict(), "error": error, "pace": median(one.pace for one in timings)}

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


def _timed(
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
