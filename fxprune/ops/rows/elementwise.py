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
)
