"""Products of two activations: contracted axes are joined, batch axes too and kept, free ones keep their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fxprune.ops.call import Call
from fxprune.structures.channels.labels import Reason
from fxprune.structures.channels.tensors import meet
from fxprune.structures.channels.values import Layer, Value
from fxprune.structures.channels.walk import Reader, Walk


def matmul(walk: Walk, call: Call) -> Any:
    """(..., n, k) times (..., k, m)."""
    a, b = walk.value(call.operand(0)), walk.value(call.operand(1))
    if len(a.shape) < 2 or len(b.shape) < 2:
        return walk.barrier(call.node, "multiplies by a vector")
    letters = "abcdefghijklmnopqrstuvw"
    batch = max(len(a.shape), len(b.shape)) - 2
    names = letters[:batch]
    first, second = (names[batch - (len(one.shape) - 2) :] for one in (a, b))
    return contract(walk, call, [a, b], [f"{first}xy", f"{second}yz"], f"{names}xz")


def einsum(walk: Walk, call: Call) -> Any:
    """What an equation says."""
    equation, given = call.argument("equation"), call.argument("operands")
    values = [walk.value(one) for one in (given if isinstance(given, (tuple, list)) else (given,))]
    if not isinstance(equation, str) or "." in equation or "->" not in equation or len(values) != 2:
        return walk.barrier(call.node, "is a product that is not known")
    inputs, output = equation.replace(" ", "").split("->")
    terms = inputs.split(",")
    if any(len(set(one)) != len(one) for one in (*terms, output)):
        return walk.barrier(call.node, "takes a diagonal")
    return contract(walk, call, values, terms, output)


def attention(walk: Walk, call: Call) -> Any:
    """softmax(q k') v: q and k are multiplied over their last axis; the keys are mixed."""
    q, k, v = (walk.value(call.argument(name)) for name in ("query", "key", "value"))
    mask = walk.value(call.argument("attn_mask"))
    if walk.number(call.argument("enable_gqa")) or len({len(one.shape) for one in (q, k, v)}) > 1:
        return walk.barrier(call.node, "shares its heads")
    rank = len(q.shape)
    batch = "abcdefgh"[: rank - 2]
    scores = contract(walk, call, [q, k], [f"{batch}lx", f"{batch}sx"], f"{batch}ls")
    scores = walk.mixed(scores, [rank - 1], Reason(call.node, "mixes all keys"))
    if isinstance(mask, Value):
        both = walk.broadcast([scores, mask], scores.shape, Reason(call.node, "its mask has no channels"))
        scores = walk.mixed(both, [rank - 1], Reason(call.node, "mixes all keys"))
    return contract(walk, call, [scores, v], [f"{batch}ls", f"{batch}sx"], f"{batch}lx")


def contract(walk: Walk, call: Call, values: Sequence[Value], terms: Sequence[str], output: str) -> Value:
    """Return the product of two values whose axes have names: those that ``output`` lacks are summed over."""
    sizes: dict[str, int] = {}
    for value, term in zip(values, terms, strict=True):
        for name, size in zip(term, value.shape, strict=True):
            sizes[name] = max(size, sizes.get(name, 1))
    found = [_named(walk, value, term) for value, term in zip(values, terms, strict=True)]
    reason = Reason(call.node, "multiplies what has no channels there")
    layers: list[Layer] = []
    for name in sizes:
        sides = [
            one.get(name, ())
            for one, value, term in zip(found, values, terms, strict=True)
            if _has(value, term, name)
        ]
        vectors = sides[0] if sides else ()
        for other in sides[1:]:
            vectors = meet(walk.labels, vectors, other, reason)
        if name in output:
            layers += [Layer((output.index(name),), one) for one in vectors]
        elif len(sides) == 2 and vectors:
            walk.readers.append(Reader(call.node, None, terms[0].index(name), vectors))
        else:
            for one in vectors:
                walk.labels.pin(one, Reason(call.node, "sums over them"))
    return Value(tuple(sizes[name] for name in output), tuple(layers))


def _has(value: Value, term: str, name: str) -> bool:
    return name in term and value.shape[term.index(name)] > 1


def _named(walk: Walk, value: Value, term: str) -> Mapping[str, Any]:
    """Return the labels along each axis by its name; each layer varies along one."""
    for axis in range(len(term)):
        value = walk.settled(value, axis)
    return {name: value.along(axis) for axis, name in enumerate(term)}
