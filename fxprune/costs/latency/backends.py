"""What runs a network: each backend prepares a graph and its inputs to be timed again and again.

A timer of the user's own is called with the graph and its inputs, and returns milliseconds: a phone can be asked so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import fx

from fxprune.costs.latency.conditions import Conditions, require_backend
from fxprune.costs.latency.in_place import in_place_copy
from fxprune.costs.latency.onnx_session import Running, copies_of, op_session, session_of
from fxprune.costs.latency.pace import Pace, pace_of
from fxprune.costs.latency.timing import Timer, Turns
from fxprune.errors import FxpruneError, first_line

Measure = Callable[[fx.GraphModule, tuple[Any, ...]], float]
"""A user's timer."""
Prepare = Callable[[fx.GraphModule, tuple[Any, ...]], Timer]
Copies = Callable[[fx.GraphModule, Any, Any], int]
_WARM_UP = 2
_ASKED = Turns(2, 4, warm=False)
_SEVERAL = Turns(4, 8)  # of ops that are timed several at a time


@contextmanager
def as_before(conditions: Conditions) -> Iterator[None]:
    """Inside, torch has the threads of ``conditions``, no gradients, and its own random numbers; then as before."""
    threads = torch.get_num_threads()
    devices = [torch.device(conditions.device)] if conditions.device.startswith("cuda") else []
    with torch.random.fork_rng(devices), torch.no_grad():
        torch.set_num_threads(conditions.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


class Instrument(NamedTuple):
    """What times graphs.

    Attributes:
        alone: makes a timer of a graph of one op and its inputs.
        whole: makes one of a network.
        of_ops: how often an op is timed.
        of_networks: how often a network is.
        pace: tells when the machine is slow; None if nobody can.
        copies: how often a timer of an op holds its weights and what it makes; called with its graph, what that reads
            and what it makes.
    """

    alone: Prepare
    whole: Prepare
    of_ops: Turns = Turns(6, 12)
    of_networks: Turns = Turns(5, 60)
    pace: Pace | None = None
    copies: Copies = lambda graph_module, inputs, made: 1


def instrument(conditions: Conditions, measure: Measure | None = None) -> Instrument:
    """Return what times graphs under ``conditions``, or the user's own timer ``measure``, which is called less often.

    To compile an op takes seconds: for "compile" ops are timed in eager mode, and the fit to compiled networks says
    what that is worth. Raises FxpruneError if nothing here can run under them.
    """
    if measure is not None:
        asked: Prepare = lambda graph_module, inputs: lambda: _asked(measure, graph_module, inputs)  # noqa: E731
        return Instrument(asked, asked, _ASKED, _ASKED)
    require_backend(conditions)
    pace = pace_of(conditions)
    if conditions.backend == "onnxruntime":
        of_op, of_network = _preparing(op_session, conditions), _preparing(session_of, conditions)
        return Instrument(of_op, of_network, of_ops=_SEVERAL, pace=pace, copies=copies_of)
    whole = _compiled if conditions.backend == "compile" else _eager
    return Instrument(_preparing(_eager, conditions), _preparing(whole, conditions), pace=pace)


def _preparing(make: Callable[..., Running], conditions: Conditions) -> Prepare:
    def prepare(graph_module: fx.GraphModule, inputs: tuple[Any, ...]) -> Timer:
        run, share = make(graph_module, inputs, conditions)
        timer = _clocked(run, share, conditions)
        for _ in range(_WARM_UP):
            timer()
        return timer

    return prepare


def _clocked(run: Callable[[], Any], share: float, conditions: Conditions) -> Timer:
    """Return a timer of a share of ``run``; of one thread of the CPU it tells how long that thread ran."""
    clock = time.thread_time if _is_alone(conditions) else time.perf_counter

    def timer() -> float:
        start = clock()
        run()
        if conditions.device != "cpu":
            torch.accelerator.synchronize(conditions.device)
        return share * (clock() - start) * 1e3

    return timer


def _is_alone(conditions: Conditions) -> bool:
    is_fine = time.get_clock_info("thread_time").resolution <= 1e-6
    return conditions.device == "cpu" and conditions.threads == 1 and is_fine


def _eager(graph_module: fx.GraphModule, inputs: tuple[Any, ...], conditions: Conditions) -> Running:
    network = in_place_copy(graph_module)
    return lambda: network(*inputs), 1.0


def _compiled(graph_module: fx.GraphModule, inputs: tuple[Any, ...], conditions: Conditions) -> Running:
    compiled = torch.compile(graph_module, dynamic=False)
    try:
        compiled(*inputs)
    except Exception as error:
        raise FxpruneError(
            f"torch.compile cannot compile the network: {first_line(error)}; take another backend"
        ) from error
    return lambda: compiled(*inputs), 1.0


def _asked(measure: Measure, graph_module: fx.GraphModule, inputs: tuple[Any, ...]) -> float:
    """Return what a user's timer says; raises FxpruneError if that is no time."""
    try:
        found = measure(graph_module, inputs)
    except Exception as error:
        raise FxpruneError(f"measure= raised {type(error).__name__}: {first_line(error)}") from error
    if isinstance(found, bool) or not isinstance(found, Real) or not math.isfinite(found) or found <= 0:
        raise FxpruneError(f"measure= must return milliseconds, a finite number above 0; it returned {found!r}")
    return float(found)
