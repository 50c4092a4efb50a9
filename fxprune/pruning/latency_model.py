"""How long a network and its prunings take: measured on the backend that runs them, and predicted from that.

    model = fxprune.LatencyModel.measure(traced, backend="onnxruntime", threads=1)
    model.milliseconds(traced), model.measured(traced).milliseconds
    print(model.table.error)                                   # on prunings that the fit has not seen

    t(net) = a + b (x + f y) + c n        x, y: sums of ops timed alone, y of those that a backend may join

fitted to random prunings of this very network, and judged by others.
"""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypedDict, Unpack, get_args, get_type_hints

import torch
from torch import fx

from fxprune.costs.latency.backends import Instrument, instrument
from fxprune.costs.latency.conditions import Backend, Conditions, Layout, require_backend
from fxprune.costs.latency.latency_cache import LatencyCache, cache_folder
from fxprune.costs.latency.latency_table import LatencyTable
from fxprune.costs.latency.measuring import Measuring
from fxprune.costs.latency.timing import Timing
from fxprune.costs.macs import batch_size
from fxprune.errors import FxpruneError, FxpruneTypeError, FxpruneValueError, did_you_mean
from fxprune.ir.arguments import require_arguments, require_kind
from fxprune.ir.nodes import require_graph
from fxprune.pruning.latency_run import LatencyRun, timed
from fxprune.pruning.random_prunings import plain


class How(TypedDict, total=False):
    """How a network will run, by the names of :class:`fxprune.costs.latency.conditions.Conditions`."""

    backend: str
    device: str | None
    batch: int | None
    threads: int | None
    dtype: str | None
    layout: Layout | None


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
        conditions: Conditions | None = None,
        *,
        measure: Callable[..., Any] | None = None,
        seconds: float | None = None,
        cache: bool | str | os.PathLike[str] = True,
        **how: Unpack[How],
    ) -> LatencyModel:
        """Time the ops of a graph, and random prunings of it: 8 that the model is fitted to, and 8 that judge it.

        Times of one thread of the CPU are those that the thread ran: what other processes take is left out.
        Progress is told by logging (:mod:`fxprune.ir.time_left`).

        Args:
            graph_module: a traced graph, with gates or without; it stays as it is.
            conditions: how it will run, all in one value, another model's say; or leave it out, and name what is
                not as usual:
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
        _require_how(conditions, how)
        is_unnamed = measure is not None and conditions is None and how.get("backend", "eager") == "eager"
        conditions = conditions or _conditions(graph_module, how, "measure" if is_unnamed else None)
        if measure is None:
            require_backend(conditions)
        elif conditions.backend in get_args(Backend):
            raise FxpruneValueError(
                f"measure= is a timer of your own, and {conditions.backend} is ours: give it another name, as "
                "backend='phone'"
            )
        folder = None if is_unnamed and cache is True else cache_folder(cache)  # of which device does it tell?
        with torch.random.fork_rng(devices=[]):
            run = LatencyRun(conditions, measure, LatencyCache(conditions, folder), seconds)
            return cls(run.table(graph_module), measure)

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
        return timed(networks, self.table.conditions, self._instrument, math.inf)

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
        return self.with_table(self.table.with_fit(moved, self.table.error))

    def with_table(self, table: LatencyTable) -> LatencyModel:
        """Return a model with the same timer that predicts by another table."""
        return replace(self, table=table)


def _can_be_pickled(timer: Callable[..., Any] | None) -> bool:
    try:
        pickle.dumps(timer)
    except Exception:  # what a class of the user's raises may be anything
        return False
    return True


def _require_how(conditions: Conditions | None, how: Mapping[str, Any]) -> None:
    """Raise FxpruneTypeError for an option that there is not, or of the wrong kind, or beside ``conditions``."""
    kinds = get_type_hints(How)
    for name, value in how.items():
        if name not in kinds:
            hint = did_you_mean(name, [*kinds, "measure", "seconds", "cache"])
            raise FxpruneTypeError(f"LatencyModel.measure takes no {name}{hint}")
        require_kind(value, kinds[name], "LatencyModel.measure", name)
    if conditions is not None and how:
        raise FxpruneTypeError(f"conditions says how the network runs: leave out {', '.join(how)}")


def _conditions(graph_module: fx.GraphModule, how: How, backend: str | None) -> Conditions:
    given = {name: value for name, value in how.items() if value is not None}
    named = {} if backend is None else {"backend": backend}
    return Conditions(**{**_own_conditions(graph_module), **given, **named})


def _own_conditions(graph_module: fx.GraphModule) -> dict[str, Any]:
    """Return where the weights of a graph are, their dtype, how many inputs were traced, and torch's threads."""
    weight = next((one for one in graph_module.parameters() if one.is_floating_point()), torch.empty(0))
    return {
        "device": str(weight.device),
        "batch": int(batch_size(graph_module)),
        "threads": torch.get_num_threads(),
        "dtype": str(weight.dtype).rpartition(".")[2],
    }
