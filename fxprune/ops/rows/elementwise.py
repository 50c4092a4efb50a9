"""Arithmetic with one operand: each element is made from the one at its place."""

from __future__ import annotations

import math
import operator
from functools import partial

import torch

from fxprune.ops.op import Op

_each = partial(Op, kind="elementwise", fresh=True, dtype="keeps")
_monotone = partial(_each, monotone=True)

ROWS: tuple[Op, ...] = (
    _each(
        name="abs",
        takes="input;",
        functions=(torch.abs, operator.abs, abs),
        methods=("abs",),
        image=(0.0, math.inf),
        identity_on=(0.0, math.inf),
        homogeneous="positive",
        zero=True,
    ),
    _each(
        name="logical_not",
        takes="input;",
        functions=(torch.logical_not, torch.bitwise_not, operator.invert),
        methods=("logical_not", "bitwise_not"),
        dtype="",
    ),
    _each(
        name="neg",
        takes="input;",
        functions=(torch.neg, operator.neg),
        methods=("neg",),
        homogeneous="all",
        zero=True,
    ),
    _each(
        name="square",
        takes="input;",
        functions=(torch.square,),
        methods=("square",),
        image=(0.0, math.inf),
        zero=True,
    ),
    _each(name="sqrt", takes="input;", functions=(torch.sqrt,), methods=("sqrt",), zero=True, dtype=""),
    _each(name="rsqrt", takes="input;", functions=(torch.rsqrt,), methods=("rsqrt",), dtype=""),
    _each(name="reciprocal", takes="input;", functions=(torch.reciprocal,), methods=("reciprocal",), dtype=""),
    _monotone(name="exp", takes="input;", functions=(torch.exp,), methods=("exp",), image=(0.0, math.inf), dtype=""),
    _each(name="log", takes="input;", functions=(torch.log,), methods=("log",), dtype=""),
    _each(name="sin", takes="input;", functions=(torch.sin,), methods=("sin",), image=(-1.0, 1.0), zero=True),
    _each(name="cos", takes="input;", functions=(torch.cos,), methods=("cos",), image=(-1.0, 1.0)),
    _monotone(
        name="erf", takes="input;", functions=(torch.erf,), methods=("erf",), image=(-1.0, 1.0), zero=True, dtype=""
    ),
    _monotone(name="floor", takes="input;", functions=(torch.floor,), methods=("floor",), zero=True),
    _monotone(name="ceil", takes="input;", functions=(torch.ceil,), methods=("ceil",), zero=True),
    _monotone(name="round", takes="input;", functions=(torch.round,), methods=("round",), zero=True),
    _monotone(name="sign", takes="input;", functions=(torch.sign, torch.sgn), methods=("sign", "sgn"), zero=True),
    _monotone(name="trunc", takes="input;", functions=(torch.trunc, torch.fix), methods=("trunc", "fix"), zero=True),
    _monotone(name="expm1", takes="input;", functions=(torch.expm1,), methods=("expm1",), zero=True, dtype=""),
    _each(name="log1p", takes="input;", functions=(torch.log1p,), methods=("log1p",), zero=True, dtype=""),
    _each(name="log2", takes="input;", functions=(torch.log2,), methods=("log2",), dtype=""),
    _each(name="exp2", takes="input;", functions=(torch.exp2,), methods=("exp2",), image=(0.0, math.inf), dtype=""),
    _each(name="tan", takes="input;", functions=(torch.tan,), methods=("tan",), zero=True, dtype=""),
    _each(
        name="nan_to_num",
        takes="input; nan=None, posinf=None, neginf=None",
        functions=(torch.nan_to_num,),
        methods=("nan_to_num",),
        zero=True,
    ),
    _each(name="isnan", takes="input;", functions=(torch.isnan,), methods=("isnan",), dtype=""),
    _each(name="isinf", takes="input;", functions=(torch.isinf,), methods=("isinf",), dtype=""),
    _each(name="isfinite", takes="input;", functions=(torch.isfinite,), methods=("isfinite",), dtype=""),
)
