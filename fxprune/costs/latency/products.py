"""The work of products of two computed values, and of attention: at any numbers of heads, rows and columns.

matmul(q, k)                 1 x c0 x c1 x c2, 1 x c0 x c2 x c3      heads, rows, what is summed over, columns
attention(q, k, v)           heads, channels of q and k, channels of v
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import fx
from torch.fx.passes.shape_prop import TensorMetadata

from fxprune.costs.latency.workloads import Operand, Workload, call_workload
from fxprune.ops.call import Call
from fxprune.ops.free_ops import op_name

MetaOf = Callable[[fx.Node], TensorMetadata | None]
Axis = tuple[fx.Node, int]
_ATTENTION = "scaled_dot_product_attention"
_VALUES = {"matmul": ("input", "other"), "bmm": ("input", "mat2"), _ATTENTION: ("query", "key", "value")}
"""The parameters that are values, of what is timed so."""
_HEADS = 1  # the axis of heads, of four


def product_workload(call: Call, meta_of: MetaOf) -> tuple[Workload, tuple[Axis, ...]] | None:
    """Return the work of a product, and of each of its parameters along which axis of which value it lies.

    None of one that is not written so: it is timed as it is called.
    """
    name = "" if call.op is None else call.op.name
    if name not in _VALUES:
        return None
    read, given = call.node.all_input_nodes, [call.argument(one) for one in _VALUES[name]]
    values = [one for one in given if isinstance(one, fx.Node)]
    metas = {one: meta for one in read if (meta := meta_of(one)) is not None}
    if len(metas) < len(read) or len(set(values)) < len(given):
        return None
    ranks = {len(metas[one].shape) for one in values}
    if len(ranks) != 1 or min(ranks) < 3:
        return None
    groups = _of_attention(values, metas) if name == _ATTENTION else _of_product(values, metas)
    if groups is None:
        return None
    return _workload(call.node, groups, metas)


def _of_product(values: list[fx.Node], metas: Mapping[fx.Node, TensorMetadata]) -> list[list[Axis]] | None:
    first, second = values
    last = len(metas[first].shape) - 1
    return [*_heads(values, metas), [(first, last - 1)], [(first, last), (second, last - 1)], [(second, last)]]


def _of_attention(values: list[fx.Node], metas: Mapping[fx.Node, TensorMetadata]) -> list[list[Axis]] | None:
    query, key, value = values
    heads = _heads(values, metas)
    last = len(metas[query].shape) - 1
    if last == 3 and not heads:  # fewer heads of keys than of queries
        return None
    for one in metas.keys() - {query, key, value}:  # a mask
        axis = _HEADS - 4 + len(metas[one].shape)
        if heads and axis >= 0 and metas[one].shape[axis] == metas[query].shape[_HEADS]:
            heads[0].append((one, axis))
    return [*heads, [(query, last), (key, last)], [(value, last)]]


def _heads(values: list[fx.Node], metas: Mapping[fx.Node, TensorMetadata]) -> list[list[Axis]]:
    shapes = [metas[one].shape for one in values]
    is_one = len(shapes[0]) == 4 and len({shape[_HEADS] for shape in shapes}) == 1
    return [[(one, _HEADS) for one in values]] if is_one else []


def _workload(
    node: fx.Node, groups: list[list[Axis]], metas: Mapping[fx.Node, TensorMetadata]
) -> tuple[Workload, tuple[Axis, ...]]:
    operands = []
    for one, meta in metas.items():
        scaled = [-1] * len(meta.shape)
        for place, axes in enumerate(groups):
            for value, axis in axes:
                if value is one:
                    scaled[axis] = place
        operands.append(Operand.like(meta, scaled))
    places = {one: place for place, one in enumerate(metas)}

    def again(x: list[fx.Node]) -> tuple[str, Any, Any, Any]:
        at = lambda one: x[places[one]]  # noqa: E731
        return node.op, node.target, fx.map_arg(node.args, at), fx.map_arg(node.kwargs, at)

    widths = tuple(metas[axes[0][0]].shape[axes[0][1]] for axes in groups)
    told = fx.map_arg((node.args, node.kwargs), lambda one: str(places[one]))
    work = call_workload(f"{op_name(node.target)}{told}", again, operands, widths, fused=False, straight=True)
    return work, tuple(axes[0] for axes in groups)
