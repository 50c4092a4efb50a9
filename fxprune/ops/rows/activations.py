"""Activations: of each element, and those that weigh the elements of an axis against each other."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from fxprune.ops.op import Between, Op

_NON_NEGATIVE = Between(0.0, 1e6)
_POSITIVE = Between(1e-6, 1e6)

_each = partial(Op, kind="elementwise", fresh=True, dtype="keeps")
_monotone = partial(_each, monotone=True)

ROWS: tuple[Op, ...] = (
    _monotone(
        name="relu",
        takes="input; inplace=False",
        layers=(nn.ReLU,),
        functions=(functional.relu,),
        identity_on=(0.0, math.inf),
        homogeneous="positive",
        zero=True,
    ),
    _monotone(
        name="relu",
        takes="input;",
        functions=(torch.relu,),
        methods=("relu",),
        identity_on=(0.0, math.inf),
        homogeneous="positive",
        zero=True,
    ),
    _monotone(
        name="relu6",
        takes="input; inplace=False",
        layers=(nn.ReLU6,),
        functions=(functional.relu6,),
        identity_on=(0.0, 6.0),
        zero=True,
    ),
    _monotone(
        name="hardtanh",
        takes="input; min_val=-1.0, max_val=1.0, inplace=False",
        layers=(nn.Hardtanh,),
        functions=(functional.hardtanh,),
    ),
    _monotone(
        name="clamp",
        takes="input; min=None, max=None",
        functions=(torch.clamp, torch.clip),
        methods=("clamp", "clip"),
    ),
    _monotone(name="clamp", takes="input; min", functions=(torch.clamp_min,), methods=("clamp_min",)),
    _monotone(name="clamp", takes="input; max", functions=(torch.clamp_max,), methods=("clamp_max",)),
    _monotone(
        name="leaky_relu",
        takes="input; negative_slope=0.01, inplace=False",
        layers=(nn.LeakyReLU,),
        functions=(functional.leaky_relu,),
        where={"negative_slope": _NON_NEGATIVE},
        homogeneous="positive",
        zero=True,
    ),
    _each(
        name="prelu",
        takes="input; weight",
        layers=(nn.PReLU,),
        functions=(functional.prelu,),
        methods=("prelu",),
        homogeneous="positive",
        zero=True,
        weights={"weight": ("out",)},
        dtype="",
    ),
    _monotone(
        name="elu",
        takes="input; alpha=1.0, inplace=False",
        layers=(nn.ELU,),
        functions=(functional.elu,),
        where={"alpha": _NON_NEGATIVE},
        zero=True,
    ),
    _monotone(
        name="celu",
        takes="input; alpha=1.0, inplace=False",
        layers=(nn.CELU,),
        functions=(functional.celu, torch.celu),
        where={"alpha": _POSITIVE},
        zero=True,
    ),
    _monotone(
        name="selu",
        takes="input; inplace=False",
        layers=(nn.SELU,),
        functions=(functional.selu, torch.selu),
        zero=True,
    ),
    _each(name="gelu", takes="input; approximate='none'", layers=(nn.GELU,), functions=(functional.gelu,), zero=True),
    _each(name="silu", takes="input; inplace=False", layers=(nn.SiLU,), functions=(functional.silu,), zero=True),
    _each(name="mish", takes="input; inplace=False", layers=(nn.Mish,), functions=(functional.mish,), zero=True),
    _each(
        name="hardswish",
        takes="input; inplace=False",
        layers=(nn.Hardswish,),
        functions=(functional.hardswish,),
        zero=True,
    ),
    _monotone(
        name="hardsigmoid",
        takes="input; inplace=False",
        layers=(nn.Hardsigmoid,),
        functions=(functional.hardsigmoid,),
        image=(0.0, 1.0),
    ),
    _monotone(
        name="sigmoid",
        takes="input;",
        layers=(nn.Sigmoid,),
        functions=(functional.sigmoid, torch.sigmoid),
        methods=("sigmoid",),
        image=(0.0, 1.0),
    ),
    _monotone(
        name="logsigmoid",
        takes="input;",
        layers=(nn.LogSigmoid,),
        functions=(functional.logsigmoid,),
        image=(-math.inf, 0.0),
    ),
    _monotone(
        name="tanh",
        takes="input;",
        layers=(nn.Tanh,),
        functions=(functional.tanh, torch.tanh),
        methods=("tanh",),
        image=(-1.0, 1.0),
        zero=True,
    ),
    _monotone(name="softsign", takes="input;", layers=(nn.Softsign,), functions=(functional.softsign,), zero=True),
    _monotone(
        name="tanhshrink", takes="input;", layers=(nn.Tanhshrink,), functions=(functional.tanhshrink,), zero=True
    ),
    _monotone(
        name="hardshrink",
        takes="input; lambd=0.5",
        layers=(nn.Hardshrink,),
        functions=(functional.hardshrink,),
        where={"lambd": _NON_NEGATIVE},
        zero=True,
    ),
    _monotone(
        name="softshrink",
        takes="input; lambd=0.5",
        layers=(nn.Softshrink,),
        functions=(functional.softshrink,),
        where={"lambd": _NON_NEGATIVE},
        zero=True,
    ),
    _each(  # the identity where beta x > threshold, so it falls there; and below zero, if that is
        name="softplus",
        takes="input; beta=1.0, threshold=20.0",
        layers=(nn.Softplus,),
        functions=(functional.softplus,),
        where={"beta": _POSITIVE, "threshold": _NON_NEGATIVE},
        image=(0.0, math.inf),
    ),
    Op(
        "softmax",
        "axis",
        "input; dim=None, _stacklevel=3, dtype=None",
        (nn.Softmax, nn.Softmax2d),
        (functional.softmax,),
        image=(0.0, 1.0),
        fresh=True,
    ),
    Op(
        "softmax",
        "axis",
        "input; dim, dtype=None",
        functions=(torch.softmax,),
        methods=("softmax",),
        image=(0.0, 1.0),
        fresh=True,
    ),
    Op(
        "softmin",
        "axis",
        "input; dim=None, _stacklevel=3, dtype=None",
        (nn.Softmin,),
        (functional.softmin,),
        image=(0.0, 1.0),
        fresh=True,
    ),
    Op(
        "log_softmax",
        "axis",
        "input; dim=None, _stacklevel=3, dtype=None",
        (nn.LogSoftmax,),
        (functional.log_softmax,),
        image=(-math.inf, 0.0),
        fresh=True,
    ),
    Op(
        "log_softmax",
        "axis",
        "input; dim, dtype=None",
        functions=(torch.log_softmax,),
        methods=("log_softmax",),
        image=(-math.inf, 0.0),
        fresh=True,
    ),
    _each(
        name="threshold",
        takes="input; threshold, value, inplace=False",
        layers=(nn.Threshold,),
        functions=(functional.threshold,),
    ),
    Op("glu", "axis", "input; dim=-1", (nn.GLU,), (functional.glu,), shape="none", zero=True, fresh=True),
    Op("cumprod", "axis", "input; dim, dtype=None", functions=(torch.cumprod,), methods=("cumprod",), fresh=True),
    Op(
        "cumsum",
        "axis",
        "input; dim, dtype=None",
        functions=(torch.cumsum,),
        methods=("cumsum",),
        homogeneous="all",
        zero=True,
        fresh=True,
    ),
)
