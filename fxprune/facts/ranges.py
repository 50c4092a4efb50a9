"""Between which bounds every value of a graph lies, whatever the inputs: a forward dataflow analysis.

Used to tell when an activation is the identity (ReLU of a value that is never negative), and which values are
always zero. Bounds follow from what the table of ops claims; what claims nothing has no bounds, nor has anything that
is not a floating-point tensor (integers wrap around, indices are no values). Values are taken to be finite (0 * x is
0).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import fx
from torch.fx.passes.shape_prop import TensorMetadata

from fxprune.facts.shapes import META, takes_dtype
from fxprune.ir.by_mode import chosen, is_by_mode
from fxprune.ops.call import Call, operands
from fxprune.ops.op import Bounds, Op

UNKNOWN: Bounds = (-math.inf, math.inf)
ZERO: Bounds = (0.0, 0.0)
_Known = dict[fx.Node, Bounds]


def bounds_of_values(graph_module: fx.GraphModule) -> _Known:
    """Return (lowest, highest) for every node: bounds that hold for all inputs in eval mode."""
    known: _Known = {}
    for node in graph_module.graph.nodes:
        known[node] = _bounds(node, known) if _is_floating(node) else UNKNOWN
    return known


def _is_floating(node: fx.Node) -> bool:
    """Say whether ``node`` is known to compute floating-point tensors: one, or a tuple of nothing else."""
    found: list[bool] = []
    metas = node.meta.get(META)
    for meta in metas if isinstance(metas, (tuple, list)) and not isinstance(metas, TensorMetadata) else [metas]:
        found.append(isinstance(meta, TensorMetadata) and meta.dtype.is_floating_point)
    return bool(found) and all(found)


def activation_range(node: fx.Node) -> Bounds | None:
    """Return the range on which the activation at ``node`` is the identity; None if it is none that has one."""
    call = Call(node)
    op = call.op
    if op is None or (op.identity_on is None and op.name not in _LIMITS) or call.claims is None:
        return None
    return _identity_range(call)


def _identity_range(call: Call) -> Bounds | None:
    assert call.op is not None
    limits = _LIMITS.get(call.op.name)
    if limits is None:
        return call.op.identity_on
    bounds = [_number(call.argument(name), free) for name, free in zip(limits, UNKNOWN, strict=True)]
    low, high = bounds
    return (low, high) if low is not None and high is not None and low <= high else None


_LIMITS = {"hardtanh": ("min_val", "max_val"), "clamp": ("min", "max")}  # arguments that say where it is the identity


def _number(value: Any, free: float) -> float | None:
    """Return a number that is given, ``free`` if none is; None if it is not known."""
    if value is None:
        return free
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
    return float(value) if known else None


def _bounds(node: fx.Node, known: _Known) -> Bounds:
    if is_by_mode(node):
        return _hull([_operand(chosen(node, training), known) for training in (True, False)])
    call = Call(node)
    op = call.op
    if op is None:
        return UNKNOWN
    rule = _RULES.get(op.name)
    source = known.get(call.input, UNKNOWN) if call.input is not None else UNKNOWN
    if rule is not None and call.module is None:
        return rule(call, source, known)
    if op.weights:
        return _of_weighted(call, source)
    return UNKNOWN if call.claims is None else _of_claims(call, op, source)


def _of_claims(call: Call, op: Op, source: Bounds) -> Bounds:
    """Return the bounds of an op of one value by what its row claims."""
    if op.monotone:
        limits = _identity_range(call)
        return _monotone(call, op, source) if limits is None else _clamp(source, limits)
    if op.image is not None:
        return op.image if not (op.zero and source == ZERO) else ZERO
    if op.values and not takes_dtype(call.node):
        return _VALUES[op.values](source)
    return ZERO if op.zero and source == ZERO else UNKNOWN


def _of_weighted(call: Call, source: Bounds) -> Bounds:
    """Return the bounds of a layer with weights: it makes zeros of zeros if it has no bias, and computes none."""
    if source != ZERO or call.kind not in ("conv", "linear", "transposed conv") or call.module is None:
        return UNKNOWN
    return ZERO if call.claims is not None and call.module.bias is None else UNKNOWN


def _monotone(call: Call, op: Op, source: Bounds) -> Bounds:
    """Return the bounds of an op that grows with its input: what it makes of the input's bounds."""
    given = tuple(call.argument(one.name) for one in op.parameters[1:] if one.name != "inplace")
    if not op.functions or not all(isinstance(one, (int, float, type(None))) for one in given):
        return op.image or UNKNOWN
    low, high = _at(op, source, given)
    least, most = op.image or UNKNOWN
    return max(low, least), min(high, most)


@lru_cache(maxsize=1024)
def _at(op: Op, source: Bounds, given: tuple[Any, ...]) -> Bounds:
    function: Any = next(one for one in op.functions if callable(one))
    with torch.no_grad():
        low, high = function(torch.tensor(source, dtype=torch.float64, device="cpu"), *given).tolist()
    return (-math.inf if math.isnan(low) else low), (math.inf if math.isnan(high) else high)


def _clamp(source: Bounds, limits: Bounds) -> Bounds:
    low, high = (min(max(value, limits[0]), limits[1]) for value in source)
    return low, high


def _hull(bounds: list[Bounds]) -> Bounds:
    return (min(low for low, _ in bounds), max(high for _, high in bounds)) if bounds else UNKNOWN


def _with_zero(bounds: Bounds) -> Bounds:
    return min(bounds[0], 0.0), max(bounds[1], 0.0)


def _sign_only(bounds: Bounds) -> Bounds:
    """Keep only the sign: dropping out in train mode scales what it keeps."""
    if bounds == ZERO:
        return ZERO
    return (0.0, math.inf) if bounds[0] >= 0 else (-math.inf, 0.0) if bounds[1] <= 0 else UNKNOWN


_VALUES: dict[str, Callable[[Bounds], Bounds]] = {
    "selects": lambda source: source,
    "averages": lambda source: source,
    "pads": _with_zero,
    "drops": _sign_only,
}


def _of_join(call: Call, source: Bounds, known: _Known) -> Bounds:
    parts = call.argument("tensors")
    return _hull([_operand(one, known) for one in parts]) if isinstance(parts, (list, tuple)) else UNKNOWN


def _of_pad(call: Call, source: Bounds, known: _Known) -> Bounds:
    mode, value = call.argument("mode"), call.argument("value")
    if mode in ("reflect", "replicate", "circular"):
        return source
    filling = _number(value, 0.0) if mode == "constant" and value is not None else 0.0
    if mode != "constant" or filling is None or not math.isfinite(filling):
        return UNKNOWN
    return min(source[0], filling), max(source[1], filling)


def _of_sum(call: Call, source: Bounds, known: _Known) -> Bounds:
    (low_a, high_a), (low_b, high_b) = _both(call, known)
    return low_a + low_b, high_a + high_b


def _of_difference(call: Call, source: Bounds, known: _Known) -> Bounds:
    (low_a, high_a), (low_b, high_b) = _both(call, known)
    return low_a - high_b, high_a - low_b


def _of_product(call: Call, source: Bounds, known: _Known) -> Bounds:
    if call.argument("input") is call.argument("other"):
        return 0.0, math.inf
    (low_a, high_a), (low_b, high_b) = _both(call, known)
    corners = [0.0 if 0.0 in (x, y) else x * y for x in (low_a, high_a) for y in (low_b, high_b)]
    return min(corners), max(corners)


def _both(call: Call, known: _Known) -> tuple[Bounds, Bounds]:
    """Return the bounds of both operands, of sums with a factor none."""
    left, right = operands(call.node, "add", "sub", "mul") or (None, None)
    return _operand(left, known), _operand(right, known)


def _operand(argument: Any, known: _Known) -> Bounds:
    if isinstance(argument, fx.Node):
        return known.get(argument, UNKNOWN)
    if isinstance(argument, (int, float)) and not isinstance(argument, bool) and math.isfinite(argument):
        return float(argument), float(argument)
    return UNKNOWN


_RULES: dict[str, Callable[[Call, Bounds, _Known], Bounds]] = {  # what takes more than claims
    **{"cat": _of_join, "stack": _of_join, "pad": _of_pad},
    **{"add": _of_sum, "sub": _of_difference, "mul": _of_product},
}
