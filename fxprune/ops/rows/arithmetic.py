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
