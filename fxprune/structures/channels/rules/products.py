"""Products of two activations: contracted axes are joined, batch axes too and kept, free ones keep their labels."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx

from fxprune.ops.call import Call
from fxprune.structures.channels.labels import Reason
from fxprune.structures.channels.tensors import meet
from fxprune.structures.channels.values import Layer, Value
from fxprune.structures.channels.walk import Reader, Walk


def matmul(walk: Walk, call: Call) -> Any:
    """(..., n, k) times (..., k, m); a vector has no n, or no m."""
    return _matrices(walk, call, call.operand(0), call.operand(1))


def added(walk: Walk, call: Call) -> Any:
    """addmm and the like: a product and what is added to it."""
    first, second = call.operand(1), call.operand(2)
    if call.input in (first, second):
        return walk.barrier(call.node, "adds what it multiplies")
    product = _matrices(walk, call, first, second, is_summed=call.op is not None and call.op.name == "addbmm")
    values = [product, walk.value(call.input)]
    return walk.broadcast(values, product.shape, Reason(call.node, "meets what has no channels there"))


def _matrices(walk: Walk, call: Call, first: fx.Node, second: fx.Node, *, is_summed: bool = False) -> Value:
    ranks = [len(walk.value(one).shape) for one in (first, second)]
    batch = "abcdefghijklmnopqrstuvw"[: max(*ranks, 2) - 2]
    own = [batch[len(batch) - max(rank - 2, 0) :] for rank in ranks]
    rows, columns = ("x" if ranks[0] > 1 else ""), ("z" if ranks[1] > 1 else "")
    output = f"{'' if is_summed else batch}{rows}{columns}"
    return contract(walk, call, [first, second], [f"{own[0]}{rows}y", f"{own[1]}y{columns}"], output)


def linear(walk: Walk, call: Call) -> Any:
    """F.linear with a weight that the graph computes, or turns: a product like others."""
    x, weight, bias = (call.argument(name) for name in ("input", "weight", "bias"))
    batch = "abcdefghijklmnopqrstuvw"[: len(walk.value(x).shape) - 1]
    product = contract(walk, call, [x, weight], [f"{batch}y", "zy"], f"{batch}z")
    given = walk.value(bias)
    if given is None:
        return product
    return walk.broadcast([product, given], product.shape, Reason(call.node, "meets what has no channels there"))


def einsum(walk: Walk, call: Call) -> Any:
    """What an equation says."""
    equation, given = call.argument("equation"), call.argument("operands")
    operands = list(given) if isinstance(given, (tuple, list)) else [given]
    if not isinstance(equation, str) or not all(isinstance(walk.value(one), Value) for one in operands):
        return walk.barrier(call.node, "is a product that is not known")
    terms, output = _written_out(equation.replace(" ", ""), [len(walk.value(one).shape) for one in operands])
    if any(len(set(one)) != len(one) for one in (*terms, output)):
        return walk.barrier(call.node, "takes a diagonal")
    return contract(walk, call, operands, terms, output)


def _written_out(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Return the terms and the output of an equation, with letters in the place of dots, and of no output."""
    inputs, arrow, output = equation.partition("->")
    terms = inputs.split(",")
    counts = [rank - len(one) + 3 if "..." in one else 0 for one, rank in zip(terms, ranks, strict=True)]
    letters = "".join([one for one in string.ascii_letters if one not in equation][: max(counts)])
    if not arrow:
        output = "..." + "".join(sorted(one for one in set(inputs) - set(".,") if inputs.count(one) == 1))
    spread = [one.replace("...", letters[len(letters) - k :]) for one, k in zip(terms, counts, strict=True)]
    return spread, output.replace("...", letters)


def attention(walk: Walk, call: Call) -> Any:
    """softmax(q k') v: q and k are multiplied over their last axis; the keys are mixed."""
    operands = [call.argument(name) for name in ("query", "key", "value")]
    q, k, v = map(walk.value, operands)
    mask = walk.value(call.argument("attn_mask"))
    if walk.number(call.argument("enable_gqa")) or len({len(one.shape) for one in (q, k, v)}) > 1:
        return walk.barrier(call.node, "shares its heads")
    rank = len(q.shape)
    batch = "abcdefgh"[: rank - 2]
    scores = contract(walk, call, operands[:2], [f"{batch}lx", f"{batch}sx"], f"{batch}ls")
    scores = walk.mixed(scores, [rank - 1], Reason(call.node, "mixes all keys"))
    if isinstance(mask, Value):
        both = walk.broadcast([scores, mask], scores.shape, Reason(call.node, "its mask has no channels"))
        scores = walk.mixed(both, [rank - 1], Reason(call.node, "mixes all keys"))
    return _contract(walk, call, [scores, v], operands[0], ([f"{batch}ls", f"{batch}sx"], f"{batch}lx"))


def contract(walk: Walk, call: Call, operands: Sequence[fx.Node], terms: Sequence[str], output: str) -> Value:
    """Return the product of values whose axes have names: those that ``output`` lacks are summed over."""
    return _contract(walk, call, [walk.value(one) for one in operands], operands[0], (terms, output))


def _contract(
    walk: Walk, call: Call, values: Sequence[Value], first: fx.Node, equation: tuple[Sequence[str], str]
) -> Value:
    terms, output = equation
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
        elif len(sides) > 1 and vectors and _has(values[0], terms[0], name):
            walk.readers.append(Reader(call.node, None, terms[0].index(name), vectors, first))
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
