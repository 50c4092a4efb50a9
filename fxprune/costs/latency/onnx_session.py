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
from torch import fx

from fxprune.costs.latency.conditions import Conditions
from fxprune.errors import FxpruneError, first_line
from fxprune.ir.pytrees import tensors_in

Running = tuple[Callable[[], Any], float]
"""What runs a graph once, and the share of that time that counts."""
_RUNS = 6
_REORDERS = ("ReorderInput", "ReorderOutput")


def session_of(graph_module: fx.GraphModule, inputs: tuple[Any, ...], conditions: Conditions) -> Running:
    """Return what runs a network; raises FxpruneError where torch cannot export it, or the runtime not run it."""
    return _running(_session(as_onnx(graph_module, inputs), conditions), inputs), 1.0


def op_session(graph_module: fx.GraphModule, inputs: tuple[Any, ...], conditions: Conditions) -> Running:
    """Return what runs a graph of one op, and how much of that is not to bring tensors into another layout."""
    model = as_onnx(graph_module, inputs)
    with tempfile.TemporaryDirectory() as folder:
        session = _session(model, conditions, profile=Path(folder) / "profile")
        run = _running(session, inputs)
        for _ in range(_RUNS):
            run()
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return _running(_session(model, conditions), inputs), _share_of_ops(events)


def _running(session: Any, inputs: tuple[Any, ...]) -> Callable[[], Any]:
    names = [one.name for one in session.get_inputs()]
    given = dict(zip(names, (one.cpu().numpy() for one in tensors_in(inputs)), strict=False))
    return lambda: session.run(None, given)


def _share_of_ops(events: Sequence[Mapping[str, Any]]) -> float:
    """Return the share of the kernels' time, as the runtime's profiler told it, that is not of reorders."""
    spent: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            spent[event["args"]["op_name"]].append(event["dur"])
    medians = {name: median(one) for name, one in spent.items()}
    own = sum(one for name, one in medians.items() if name not in _REORDERS)
    return own / sum(medians.values()) if own else 1.0


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


def as_onnx(graph_module: fx.GraphModule, inputs: tuple[Any, ...]) -> bytes:
    """Return the graph as ONNX: by torch's older exporter, which takes milliseconds for one op, or else the newer."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = Path(folder) / "network.onnx"
        try:
            torch.onnx.export(graph_module, inputs, file, dynamo=False)
        except Exception:
            try:
                torch.onnx.export(graph_module, inputs, file, dynamo=True, external_data=False, verbose=False)
            except Exception as error:
                raise FxpruneError(
                    f"torch cannot export the network to ONNX: {first_line(error)}; take another backend"
                ) from error
        return file.read_bytes()
