"""Shapes, dtypes and storages of every value in a graph, found with fake tensors (nothing is computed)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.fx.passes.shape_prop import TensorMetadata
from torch.nn import functional

from fxprune.autocast import ENTER_AUTOCAST, autocast_kept
from fxprune.errors import TraceError, first_line
from fxprune.facts.effects import is_foreign, is_in_place
from fxprune.facts.repeated_calls import Values
from fxprune.graph import called_module, module_path
from fxprune.interpreter import Interpreter
from fxprune.layer_classes import NORM_CLASSES
from fxprune.module_tree import evaluating, has_hooks, keeping_state
from fxprune.nests import copy_tensors, map_tensors, tensors_in

META = "tensor_meta"
WRITES = "fxprune_writes"  # on a call of foreign code: which of its arguments it was seen to write into


class _NeedsData(Exception):
    """Fake tensors will not do."""


class _Recorder(Interpreter):
    """Runs a graph and keeps every value, so that storages stay apart."""

    def __init__(
        self, graph_module: fx.GraphModule, foreign: Collection[fx.Node], mode: FakeTensorMode | None = None
    ) -> None:
        super().__init__(graph_module, keep=True)
        self.values = Values()
        self._foreign = foreign
        self._mode = mode

    def run_all(self, *args: Any) -> None:
        """Work out the value of every node."""
        self.args_iter = iter(args)
        for node in self.graph.nodes:
            self.env[node] = self.run_node(node)

    def run_node(self, n: fx.Node) -> Any:
        inputs = [(one, one._version) for one in self._tensors_read(n)] if n in self._foreign else []
        try:
            value = super().run_node(n) if self._mode is None else self._fake_value(n)
        except (DataDependentOutputException, DynamicOutputShapeException):
            raise
        except Exception as error:
            raise TraceError(_explain(n, error)) from error
        self.values[n] = None if n.target is ENTER_AUTOCAST else value
        changed = [one for one, version in inputs if one._version != version]
        if changed:
            direct = [self.values[one] if isinstance(one, fx.Node) else None for one in n.args]
            n.meta[WRITES] = tuple(
                next((index for index, value in enumerate(direct) if value is one), None) for one in changed
            )
        return value

    def _fake_value(self, n: fx.Node) -> Any:
        args = fx.map_arg(n.args, self.env.__getitem__)
        kwargs = fx.map_arg(n.kwargs, self.env.__getitem__) if n.kwargs else {}
        return self.values.calls.call(n, args, kwargs, self._compute)

    def _compute(self, n: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assert self._mode is not None
        with self._mode:
            if _is_batch_norm(n) and isinstance(args[0], FakeTensor):
                return torch.empty_like(args[0])
            return getattr(self, n.op)(n.target, args, kwargs)

    def _tensors_read(self, n: fx.Node) -> list[torch.Tensor]:
        return [tensor for source in n.all_input_nodes for tensor in tensors_in(self.values[source])]


def _is_batch_norm(node: fx.Node) -> bool:
    """Say whether ``node`` is a batch norm: its output is like its input, for which fake tensors take 10 ms."""
    module = called_module(node)
    if module is None:
        return node.target is functional.batch_norm
    return isinstance(module, NORM_CLASSES) and not has_hooks(module)


def _explain(node: fx.Node, error: Exception) -> str:
    where = f"node {node.name}"
    if module_path(node):
        where += f" (module {module_path(node)})"
    advice = "pass inputs of the shape and dtype that it takes"
    return f"the example inputs do not fit the model: at {where}: {first_line(error)}; {advice}"


def propagate_shapes(graph_module: fx.GraphModule, inputs: Sequence[Any]) -> Values:
    """Write ``meta["tensor_meta"]`` on every node (torch.fx's TensorMetadata) and return the values found.

    Runs in eval mode on fake tensors; on real ones where a value's shape depends on data or a module is opaque.
    Buffers that the graph updates keep their values.
    Raises TraceError, naming node and module path, if the inputs do not fit.
    """
    nodes = graph_module.graph.nodes
    foreign = {node for node in nodes if is_foreign(node)}
    needs_data = any(node.op == "call_module" for node in foreign)
    reads = graph_module.graph.find_nodes(op="get_attr", sort=False)
    may_write_buffers = bool(foreign) or (bool(reads) and any(map(is_in_place, nodes)))
    with (
        evaluating(graph_module),
        autocast_kept(),
        keeping_state(graph_module) if may_write_buffers else nullcontext(),
    ):
        try:
            if needs_data:
                raise _NeedsData
            mode = FakeTensorMode(allow_non_fake_inputs=True)
            recorder = _Recorder(graph_module, foreign, mode)
            recorder.run_all(*_fake_inputs(tuple(inputs), mode))
        except (DataDependentOutputException, DynamicOutputShapeException, _NeedsData):
            recorder = _Recorder(graph_module, foreign)
            recorder.run_all(*copy_tensors(tuple(inputs)))
    for node in graph_module.graph.nodes:
        node.meta[META] = recorder.values.metadata(node)
    return recorder.values


def _fake_inputs(inputs: tuple[Any, ...], mode: FakeTensorMode) -> Any:
    """Return ``inputs`` with fake tensors; those of plain ones are made past torch's converter, which takes long."""
    known: dict[int, torch.Tensor] = {}

    def fake(x: torch.Tensor) -> torch.Tensor:
        if type(x) is not torch.Tensor or x.layout is not torch.strided or x._is_view() or x.requires_grad:
            return mode.from_tensor(x)
        if id(x) not in known:
            meta = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
            known[id(x)] = FakeTensor(mode, meta, x.device)
        return known[id(x)]

    return map_tensors(inputs, fake)


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
