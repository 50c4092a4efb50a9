"""A graph in ONNX Runtime, and how much of one op's time is its own.

conv   ->   reorder, conv, reorder        alone; in a network tensors stay in the runtime's own layout
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import fx, nn

from fxprune.costs.latency.conditions import Conditions
from fxprune.errors import FxpruneError, first_line
from fxprune.ir.copies import copy_module
from fxprune.ir.pytrees import map_tensors, tensors_in

Running = tuple[Callable[[], Any], float]
"""What runs a graph once, and the share of that time that counts."""
_RUNS = 6
_COPIES = 8
"""So many of an op are timed side by side, unless they are large."""
_NEAR, _LAST = 1 << 22, 1 << 25  # bytes, more than the caches of a core hold, and the last one
_HEAVY = 1 << 20
"""Weights of as many bytes take their time from the last cache, or from behind it."""
_REORDERS = ("ReorderInput", "ReorderOutput")


def session_of(graph_module: nn.Module, inputs: tuple[Any, ...], conditions: Conditions) -> Running:
    """Return what runs a network; raises FxpruneError where torch cannot export it, or the runtime not run it."""
    return _running(_session(as_onnx(graph_module, inputs), conditions), inputs), 1.0


def op_session(graph_module: fx.GraphModule, inputs: tuple[Any, ...], conditions: Conditions) -> Running:
    """Return what runs a graph of one op, and how much of that is one op's, without bringing tensors into layouts."""
    with torch.no_grad():
        beside = _Beside(graph_module, copies_of(graph_module, inputs, graph_module(*inputs)))
    model = as_onnx(beside, inputs)
    with tempfile.TemporaryDirectory() as folder:
        session = _session(model, conditions, profile=Path(folder) / "profile")
        run = _running(session, inputs)
        for _ in range(_RUNS):
            run()
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return _running(_session(model, conditions), inputs), _share_of_ops(events) / len(beside.copies)


def copies_of(graph_module: fx.GraphModule, inputs: Any, made: Any) -> int:
    """Return how many of a graph of one op are timed side by side: one, if it has no weights.

    As few as the caches of a core do not hold; where its weights are large, the last one.
    """
    weights = sum(one.nbytes for one in graph_module.parameters())
    size = weights + sum(one.nbytes for one in tensors_in((inputs, made)))
    enough = _LAST if weights >= _HEAVY else _NEAR
    return min(_COPIES, -(-enough // size)) if weights else 1


class _Beside(nn.Module):
    """An op with weights several times, each with weights of its own: in a network they come from slower memory.

    Of one op, called again and again, they stay in the nearest cache. The values differ, or the exporter would share
    them.
    """

    def __init__(self, graph_module: fx.GraphModule, count: int) -> None:
        super().__init__()
        self.copies = nn.ModuleList(copy_module(graph_module) for _ in range(count))
        for place, one in enumerate(self.copies):
            for weight in one.parameters():
                weight.data = weight.data * (1 + place / count)

    def forward(self, *inputs: Any) -> tuple[Any, ...]:
        """Call each."""
        return tuple(one(*inputs) for one in self.copies)


def _running(session: Any, inputs: tuple[Any, ...]) -> Callable[[], Any]:
    wanted = {one.name for one in session.get_inputs()}  # what nothing reads is not among them
    named = zip(_names(inputs), tensors_in(inputs), strict=True)
    given = {name: one.contiguous().cpu().numpy() for name, one in named if name in wanted}
    return lambda: session.run(None, given)


def _names(inputs: tuple[Any, ...]) -> list[str]:
    """Return what the tensors in ``inputs`` are called, in turn."""
    return [f"x{place}" for place in range(len(tensors_in(inputs)))]


class _OfTensors(nn.Module):
    """A graph as a function of the tensors in its inputs, whatever holds these; it returns those that it makes."""

    def __init__(self, graph_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        super().__init__()
        self.graph_module, self._inputs = graph_module, inputs

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Call the graph."""
        left = iter(tensors)
        return tuple(tensors_in(self.graph_module(*map_tensors(self._inputs, lambda _: next(left)))))


def _share_of_ops(events: Sequence[Mapping[str, Any]]) -> float:
    """Return the share of the kernels' time, as the runtime's profiler told it, that is not of reorders."""
    spent: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            spent[event["args"]["op_name"]].append(event["dur"])
    times = {name: median(one) * len(one) for name, one in spent.items()}
    own = sum(one for name, one in times.items() if name not in _REORDERS)
    return own / sum(times.values()) if own else 1.0


def _session(model: bytes, conditions: Conditions, profile: Path | None = None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = conditions.threads, 1, 3
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    provider = "CPUExecutionProvider" if conditions.device == "cpu" else "CUDAExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise FxpruneError(f"ONNX Runtime here has no {provider}; pip install onnxruntime-gpu, or give device='cpu'")
    try:
        return onnxruntime.InferenceSession(model, options, providers=[provider])
    except Exception as error:
        raise FxpruneError(
            f"ONNX Runtime cannot run the network: {first_line(error)}; take another backend"
        ) from error


def as_onnx(graph_module: nn.Module, inputs: tuple[Any, ...]) -> bytes:
    """Return the graph as ONNX: by torch's older exporter, which takes milliseconds for one op, or else the newer.

    Its inputs are the tensors in ``inputs``, "x0", "x1", ... in turn.
    """
    network, tensors, names = _OfTensors(graph_module, inputs).eval(), tuple(tensors_in(inputs)), _names(inputs)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = Path(folder) / "network.onnx"
        try:
            torch.onnx.export(network, tensors, file, input_names=names, dynamo=False)
        except Exception:
            try:
                options: Any = {"dynamo": True, "external_data": False, "verbose": False}
                torch.onnx.export(network, tensors, file, input_names=names, **options)
            except Exception as error:
                raise FxpruneError(
                    f"torch cannot export the network to ONNX: {first_line(error)}; take another backend"
                ) from error
        return file.read_bytes()
