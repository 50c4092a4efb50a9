"""The MACs of products that are no convolution, from the shapes of what they read and return; one rule a kind."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torch import fx, nn

from fxprune.facts.shape_rules.numbers import argument
from fxprune.facts.shapes import shape

Shape = tuple[int, ...]


class UnknownMacs(Exception):
    """The MACs of a node cannot be told."""


def known_shape(value: Any) -> Shape:
    """Return the shape of the one tensor that a node computes; raises UnknownMacs if it is not known."""
    found = shape(value) if isinstance(value, fx.Node) else None
    if found is None:
        raise UnknownMacs
    return found


def shape_of(node: fx.Node, index: int, name: str) -> Shape:
    """Return the shape of an argument of ``node``; raises UnknownMacs if it is not known."""
    return known_shape(argument(node, index, name))


def _product(index: int, name: str) -> Callable[[fx.Node], int]:
    """Return the rule of a product whose first factor, the argument there, loses its last axis."""

    def rule(node: fx.Node) -> int:
        left = shape_of(node, index, name)
        return math.prod(known_shape(node)) * left[-1] if left else 0

    return rule


def _batches_summed(node: fx.Node) -> int:
    return math.prod(shape_of(node, 1, "batch1")) * known_shape(node)[-1]


def _tensordot(node: fx.Node) -> int:
    """Return sqrt(|a| |b| |out|): with A rows, k contracted and B columns, that of A k, k B and A B elements."""
    sides = shape_of(node, 0, "a"), shape_of(node, 1, "b"), known_shape(node)
    squared = math.prod(map(math.prod, sides))
    if math.isqrt(squared) ** 2 != squared:  # an axis of size 1 met another
        raise UnknownMacs
    return math.isqrt(squared)


def _chain(node: fx.Node) -> int:
    """Return the least MACs of all orders, as torch multiplies several matrices."""
    first: Any = argument(node, 0, "tensors")
    sides = [known_shape(one) for one in (first if isinstance(first, (list, tuple)) else node.args)]
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


def _einsum(node: fx.Node) -> int:
    """Return the MACs of the pairs, from the left, as torch multiplies them: of all axes of a pair, each once.

    What only one of a pair has, and nobody needs later, is summed first. One operand is a sum or a transpose: 0.
    """
    terms, *given = node.args
    operands: Any = given[0] if len(given) == 1 and isinstance(given[0], (list, tuple)) else given
    if not isinstance(terms, str):
        raise UnknownMacs
    shapes = [known_shape(one) for one in operands]
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


def _bilinear(node: fx.Node) -> int:
    _, first, second = shape_of(node, 2, "weight")
    return math.prod(known_shape(node)) * first * (second + 1)


def _scaled_attention(node: fx.Node) -> int:
    query, key = shape_of(node, 0, "query"), shape_of(node, 1, "key")
    return math.prod(query[:-1]) * key[-2] * query[-1] + math.prod(known_shape(node)) * key[-2]


def _attention_function(node: fx.Node) -> int:
    query, key, value = (shape_of(node, i, name) for i, name in enumerate(("query", "key", "value")))
    extra = (argument(node, 7, "bias_k", None) is not None) + bool(argument(node, 9, "add_zero_attn", False))
    return attention_macs(query, key, query[-1], (key[-1], value[-1]), extra=extra)


def attention_macs(
    query: Shape, key: Shape, width: int, widths: Sequence[int], *, batch_first: bool = False, extra: int = 0
) -> int:
    """Return the MACs of attention with ``width`` features, to keys and values of ``widths`` and ``extra`` ones."""
    batched = len(query) == 3
    axis = 1 if batched and batch_first else 0
    tokens, others = query[axis], key[axis]
    batch = query[1 - axis] if batched else 1
    return batch * width * (2 * tokens * width + others * sum(widths) + 2 * tokens * (others + extra))


def recurrent_macs(node: fx.Node, layer: nn.RNNBase | nn.RNNCellBase) -> int:
    """Return the MACs of an RNN, a GRU or an LSTM over all steps, or of one step of a cell."""
    hidden: int = layer.hidden_size
    gates = 4 if isinstance(layer, (nn.LSTM, nn.LSTMCell)) else 3 if isinstance(layer, (nn.GRU, nn.GRUCell)) else 1
    steps = math.prod(shape_of(node, 0, "input")) // layer.input_size
    if not isinstance(layer, nn.RNNBase):
        return steps * gates * hidden * (layer.input_size + hidden)
    directions, returned = 1 + layer.bidirectional, layer.proj_size or hidden
    read = layer.input_size + (layer.num_layers - 1) * directions * returned + layer.num_layers * returned
    projected = layer.num_layers * hidden * layer.proj_size
    return steps * directions * (gates * hidden * read + projected)


def _elements(node: fx.Node) -> int:
    return math.prod(known_shape(node))


RULES: dict[str, Callable[[fx.Node], int]] = {
    **dict.fromkeys(("matmul", "mm", "bmm", "linalg_matmul", "mv", "inner", "dot", "vdot"), _product(0, "input")),
    "linear": _product(0, "input"),
    "addmm": _product(1, "mat1"),
    "addmv": _product(1, "mat"),
    "baddbmm": _product(1, "batch1"),
    "addbmm": _batches_summed,
    **dict.fromkeys(("outer", "ger", "addr"), _elements),
    "tensordot": _tensordot,
    **dict.fromkeys(("chain_matmul", "linalg_multi_dot"), _chain),
    "einsum": _einsum,
    "bilinear": _bilinear,
    "scaled_dot_product_attention": _scaled_attention,
    "multi_head_attention_forward": _attention_function,
}
"""By the name of a function of torch's, or of a method."""
