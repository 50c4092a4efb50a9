"""Shapes, dtypes and storages of every value in a graph, found with fake tensors (nothing is computed)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
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

from fxprune.errors import LoadError, TraceError, first_line
from fxprune.facts.effects import is_foreign
from fxprune.facts.kept_state import keeping_state
from fxprune.facts.shape_cache import Values, metadata_of
from fxprune.ir.autocast import ENTER_AUTOCAST, autocast_kept
from fxprune.ir.by_mode import TRAIN_INPUTS, only_in
from fxprune.ir.copies import copy_module
from fxprune.ir.interpreter import Interpreter
from fxprune.ir.module_tree import evaluating, every_module, is_opaque, set_flags
from fxprune.ir.nodes import EXAMPLE_INPUTS, called_module, example_inputs_of, graphs_of, is_cast, module_path
from fxprune.ir.pytrees import copy_tensors, map_tensors, tensors_in, version_of
from fxprune.ir.wrappers import uncompiled
from fxprune.ops.call import Call

META = "tensor_meta"
WRITES = "fxprune_writes"  # on a call of foreign code: which of its arguments it was seen to write into
UNCHECKED = "fxprune_unchecked_shapes"  # on a graph whose shapes a file told


Returned = Mapping[str, Sequence[Any]]
"""What opaque modules returned in a run, by path, call by call."""
_NOTHING: Returned = {}


class _NeedsData(Exception):
    """Fake tensors will not do."""


class _Recorder(Interpreter):
    """Runs a graph and keeps every value, so that storages stay apart."""

    def __init__(
        self,
        owner: fx.GraphModule,
        graph: fx.Graph,
        foreign: Collection[fx.Node],
        mode: FakeTensorMode | None = None,
        returned: Returned = _NOTHING,
    ) -> None:
        super().__init__(owner, keep=True)
        self.graph = graph
        self.values = Values()
        self._foreign = foreign
        self._mode = mode
        self._returned = {path: iter(outputs) for path, outputs in returned.items()}

    def run_all(self, *args: Any) -> None:
        """Work out the value of every node that the mode of the graph computes; None stands for the others."""
        self.args_iter = iter(args)
        others = only_in(self.graph, "eval" if self.module.training else "train")
        for node in self.graph.nodes:
            self.env[node] = None if node in others and node.op != "placeholder" else self.run_node(node)

    def run_node(self, n: fx.Node) -> Any:
        inputs = [(one, version_of(one)) for one in self._tensors_read(n)] if n in self._foreign else []
        try:
            value = super().run_node(n) if self._mode is None else self._fake_value(n)
        except (DataDependentOutputException, DynamicOutputShapeException):
            raise
        except Exception as error:
            if n in self._foreign and self._mode is not None:
                raise _NeedsData from error
            raise TraceError(_explain(n, error)) from error
        self.values[n] = None if n.target is ENTER_AUTOCAST else value
        changed = [one for one, version in inputs if version_of(one) != version]
        if changed:
            direct = [self.values[one] if isinstance(one, fx.Node) else None for one in n.args]
            self.values.writes[n] = tuple(
                next((index for index, value in enumerate(direct) if value is one), None) for one in changed
            )
        return value

    def _fake_value(self, n: fx.Node) -> Any:
        if n.op == "call_module" and n.target in self._returned:
            assert self._mode is not None
            return map_tensors(next(self._returned[str(n.target)]), self._mode.from_tensor)
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
    op = Call(node).exact
    return op is not None and op.name == "batch_norm"


def _explain(node: fx.Node, error: Exception) -> str:
    where = f"node {node.name}"
    if module_path(node):
        where += f" (module {module_path(node)})"
    advice = "pass inputs of the shape and dtype that it takes"
    return f"the example inputs do not fit the model: at {where}: {first_line(error)}; {advice}"


def propagate_shapes(
    graph_module: fx.GraphModule, inputs: Sequence[Any], *, training: bool = False, returned: Returned = _NOTHING
) -> Values:
    """Write ``meta["tensor_meta"]`` on every node (torch.fx's TensorMetadata); return what :func:`values_of` does."""
    values = values_of(graph_module, inputs, training=training, returned=returned)
    for node in graph_module.graph.nodes:
        node.meta[META] = values.metadata(node)
    for node, written in values.writes.items():
        node.meta[WRITES] = written
    return values


def values_of(
    graph_module: fx.GraphModule, inputs: Sequence[Any], *, training: bool = False, returned: Returned = _NOTHING
) -> Values:
    """Return the value of every node, of which shape, dtype and storage are true; the graph stays as it is.

    Runs in eval mode, or in train mode, on fake tensors; on real ones where a value's shape depends on data, or a
    module is opaque and not in ``returned``, of this mode. What the other mode alone computes has the shapes that it
    has there; in train mode on inputs of its own if the graph has such. What the graph or its modules update is as
    before (see :mod:`fxprune.facts.kept_state`). Raises TraceError, naming node and path, if the inputs do not fit.
    """
    values = _values_in_mode(graph_module, inputs, training, returned)
    others = only_in(graph_module.graph, "eval" if training else "train")
    if others:
        others_inputs = inputs if training else graph_module.meta.get(TRAIN_INPUTS, inputs)
        own = _values_in_mode(graph_module, others_inputs, not training)
        values.writes |= own.writes
        for node in others:
            values[node] = own.raw(node)
    return values


def note_shape(node: fx.Node, value: torch.Tensor) -> None:
    """Write on ``node``, a new one, that it computes tensors like ``value``."""
    node.meta[META] = metadata_of(value)


def renew_shapes(graph_module: fx.GraphModule) -> None:
    """Work the shapes of ``graph_module`` and of its regions out anew, each on its example inputs.

    A graph without example inputs has no shapes then, which is better than false ones. Raises TraceError as
    :func:`values_of`.
    """
    for _, graph in graphs_of(graph_module):
        graph.meta.pop(UNCHECKED, None)
        if EXAMPLE_INPUTS in graph.meta:
            propagate_shapes(graph, example_inputs_of(graph))
            continue
        for node in graph.graph.nodes:
            node.meta.pop(META, None)


def _values_in_mode(
    graph_module: fx.GraphModule, inputs: Sequence[Any], training: bool, returned: Returned = _NOTHING
) -> Values:
    """Return the value of every node that one mode computes."""
    nodes = graph_module.graph.nodes
    foreign = {node for node in nodes if is_foreign(node)}
    needs_data = any(is_opaque(called_module(node)) and node.target not in returned for node in foreign)
    owner: Any = copy_module(graph_module) if training else graph_module  # norms write to their statistics then
    with keeping_state(owner), evaluating(owner), uncompiled(), autocast_kept():
        set_flags(every_module(owner) if training else (), True)
        try:
            if needs_data:
                raise _NeedsData
            mode = FakeTensorMode(allow_non_fake_inputs=True)
            recorder = _Recorder(owner, graph_module.graph, foreign, mode, returned)
            recorder.run_all(*_fake_inputs(tuple(inputs), mode))
        except (DataDependentOutputException, DynamicOutputShapeException, _NeedsData):
            recorder = _Recorder(owner, graph_module.graph, foreign)
            recorder.run_all(*copy_tensors(tuple(inputs)))
    return recorder.values


def require_shapes(graph_module: fx.GraphModule) -> None:
    """Check, once, shapes that a file told; raises LoadError, naming the node, if they are not those of its values.

    Whoever is about to read the shapes of a whole graph asks for this first.
    """
    if not graph_module.meta.pop(UNCHECKED, False):
        return
    nodes = graph_module.graph.nodes
    told = {node: node.meta[META] for node in nodes if META in node.meta}
    try:
        propagate_shapes(graph_module, example_inputs_of(graph_module))
    except TraceError as error:
        raise LoadError(f"graph.json is damaged: {error}") from error
    wrong = [node for node, value in told.items() if _kinds(value) != _kinds(node.meta[META])]
    if wrong:
        raise LoadError(
            f"graph.json is damaged: what {wrong[0].name} computes has another shape or dtype than it says"
        )


def wrong_shapes(graph_module: fx.GraphModule) -> Iterator[fx.Node]:
    """Yield the nodes of which another shape or dtype is noted than their values have; the graph stays as it is.

    None where that cannot be told: without example inputs, once the graph is cast, where opaque modules compute.
    """
    nodes = graph_module.graph.nodes
    if EXAMPLE_INPUTS not in graph_module.meta or is_cast(graph_module):
        return
    if any(is_opaque(called_module(node)) for node in nodes):
        return
    values = values_of(graph_module, example_inputs_of(graph_module))
    for node in nodes:
        if META in node.meta and _kinds(node.meta[META]) != _kinds(values.metadata(node)):
            yield node


def _kinds(value: Any) -> Any:
    """Return ``value`` with shape and dtype of every tensor in it; strides differ between versions of torch."""
    if isinstance(value, TensorMetadata):
        return value.shape, value.dtype
    if isinstance(value, (tuple, list)):
        return [_kinds(part) for part in value]
    return {key: _kinds(part) for key, part in value.items()} if isinstance(value, dict) else value


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


def takes_dtype(node: fx.Node) -> bool:
    """Say whether ``node`` is given a dtype: ``x.view(torch.int32)`` reads the same memory as other numbers."""
    given = (one.meta.get(META) if isinstance(one, fx.Node) else one for one in (*node.args, *node.kwargs.values()))
    return any(isinstance(one, torch.dtype) for one in given)


def same_shape(a: fx.Node, b: fx.Node) -> bool:
    """Say whether both nodes are known to compute tensors of one shape and dtype."""
    first, second = tensor_meta(a), tensor_meta(b)
    return first is not None and second is not None and first.shape == second.shape and first.dtype == second.dtype


def is_size(node: fx.Node) -> bool:
    """Say whether ``node`` is known to compute no tensor: a size, a dtype, a device."""
    value = node.meta.get(META)
    return value is not None and not metadata_in(value)


def metadata_in(value: Any) -> list[TensorMetadata]:
    """Return that of every tensor in a value, of which torch.fx's metadata stands in the place of tensors."""
    if isinstance(value, TensorMetadata):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return [one for part in parts for one in metadata_in(part)]
