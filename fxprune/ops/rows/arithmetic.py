"""Ops of several tensors that are broadcast to one shape."""

from __future__ import annotations

import operator
from functools import partial

import torch

from fxprune.ops.op import Op

_two = partial(Op, kind="arithmetic", takes="input, other;", fresh=True)
_exact = partial(_two, unsaved=True, dtype="widest")

ROWS: tuple[Op, ...] = (
    _exact(
        name="add",
        takes="input, other; *, alpha=1",
        functions=(operator.add, torch.add),
        methods=("add",),
        where={"alpha": (1,)},
        neutral=0,
        commutes=True,
    ),
    _exact(
        name="sub",
        takes="input, other; *, alpha=1",
        functions=(operator.sub, torch.sub, torch.subtract),
        methods=("sub", "subtract"),
        where={"alpha": (1,)},
        neutral=0,
    ),
    _exact(
        name="mul",
        functions=(operator.mul, torch.mul, torch.multiply),
        methods=("mul", "multiply"),
        neutral=1,
        commutes=True,
        homogeneous="all",
    ),
    _exact(
        name="div",
        takes="input, other; *, rounding_mode=None",
        functions=(operator.truediv, torch.div, torch.divide, torch.true_divide),
        methods=("div", "divide", "true_divide"),
        where={"rounding_mode": (None,)},
        neutral=1,
    ),
    _two(name="pow", takes="input, exponent;", functions=(operator.pow, torch.pow), methods=("pow",)),
    _two(name="maximum", functions=(torch.maximum,), methods=("maximum",), commutes=True),
    _two(name="minimum", functions=(torch.minimum,), methods=("minimum",), commutes=True),
    _two(name="floor_divide", functions=(operator.floordiv, torch.floor_divide), methods=("floor_divide",)),
    _two(name="remainder", functions=(operator.mod, torch.remainder), methods=("remainder",)),
    _two(name="eq", functions=(operator.eq, torch.eq), methods=("eq",), commutes=True),
    _two(name="ne", functions=(operator.ne, torch.ne), methods=("ne",), commutes=True),
    _two(name="lt", functions=(operator.lt, torch.lt), methods=("lt",)),
    _two(name="le", functions=(operator.le, torch.le), methods=("le",)),
    _two(name="gt", functions=(operator.gt, torch.gt), methods=("gt",)),
    _two(name="ge", functions=(operator.ge, torch.ge), methods=("ge",)),
    _two(
        name="logical_and",
        functions=(operator.and_, torch.logical_and, torch.bitwise_and),
        methods=("logical_and", "bitwise_and"),
    ),
    _two(
        name="logical_or",
        functions=(operator.or_, torch.logical_or, torch.bitwise_or),
        methods=("logical_or", "bitwise_or"),
    ),
    _two(
        name="logical_xor",
        functions=(operator.xor, torch.logical_xor, torch.bitwise_xor),
        methods=("logical_xor", "bitwise_xor"),
    ),
    _two(name="atan2", functions=(torch.atan2, torch.arctan2), methods=("atan2", "arctan2")),
    _two(name="hypot", functions=(torch.hypot,), methods=("hypot",)),
    _two(name="fmod", functions=(torch.fmod,), methods=("fmod",)),
    _two(name="logaddexp", functions=(torch.logaddexp,), methods=("logaddexp",)),
    _two(name="where", takes="condition, input, other;", functions=(torch.where,)),
    _two(name="where", takes="input, condition, other;", methods=("where",)),
    _two(
        name="masked_fill",
        takes="input, mask; value",
        functions=(torch.masked_fill,),
        methods=("masked_fill",),
    ),
    _two(name="lerp", takes="input, end, weight;", functions=(torch.lerp,), methods=("lerp",)),
    Op(
        "addcmul",
        "arithmetic",
        "input, tensor1, tensor2; *, value=1",
        functions=(torch.addcmul,),
        methods=("addcmul",),
        fresh=True,
    ),
    Op(
        "addcdiv",
        "arithmetic",
        "input, tensor1, tensor2; *, value=1",
        functions=(torch.addcdiv,),
        methods=("addcdiv",),
        fresh=True,
    ),
)
