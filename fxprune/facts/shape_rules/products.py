"""Shapes of linear layers, products of matrices and attention."""

from __future__ import annotations

from typing import Any

from fxprune.facts.shape_rules.cases import Case, Refused, Shape
from fxprune.facts.shape_rules.sizes import Size, broadcast
from fxprune.facts.shape_rules.windows import ending
from fxprune.ops.call import Call


def linear(call: Call, first: Shape, case: Case) -> Shape | None:
    """Return the shape of a linear layer's value."""
    if call.module is not None:
        outputs, inputs = call.module.out_features, call.module.in_features
    else:
        weight = case.shapes.get(call.argument("weight"))
        sizes: Any = weight.dims if isinstance(weight, Shape) else ()
        if len(sizes) != 2 or not all(isinstance(one, int) for one in sizes):
            return None
        outputs, inputs = sizes
    first = case.last(first, 1)
    case.require(first.dims[-1], inputs)
    return ending(first, outputs)


def matmul(call: Call, first: Shape, case: Case) -> Shape | None:
    """Return the shape of a product of matrices, batches of them broadcast."""
    assert call.op is not None
    second = case.shapes.get(call.argument(call.op.parameters[1].name))
    if not isinstance(second, Shape):
        return None
    first, second = case.resolved(first), case.resolved(second)
    if first.lead is not None or second.lead is not None or min(len(first.dims), len(second.dims)) < 2:
        return None
    batch = case.wide(call.node, Shape(None, 0, first.dims[:-2]), Shape(None, 0, second.dims[:-2]))
    return batch._replace(dims=(*batch.dims, first.dims[-2], second.dims[-1]))


def einsum(call: Call, first: Any, case: Case) -> Shape | None:
    """Return the shape that an equation with named axes makes; None if it is not spelt out."""
    terms, operands = call.argument("equation"), call.argument("operands")
    if not isinstance(terms, str) or "." in terms or "->" not in terms:
        return None
    inputs, _, output = terms.replace(" ", "").partition("->")
    sizes: dict[str, Size] = {}
    for axes, one in zip(inputs.split(","), as_list(operands), strict=True):
        shape = case.shapes.get(one)
        if not isinstance(shape, Shape):
            return None
        for axis, size in zip(axes, case.ranked(shape, len(axes)).dims, strict=True):
            both = broadcast(sizes.get(axis, 1), size)
            if both is None:
                raise Refused
            sizes[axis] = both
    return Shape(None, 0, tuple(sizes[axis] for axis in output))


def as_list(given: Any) -> list[Any]:
    """Return the operands that an op takes as one or several."""
    return list(given) if isinstance(given, (tuple, list)) else [given]


def attention(call: Call, first: Shape, case: Case) -> Shape | None:
    """Return the shape of scaled dot products of queries, keys and values."""
    value, key = case.shapes.get(call.argument("value")), case.shapes.get(call.argument("key"))
    if not isinstance(value, Shape) or not isinstance(key, Shape):
        return None
    first, key, value = case.resolved(first), case.resolved(key), case.resolved(value)
    if any(one.lead is not None or len(one.dims) < 2 for one in (first, key, value)):
        return None
    batch = Shape(None, 0, first.dims[:-2])
    if not first.dims[:-2] == key.dims[:-2] == value.dims[:-2]:  # these are broadcast, unless groups share a head
        if call.argument("enable_gqa"):
            return None
        for one in (key, value):
            batch = case.wide(call.node, batch, Shape(None, 0, one.dims[:-2]))
    return batch._replace(dims=(*batch.dims, first.dims[-2], value.dims[-1]))


def heads(call: Call, first: Shape, case: Case) -> list[Any]:
    """Return what a layer of attention returns: values of the queries' shape, and weights."""
    return [case.among(first, 2, 3), None]
