"""Which ops of a graph take time in the network that will be emitted of it, and what each computes.

scale(norm(conv(x)))  ->  conv with bias        gates are fused, norms folded
x + s * R(x)          ->  x + R(x)
flatten, dropout, identities, views             nothing
w - mean(w)                                     nothing    weights are computed once
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import fx
from torch.fx.passes.shape_prop import TensorMetadata
from torch.nn import functional
from torch.utils import _pytree as pytree

from fxprune.costs.latency.as_called import AsCalled
from fxprune.costs.latency.layers import norm_workload, weighted_workload
from fxprune.costs.latency.products import product_workload
from fxprune.costs.latency.workloads import Operand, Workload, call_workload, layer_workload, padded_workload
from fxprune.facts.constants import Constants
from fxprune.facts.equal_shapes import EqualShapes
from fxprune.facts.foldable_norms import folding_obstacle
from fxprune.facts.module_uses import CallSites
from fxprune.facts.overwriting import is_sum
from fxprune.facts.shape_cache import Values
from fxprune.facts.shapes import metadata_in, values_of
from fxprune.gates.base import Gated, ungated, ungated_call
from fxprune.ir.by_mode import is_by_mode, only_in
from fxprune.ir.module_tree import is_layer
from fxprune.ir.nodes import called_module, only_user
from fxprune.ops.call import Call
from fxprune.ops.free_ops import op_name
from fxprune.ops.layer_classes import NORM_CLASSES
from fxprune.ops.op import WEIGHTED
from fxprune.ops.operators import is_torchs_own

_FREE = ("identity", "dropout", "size", "check")
_SCALING = (
    *("elementwise", "arithmetic", "axis", "movement", "join", "pad", "resize"),
    *("window", "adaptive pool", "reduction", "cast"),
)
"""The kinds of which one op at another width is the same call of wider tensors."""
_IN_PLACE: dict[str, Callable[..., Any]] = {"relu": functional.relu, "relu6": functional.relu6}


@dataclass(frozen=True)
class TimedOp:
    """An op of a graph that takes time.

    Attributes:
        node: of the graph that was asked.
        workload: what it computes, at full width.
        axes: of each of its parameters whose width that is: of the value of that node, along that axis.
        calls: how often it runs in one call of the whole network.
        inside: what is timed of its own in the regions of the opaque module that it calls, not in regions of these.
    """

    node: fx.Node
    workload: Workload
    axes: tuple[tuple[fx.Node, int], ...]
    calls: float = 1.0
    inside: tuple[TimedOp, ...] = ()


class OpsOfGraph:
    """The ops of one graph, or of a region, for given inputs.

    Args:
        graph_module: a graph: traced, with gates, or plain.
        inputs: of which its values have their shapes.
    """

    def __init__(self, graph_module: fx.GraphModule, inputs: tuple[Any, ...]) -> None:
        self._graph_module = graph_module
        self._inputs = inputs
        self._values: Values = values_of(graph_module, inputs)
        self._axes: dict[fx.Node, int | None] = {}
        self._as_called = AsCalled(graph_module, inputs)

    @cached_property
    def _sites(self) -> CallSites:
        """Which layers are called once, what gates measure left out: they go."""
        reads = self._graph_module.graph.find_nodes(op="get_attr")
        of_gates = {one for one in reads if all(isinstance(called_module(user), Gated) for user in one.users)}
        return CallSites(self._graph_module, of_gates)

    @cached_property
    def _constants(self) -> Constants:
        return Constants(self._graph_module)

    @cached_property
    def _shapes(self) -> EqualShapes:
        return EqualShapes(self._graph_module)

    def timed(self) -> list[TimedOp]:
        """Return what takes time, in the order of the graph."""
        in_training = only_in(self._graph_module.graph, "train")
        found = []
        for node in self._graph_module.graph.nodes:
            if node in in_training:
                continue
            call = ungated_call(node)
            self._axes[node] = self._axis(node, call)
            if not self._is_free(node, call):
                found.append(self._op(node, call))
        return found

    def _op(self, node: fx.Node, call: Call) -> TimedOp:
        found = self._weighted(node, call) or self._norm(node, call) or self._product(node, call)
        found = found or self._scaling(node, call)
        return found or TimedOp(node, self._as_called.workload(node), ())

    def _is_free(self, node: fx.Node, call: Call) -> bool:
        """Say whether the emitted network computes nothing here, or next to nothing."""
        if node.op in ("placeholder", "get_attr", "output") or is_by_mode(node) or call.kind in _FREE:
            return True
        gate = called_module(node)
        if isinstance(gate, Gated) and ungated(gate) is gate and gate.operands != 2:
            return True  # of channels: they are multiplied into weights
        if not metadata_in(self._values.metadata(node)) or self._is_folded(node, call) or self._is_weight(node):
            return True
        if call.module is not None:
            return is_layer(call.module) and self._is_view(node)
        return (node.op == "call_method" or is_torchs_own(node.target)) and self._is_view(node)

    def _is_weight(self, node: fx.Node) -> bool:
        """Say whether parameters alone tell this value, which the emitted network holds then."""
        return self._constants.obstacle(node) is None and bool(self._constants.leaves(node))

    def _is_view(self, node: fx.Node) -> bool:
        read = {key for one in node.all_input_nodes for key in self._values.storages(one)}
        mine = self._values.storages(node)
        return node not in self._values.writes and bool(mine) and read.issuperset(mine)

    def _is_folded(self, node: fx.Node, call: Call) -> bool:
        """Say whether this is a batch norm that goes into the layer in front of it."""
        if not isinstance(call.module, NORM_CLASSES):
            return False
        training = self._graph_module.training
        return folding_obstacle(node, self._sites, self._shapes, training=training, frozen=self._constants) is None

    def _weighted(self, node: fx.Node, call: Call) -> TimedOp | None:
        """Return a conv or a linear layer."""
        source, meta = call.input, self._meta(node)
        read = None if source is None else self._meta(source)
        if call.kind not in WEIGHTED or source is None or read is None or meta is None:
            return None
        user = only_user(node)
        has_norm = (user is not None and self._is_folded(user, Call(user))) or isinstance(called_module(node), Gated)
        found = weighted_workload(call, read, meta, has_norm)
        if found is None:
            return None
        axis, own = (len(read.shape) - 1,) * 2 if call.kind == "linear" else (_channels_of_conv(call, read),) * 2
        axes = ((source, axis), (node, own)) if len(found.widths) == 2 else ((node, own),)
        return TimedOp(node, found, axes)

    def _norm(self, node: fx.Node, call: Call) -> TimedOp | None:
        source, axis = call.input, self._axes[node]
        read = None if source is None else self._meta(source)
        if call.kind != "norm" or read is None or axis is None:
            return None
        found = norm_workload(call, read, axis)
        return None if found is None else TimedOp(node, found, ((node, axis),))

    def _product(self, node: fx.Node, call: Call) -> TimedOp | None:
        """Return a product of two values, or attention."""
        found = product_workload(call, self._meta)
        return None if found is None else TimedOp(node, *found)

    def _scaling(self, node: fx.Node, call: Call) -> TimedOp | None:
        """Return an op that is the same call at any width."""
        axis, meta, gate = self._axes[node], self._meta(node), called_module(node)
        read = node.all_input_nodes[:2] if isinstance(gate, Gated) else node.all_input_nodes
        metas = [self._meta(one) for one in read]
        if axis is None or meta is None or not read or None in metas:
            return None
        width = meta.shape[axis]
        operands = [
            Operand.like(one, self._scaled(source, one, meta, axis, call))
            for source, one in zip(read, metas, strict=True)
            if one is not None
        ]
        if isinstance(gate, Gated):
            found: Workload | None = call_workload("+=", _in_place_sum, operands, (width,))
        else:
            found = self._same_call(node, call, operands, axis, width)
        return None if found is None else TimedOp(node, found, ((node, axis),))

    def _same_call(
        self, node: fx.Node, call: Call, operands: list[Operand], axis: int, width: int
    ) -> Workload | None:
        if call.kind not in _SCALING or call.op is None or (call.op.weights and call.kind != "elementwise"):
            return None
        if call.op.name in _IN_PLACE and self._is_fresh(call.input):
            function = _IN_PLACE[call.op.name]
            return call_workload(
                f"{call.op.name}_",
                lambda x: ("call_function", function, tuple(x), {"inplace": True}),
                operands,
                (width,),
            )
        if call.kind == "pad" and operands[0].scaled[axis] < 0:
            return padded_workload(operands[0], axis, width)
        if is_sum(node) and len(operands) == 2 and operands[0].shape == operands[1].shape:
            return call_workload("+=", _in_place_sum, operands, (width,))
        if call.module is not None:
            if list(call.module.parameters()) or len(operands) != 1 or not is_layer(call.module):
                return None
            layer = call.module
            return layer_workload(repr(layer), lambda _: copy.copy(layer), operands[0], (width,), fused=True)
        places = {one: place for place, one in enumerate(node.all_input_nodes)}
        args, kwargs, kind, target = node.args, node.kwargs, node.op, node.target

        def again(x: list[fx.Node]) -> tuple[str, Any, Any, Any]:
            at = lambda one: x[places[one]]  # noqa: E731
            return kind, target, fx.map_arg(args, at), fx.map_arg(kwargs, at)

        told = pytree.tree_map(
            lambda one: places.get(one, one) if isinstance(one, fx.Node) else _told(one), (args, kwargs)
        )
        return call_workload(f"{op_name(target)}{told}", again, operands, (width,))

    def _is_fresh(self, source: fx.Node | None) -> bool:
        """Say whether ``source`` is new memory that one op reads, as its emitted reader may overwrite it."""
        if source is None or only_user(source) is None:
            return False
        module = called_module(source)
        op = ungated_call(source).op
        return (isinstance(module, Gated) and module.operands == 2) or (op is not None and op.fresh and op.unsaved)

    def _scaled(
        self, source: fx.Node, read: TensorMetadata, meta: TensorMetadata, axis: int, call: Call
    ) -> list[int]:
        """Return which axes of an operand grow with the width of the result."""
        scaled = [-1] * len(read.shape)
        place = self._axes.get(source)
        if call.kind == "arithmetic" or place is None:  # broadcast from the right
            place = axis - (len(meta.shape) - len(read.shape))
        if 0 <= place < len(scaled) and (read.shape[place] == meta.shape[axis] or call.kind == "join"):
            scaled[place] = 0
        return scaled

    def _axis(self, node: fx.Node, call: Call) -> int | None:
        """Return along which axis the channels of a value lie; None if nobody knows."""
        meta = self._meta(node)
        rank = 0 if meta is None else len(meta.shape)
        if meta is None or not rank:
            return None
        if node.op in ("placeholder", "get_attr"):
            return None if node.op == "get_attr" else 1 if rank in (2, 4, 5) else rank - 1
        if call.kind == "linear":
            return rank - 1
        if call.kind in ("product", "attention"):
            return 1 if rank == 4 else None  # of heads
        source = next((one for one in node.all_input_nodes if self._axes.get(one) is not None), None)
        read = None if source is None else self._meta(source)
        if call.kind in WEIGHTED:
            return None if read is None else _channels_of_conv(call, read)
        if source is None or read is None:
            return None
        before = self._axes[source]
        assert before is not None
        return _axis_behind(call, before, tuple(read.shape), tuple(meta.shape))

    def _meta(self, node: fx.Node) -> TensorMetadata | None:
        found = self._values.metadata(node)
        return found if isinstance(found, TensorMetadata) else None


def _channels_of_conv(call: Call, read: TensorMetadata) -> int:
    assert call.op is not None
    return len(read.shape) - call.op.axes - 1


def _told(value: Any) -> Any:
    """Return an argument as far as times depend on it: by which number one multiplies does not matter."""
    return "number" if isinstance(value, float) else value


def _in_place_sum(read: list[fx.Node]) -> tuple[str, Any, Any, Any]:
    return "call_function", operator.iadd, tuple(read[:2]), {}


def _axis_behind(call: Call, axis: int, read: tuple[int, ...], made: tuple[int, ...]) -> int | None:
    """Return where the channels of an op's input lie in its result."""
    width, name = read[axis], "" if call.op is None else call.op.name
    if name == "permute":
        dims = call.argument("dims")
        dims = dims if isinstance(dims, (tuple, list)) else ()
        places = [one % len(read) for one in dims if isinstance(one, int)]
        return places.index(axis) if axis in places else None
    if name == "transpose":
        first, second = (call.argument(one) for one in ("dim0", "dim1"))
        swapped = {first % len(read): second % len(read), second % len(read): first % len(read)}
        return int(swapped.get(axis, axis))
    if call.kind in ("join", "pad") or (len(made) == len(read) and made[axis] == width):
        return axis if axis < len(made) else None
    alike = [place for place, size in enumerate(made) if size == width]
    return alike[0] if len(alike) == 1 else None
