"""The MACs of products that are no convolution, from the shapes of what they read and return; one rule a kind."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torch import fx, nn

from fxprune.facts.shapes import shape
from fxprune.ops.call import Call
from fxprune.ops.op import MULTIPLYING, Op

Shape = tuple[int, ...]
Rule = Callable[[Call], int]


class UnknownMacs(Exception):
    """The MACs of a node cannot be told."""


def known_shape(value: Any) -> Shape:
    """Return the shape of the one tensor that a node computes; raises UnknownMacs if it is not known."""
    found = shape(value) if isinstance(value, fx.Node) else None
    if found is None:
        raise UnknownMacs
    return found


def shape_of(call: Call, name: str) -> Shape:
    """Return the shape of an argument of a call; raises UnknownMacs if it is not known."""
    return known_shape(call.argument(name))


def _elements(call: Call) -> int:
    return math.prod(known_shape(call.node))


def _conv(call: Call) -> int:
    """Return the MACs of a convolution: each element of the result is made with the weights of one channel."""
    layer = call.module
    if layer is None:
        return _elements(call) * math.prod(shape_of(call, "weight")[1:])
    return (
        _elements(call) * int(layer.in_channels // layer.groups) * math.prod(int(size) for size in layer.kernel_size)
    )


def _transposed_conv(call: Call) -> int:
    """Return the MACs of a transposed convolution: each element of the input meets the weights of one channel."""
    layer, elements = call.module, math.prod(shape_of(call, "input"))
    if layer is None:
        return elements * math.prod(shape_of(call, "weight")[1:])
    return elements * int(layer.out_channels // layer.groups) * math.prod(int(size) for size in layer.kernel_size)


def _linear(call: Call) -> int:
    inputs = call.module.in_features if call.module is not None else shape_of(call, "weight")[-1]
    return _elements(call) * int(inputs)


def _product(name: str) -> Rule:
    """Return the rule of a product whose first factor, the argument of that name, loses its last axis."""

    def rule(call: Call) -> int:
        left = shape_of(call, name)
        return _elements(call) * left[-1] if left else 0

    return rule


def _batches_summed(call: Call) -> int:
    return math.prod(shape_of(call, "batch1")) * known_shape(call.node)[-1]


def _tensordot(call: Call) -> int:
    """Return sqrt(|a| |b| |out|): with A rows, k contracted and B columns, that of A k, k B and A B elements."""
    sides = shape_of(call, "a"), shape_of(call, "b"), known_shape(call.node)
    squared = math.prod(map(math.prod, sides))
    if math.isqrt(squared) ** 2 != squared:  # an axis of size 1 met another
        raise UnknownMacs
    return math.isqrt(squared)


def _chain(call: Call) -> int:
    """Return the least MACs of all orders, as torch multiplies several matrices."""
    sides = [known_shape(one) for one in call.argument("tensors")]
    if len(sides) < 2:
        raise UnknownMacs
    sizes = [
        *(sides[0] if len(sides[0]) == 2 else (1, *sides[0])),
        *(side[1] if len(side) == 2 else 1 for side in sides[1:]),
    ]
    least = {(i, i): 0 for i in range(len(sides))}
    for length in range(1, len(sides)):
        for i in range(len(sides) - length):
            j = i + length
            ways = (least[i, k] + least[k + 1, j] + sizes[i] * sizes[k + 1] * sizes[j + 1] for k in range(i, j))
            least[i, j] = min(ways)
    return least[0, len(sides) - 1]


def _einsum(call: Call) -> int:
    """Return the MACs of the pairs, from the left, as torch multiplies them: of all axes of a pair, each once.

    What only one of a pair has, and nobody needs later, is summed first. One operand is a sum or a transpose: 0.
    """
    terms, operands = call.argument("equation"), call.argument("operands")
    if not isinstance(terms, str):
        raise UnknownMacs
    shapes = [known_shape(one) for one in (operands if isinstance(operands, (list, tuple)) else [operands])]
    left, arrow, out = terms.replace(" ", "").partition("->")
    axes = [_axes(term, len(sides)) for term, sides in zip(left.split(","), shapes, strict=True)]
    sizes: dict[str | int, int] = {}
    for names, sides in zip(axes, shapes, strict=True):
        for name, size in zip(names, sides, strict=True):
            sizes[name] = max(size, sizes.get(name, 0))
    once = {name for name, count in Counter(n for names in axes for n in names).items() if count == 1}
    spread = {name for name in sizes if isinstance(name, int)}
    kept = ({*out.replace(".", "")} | (spread if "..." in out else set())) if arrow else once | spread
    macs, held = 0, set(axes[0])
    for index, names in enumerate(axes[1:], start=1):
        later = kept.union(*axes[index + 1 :])
        pair = {name for name in held | set(names) if name in later or (name in held and name in names)}
        macs += math.prod(sizes[name] for name in pair)
        held = pair & later
    return macs


def _axes(term: str, rank: int) -> list[str | int]:
    """Return a name for each axis of an operand; those of "..." are counted from the last one, below 0."""
    before, dots, behind = term.partition("...")
    spread = range(len(before) + len(behind) - rank, 0) if dots else ()
    return [*before, *spread, *behind]


def _bilinear(call: Call) -> int:
    layer = call.module
    first, second = (layer.in1_features, layer.in2_features) if layer is not None else shape_of(call, "weight")[1:]
    return _elements(call) * int(first) * (int(second) + 1)


def _scaled_attention(call: Call) -> int:
    query, key = shape_of(call, "query"), shape_of(call, "key")
    return math.prod(query[:-1]) * key[-2] * query[-1] + _elements(call) * key[-2]


def _attention(call: Call) -> int:
    """Return the MACs of a layer of attention."""
    layer = call.module
    query, key = shape_of(call, "query"), shape_of(call, "key")
    widths, extra = (int(layer.kdim), int(layer.vdim)), (layer.bias_k is not None) + layer.add_zero_attn
    return _heads(query, key, int(layer.embed_dim), widths, batch_first=layer.batch_first, extra=extra)


def _attention_function(call: Call) -> int:
    query, key, value = (shape_of(call, name) for name in ("query", "key", "value"))
    extra = (call.argument("bias_k") is not None) + bool(call.argument("add_zero_attn"))
    return _heads(query, key, query[-1], (key[-1], value[-1]), extra=extra)


def _window_attention(call: Call) -> int:
    """Return the MACs of torchvision's Swin attention: four projections, and two products inside windows."""
    source, window = shape_of(call, "input"), call.argument("window_size")
    if not isinstance(window, (list, tuple)) or not all(isinstance(side, int) for side in window):
        raise UnknownMacs
    return math.prod(source) * (4 * source[-1] + 2 * math.prod(window))


def _heads(
    query: Shape, key: Shape, width: int, widths: Sequence[int], *, batch_first: bool = False, extra: int = 0
) -> int:
    """Return the MACs of attention with ``width`` features, to keys and values of ``widths`` and ``extra`` ones."""
    batched = len(query) == 3
    axis = 1 if batched and batch_first else 0
    tokens, others = query[axis], key[axis]
    batch = query[1 - axis] if batched else 1
    return batch * width * (2 * tokens * width + others * sum(widths) + 2 * tokens * (others + extra))


def _recurrent(call: Call) -> int:
    """Return the MACs of an RNN, a GRU or an LSTM over all steps, or of one step of a cell."""
    assert call.op is not None
    layer: nn.RNNBase | nn.RNNCellBase = call.module
    hidden: int = layer.hidden_size
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[call.op.name]
    steps = math.prod(shape_of(call, "input")) // layer.input_size
    if not isinstance(layer, nn.RNNBase):
        return steps * gates * hidden * (layer.input_size + hidden)
    directions, returned = 1 + layer.bidirectional, layer.proj_size or hidden
    read = layer.input_size + (layer.num_layers - 1) * directions * returned + layer.num_layers * returned
    projected = layer.num_layers * hidden * layer.proj_size
    return steps * directions * (gates * hidden * read + projected)


_RULES: dict[str, Rule] = {  # by the kind of an op, or by its name where the kind says too little
    **{"conv": _conv, "transposed conv": _transposed_conv, "linear": _linear, "recurrent": _recurrent},
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "inner", "dot"), _product("input")),
    **{"addmm": _product("mat1"), "addmv": _product("mat"), "baddbmm": _product("batch1"), "addbmm": _batches_summed},
    **{"outer": _elements, "addr": _elements, "tensordot": _tensordot, "einsum": _einsum},
    **{"chain_matmul": _chain, "multi_dot": _chain, "bilinear": _bilinear},
    **{"multihead_attention": _attention, "scaled_dot_product_attention": _scaled_attention},
    **{"multi_head_attention_forward": _attention_function, "shifted_window_attention": _window_attention},
}


def macs_of_call(call: Call, op: Op) -> int:
    """Return the MACs of a call of ``op``: none, if it is of a kind that multiplies nothing; raises UnknownMacs."""
    if op.kind not in MULTIPLYING:
        return 0
    rule = _RULES.get(op.kind) or _RULES.get(op.name)
    if rule is None:
        raise UnknownMacs
    return rule(call)
