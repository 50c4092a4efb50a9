"""The arguments of each op that counts channels, once some are gone: a rule an op, by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import fx

from fxprune.facts.shapes import META
from fxprune.ops.call import Call
from fxprune.rewriting.cutting.kept import Mask
from fxprune.rewriting.cutting.sizes import Fault, Sizes
from fxprune.structures.channels.rules.indexing import moves
from fxprune.structures.channels.values import Value


def _flat(call: Call, name: str) -> tuple[tuple[Any, ...], Callable[[Any], tuple[Any, ...]]]:
    """Return the sizes that a call is given, spread out or as one tuple, and what makes arguments of new ones."""
    node = call.node
    first = node.args[0]
    rest = node.args[1:]
    if name in node.kwargs:
        given: Any = node.kwargs[name]
        return tuple(given), lambda sizes: (first, sizes)
    if len(rest) == 1 and isinstance(rest[0], (tuple, list)):
        return tuple(rest[0]), lambda sizes: (first, sizes)
    return tuple(rest), lambda sizes: (first, *sizes)


def _sized(name: str) -> Any:
    def rule(self: Sizes, call: Call) -> Any:
        node = call.node
        value = self.kept.walk.value(node)
        after = self.kept.shape(value)
        given, made = _flat(call, name)
        if len(given) == 1 and isinstance(given[0], fx.Node) and isinstance(given[0].meta.get(META), tuple):
            if self.numbers.after(given[0]) == torch.Size(after):
                return node.target, node.args, dict(node.kwargs)
            raise Fault(node, "its sizes are one tuple")
        sizes = self.sizes(node, given, value.shape, after)
        if sizes == given:
            return node.target, node.args, dict(node.kwargs)
        kwargs = {key: one for key, one in node.kwargs.items() if key != name}
        return node.target, made(sizes), kwargs

    return rule


def _created(self: Sizes, call: Call) -> Any:
    """zeros, ones: all arguments are sizes."""
    node = call.node
    value = self.kept.walk.value(node)
    after = self.kept.shape(value)
    rest: Any = node.args
    tupled = len(rest) == 1 and isinstance(rest[0], (tuple, list))
    given = tuple(rest[0]) if tupled else tuple(rest)
    sizes = self.sizes(node, given, value.shape, after)
    return node.target, ((sizes,) if tupled else sizes), dict(node.kwargs)


def _parts(self: Sizes, call: Call) -> Any:
    """chunk, split: the parts that are left, which may have come to differ in size."""
    node = call.node
    x, parts = self.kept.walk.value(call.input), self.kept.walk.value(node)
    axis = int(self.kept.walk.number(call.argument("dim"))) % len(x.shape)
    after = [self.kept.shape(one)[axis] for one in parts]
    total = self.kept.shape(x)[axis]
    if self.kept.along(x, axis) is None:
        return node.target, node.args, dict(node.kwargs)
    name = "chunks" if call.op is not None and call.op.name == "chunk" else call.op.parameters[1].name  # type: ignore[union-attr]
    given = call.argument(name)
    now = self.numbers.after(given) if isinstance(given, fx.Node) else given
    if isinstance(given, (tuple, list)):
        now = [self.numbers.after(one) if isinstance(one, fx.Node) else one for one in given]
    if _natural(call, now, total) == after:
        return node.target, node.args, dict(node.kwargs)
    target = "split" if node.op == "call_method" else torch.split
    return target, (call.input, after, axis), {}


def _natural(call: Call, given: Any, total: int) -> list[int] | None:
    """Return the sizes of the parts that a call makes of an axis of that size by itself; None if it is not known."""
    name = call.op.name  # type: ignore[union-attr]
    if name == "split" and isinstance(given, list):
        return given
    if name == "tensor_split" or type(given) is not int:
        return None
    step = -(-total // given) if name == "chunk" else given
    return [min(step, total - start) for start in range(0, total, step)]


def _index(self: Sizes, call: Call) -> Any:
    """Slices and numbers in an index: the same channels, counted anew."""
    node = call.node
    x = self.kept.walk.value(node.args[0])
    if not isinstance(x, Value):
        return node.target, node.args, dict(node.kwargs)
    index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    if not moves([self.kept.walk.number(one) for one in index]):
        return node.target, node.args, dict(node.kwargs)
    taking = len([one for one in index if one is not None and one is not Ellipsis])
    axis, found = 0, []
    for one in index:
        if one is Ellipsis:
            axis += len(x.shape) - taking
        if one is None or one is Ellipsis:
            found.append(one)
            continue
        found.append(self.place(node, one, x, axis))
        axis += 1
    if not moves([self.kept.walk.number(one) for one in found]):
        raise Fault(node, "takes every so many channels, and one place of another axis")
    made = tuple(found) if isinstance(node.args[1], tuple) else found[0]
    return node.target, (node.args[0], made), {}


def _narrow(self: Sizes, call: Call) -> Any:
    node = call.node
    x = self.kept.walk.value(call.input)
    axis, start, length = (int(self.kept.walk.number(call.argument(one))) for one in ("dim", "start", "length"))
    mask = self.kept.along(x, axis % len(x.shape))
    if mask is None:
        return node.target, node.args, dict(node.kwargs)
    before = np.concatenate(([0], np.cumsum(mask)))
    start = start + len(mask) if start < 0 else start
    return node.target, (call.input, axis, int(before[start]), int(before[start + length] - before[start])), {}


def _select(self: Sizes, call: Call) -> Any:
    x, axis = self.kept.walk.value(call.input), int(self.kept.walk.number(call.argument("dim")))
    return _with(call, "index", self.place(call.node, call.argument("index"), x, axis % len(x.shape)))


def _copies(self: Sizes, call: Call) -> Any:
    """repeat, tile, repeat_interleave: what they make of an axis of size 1 has another size then."""
    node, name = call.node, call.op.parameters[1].name  # type: ignore[union-attr]
    x, out = self.kept.walk.value(call.input), self.kept.walk.value(node)
    ahead = (1,) * (len(out.shape) - len(x.shape))
    before, after = (
        [size // one for size, one in zip(shape(out), (*ahead, *shape(x)), strict=True)]
        for shape in (lambda one: one.shape, self.kept.shape)
    )
    if before == after and not any(map(self.numbers.changes, node.all_input_nodes)):
        return node.target, node.args, dict(node.kwargs)
    if name == "repeats" and "dim" in call.op.places:  # type: ignore[union-attr]
        axis = int(self.kept.walk.number(call.argument("dim")))
        (count,) = self.counts(node, (call.argument(name),), before[axis:][:1], after[axis:][:1])
        return _with(call, name, count)
    given, made = _flat(call, name)
    counts = self.counts(node, given, before[-len(given) :], after[-len(given) :])
    return node.target, made(counts), {key: one for key, one in node.kwargs.items() if key != name}


def _unflattened(self: Sizes, call: Call) -> Any:
    """unflatten: the sizes that an axis is taken apart into."""
    value, axis = self.kept.walk.value(call.node), int(self.kept.walk.number(call.argument("dim")))
    axis %= len(self.kept.walk.value(call.input).shape)
    return _with_sizes(self, call, "sizes", value.shape[axis:], self.kept.shape(value)[axis:])


def _filled(self: Sizes, call: Call) -> Any:
    """full, new_full: one argument is all sizes, another a value."""
    value = self.kept.walk.value(call.node)
    sized = _with_sizes(self, call, "size", value.shape, self.kept.shape(value))
    return _valued(self, call, "fill_value", *sized)


def _valued(self: Sizes, call: Call, name: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return a call, written so far as this, in which a number that is a value keeps what it was."""
    value = call.argument(name)
    if not isinstance(value, fx.Node):
        return target, args, kwargs
    kept, place = self.as_value(call.node, value), call.op.places[name]  # type: ignore[union-attr]
    if name in kwargs:
        return target, args, {**kwargs, name: kept}
    return target, (*args[:place], kept, *args[place + 1 :]), kwargs


def _with_sizes(self: Sizes, call: Call, name: str, before: Any, after: Any) -> Any:
    given = call.argument(name)
    if not isinstance(given, fx.Node):
        return _with(call, name, self.sizes(call.node, tuple(given), before[: len(given)], after[: len(given)]))
    if self.numbers.after(given) != torch.Size(after):
        raise Fault(call.node, "its sizes are one tuple")
    return call.node.target, call.node.args, dict(call.node.kwargs)


def _pad(self: Sizes, call: Call) -> Any:
    """As many new elements as are left of them."""
    node = call.node
    out = self.kept.walk.value(node)
    sides = list(call.argument("pad"))
    for place in range(len(sides) // 2):
        axis = len(out.shape) - 1 - place
        mask = self.kept.along(out, axis)
        ends = tuple(sides[2 * place : 2 * place + 2])
        if mask is None:
            sides[2 * place : 2 * place + 2] = fx.map_arg(ends, lambda one: self.as_value(node, one))
            continue
        left, right = map(self.kept.walk.number, ends)
        if left < 0 or right < 0:
            raise Fault(node, "cuts channels off")
        sides[2 * place] = int(mask[:left].sum())
        sides[2 * place + 1] = int(mask[len(mask) - right :].sum())
    if sides == list(call.argument("pad")):
        return _valued(self, call, "value", node.target, node.args, dict(node.kwargs))
    kwargs = {key: one for key, one in node.kwargs.items() if key != "pad"}
    return _valued(self, call, "value", node.target, (node.args[0], tuple(sides), *node.args[2:]), kwargs)


def _attention(self: Sizes, call: Call) -> Any:
    """Its default scale is 1 / sqrt(E), of the head size that there was."""
    node = call.node
    q = self.kept.walk.value(call.argument("query"))
    if self.kept.along(q, len(q.shape) - 1) is None or call.argument("scale") is not None:
        return node.target, node.args, dict(node.kwargs)
    return node.target, node.args, {**node.kwargs, "scale": q.shape[-1] ** -0.5}


def _groups(self: Sizes, call: Call) -> Any:
    """F.conv2d and the like: as many groups as are left."""
    node = call.node
    x = self.kept.walk.value(call.operand(0))
    groups = self.kept.walk.number(call.argument("groups"))
    axis = len(x.shape) - 1 - (call.op.axes if call.op is not None else 0)
    left = groups_left(self.kept.along(x, axis), groups)
    return (node.target, node.args, dict(node.kwargs)) if left == groups else _with(call, "groups", left)


def _norm_groups(self: Sizes, call: Call) -> Any:
    """F.group_norm: as many groups as are left."""
    node = call.node
    groups = self.kept.walk.number(call.argument("num_groups"))
    left = groups_left(self.kept.along(self.kept.walk.value(call.operand(0)), 1), groups)
    return (node.target, node.args, dict(node.kwargs)) if left == groups else _with(call, "num_groups", left)


def _normalized(self: Sizes, call: Call) -> Any:
    """F.layer_norm and the like: the sizes that its last axes have then."""
    node = call.node
    x = self.kept.walk.value(call.operand(0))
    before, after = (shape[len(x.shape) - 1 :] for shape in (x.shape, self.kept.shape(x)))
    return (node.target, node.args, dict(node.kwargs)) if before == after else _with(call, "normalized_shape", after)


def _with(call: Call, name: str, value: Any) -> Any:
    """Return the call with another argument."""
    node, place = call.node, call.op.places[name]  # type: ignore[union-attr]
    if len(node.args) > place:
        return node.target, (*node.args[:place], value, *node.args[place + 1 :]), dict(node.kwargs)
    return node.target, node.args, {**node.kwargs, name: value}


def _shuffled(self: Sizes, call: Call) -> Any:
    """channel_shuffle: as many groups as are left, where whole ones go."""
    node = call.node
    hidden = self.kept.walk.hidden.get(node)
    if hidden is None or self.kept.along(hidden, 1) is None:
        return node.target, node.args, dict(node.kwargs)
    return node.target, (node.args[0], self.kept.shape(hidden)[1]), {}


def groups_left(mask: Mask | None, groups: int) -> int:
    """Return how many groups are left where whole ones go, or the same of each."""
    if groups == 1:
        return 1
    if mask is None:
        return groups
    return int(mask.reshape(groups, -1).any(axis=1).sum())


RULES: Mapping[str, Any] = {
    "reshape": _sized("shape"),
    "expand": _sized("size"),
    "new_tensor": _sized("size"),
    **dict.fromkeys(("zeros", "ones"), _created),
    **dict.fromkeys(("chunk", "split", "tensor_split"), _parts),
    "getitem": _index,
    "narrow": _narrow,
    "select": _select,
    **dict.fromkeys(("repeat", "tile", "repeat_interleave"), _copies),
    "unflatten": _unflattened,
    **dict.fromkeys(("full", "new_full"), _filled),
    "pad": _pad,
    "scaled_dot_product_attention": _attention,
    "channel_shuffle": _shuffled,
    "group_norm": _norm_groups,
    **dict.fromkeys(("layer_norm", "rms_norm"), _normalized),
    "conv": _groups,
    "conv_transpose": _groups,
}
SIZED = (
    *("reshape", "expand", "zeros", "ones", "full", "new_tensor", "new_full", "unflatten", "chunk", "split"),
    *("tensor_split", "getitem", "narrow", "select", "pad", "repeat", "tile", "repeat_interleave"),
)
