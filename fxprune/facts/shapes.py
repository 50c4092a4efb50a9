"""Shapes, dtypes and storages of every value in a graph, found with fake tensors (nothing is computed)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.fx.node import map_aggregate
from torch.fx.passes.shape_prop import TensorMetadata, _extract_tensor_metadata

from fxprune.errors import TraceError
from fxprune.graph import evaluating, module_path

META = "tensor_meta"


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps every value, so that storages stay apart."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module, garbage_collect_values=False)
        self.extra_traceback = False
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        try:
            self.values[n] = super().run_node(n)
        except (DataDependentOutputException, DynamicOutputShapeException):
            raise
        except Exception as error:
            raise TraceError(_explain(n, error)) from error
        return self.values[n]


def _explain(node: fx.Node, error: Exception) -> str:
    where = f"node {node.name}"
    if module_path(node):
        where += f" (module {module_path(node)})"
    lines = str(error).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    return f"the example inputs do not fit the model: at {where}: {reason}; pass inputs of the shape that it takes"


def propagate_shapes(graph_module: fx.GraphModule, inputs: Sequence[Any]) -> dict[fx.Node, Any]:
    """Write ``meta["tensor_meta"]`` on every node (torch.fx's TensorMetadata) and return the values found.

    Runs in eval mode on fake tensors; on real ones where a value's shape depends on data.
    Raises TraceError, naming node and module path, if the inputs do not fit.
    """
    with evaluating(graph_module):
        recorder = _Recorder(graph_module)
        try:
            mode = FakeTensorMode(allow_non_fake_inputs=True)
            fakes = map_aggregate(tuple(inputs), lambda x: mode.from_tensor(x) if isinstance(x, torch.Tensor) else x)
            with mode:
                recorder.run(*fakes)
        except (DataDependentOutputException, DynamicOutputShapeException):
            recorder = _Recorder(graph_module)
            copies = map_aggregate(tuple(inputs), lambda x: x.clone() if isinstance(x, torch.Tensor) else x)
            recorder.run(*copies)
    for node, value in recorder.values.items():
        node.meta[META] = map_aggregate(
            value, lambda x: _extract_tensor_metadata(x) if isinstance(x, torch.Tensor) else x
        )
    return recorder.values


def tensor_meta(node: fx.Node) -> TensorMetadata | None:
    """Return the metadata of the one tensor that ``node`` computes; None if unknown or not one tensor."""
    meta = node.meta.get(META)
    return meta if isinstance(meta, TensorMetadata) else None


def shape(node: fx.Node) -> tuple[int, ...] | None:
    """Return the shape of the one tensor that ``node`` computes; None if unknown or not one tensor."""
    meta = tensor_meta(node)
    return None if meta is None else tuple(meta.shape)


def is_floating(node: fx.Node) -> bool:
    """Say whether ``node`` is known to compute one tensor of a floating-point dtype."""
    meta = tensor_meta(node)
    return meta is not None and meta.dtype.is_floating_point


def same_shape(a: fx.Node, b: fx.Node) -> bool:
    """Say whether both nodes are known to compute tensors of one shape and dtype."""
    first, second = tensor_meta(a), tensor_meta(b)
    return first is not None and second is not None and first.shape == second.shape and first.dtype == second.dtype


def is_size(node: fx.Node) -> bool:
    """Say whether ``node`` is known to compute no tensor: a size, a dtype, a device."""
    value = node.meta.get(META)
    return value is not None and not _holds_tensor(value)


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, TensorMetadata):
        return True
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return any(_holds_tensor(part) for part in parts)
