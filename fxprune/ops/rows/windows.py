"""Pools, resizing and reductions: what makes one element of many."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from fxprune.ops.op import Op

_max_pool = partial(
    Op,
    name="max_pool",
    kind="window",
    takes="input; kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False",
    where={"dilation": (1,)},  # a dilated window may hold padding alone, which is -inf
    values="selects",
    homogeneous="positive",
    zero=True,
    fresh=True,
    dtype="keeps",
)
_avg_pool = partial(
    Op,
    name="avg_pool",
    kind="window",
    takes="input; kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, "
    "divisor_override=None",
    where={"divisor_override": (None,)},
    values="pads",
    homogeneous="all",
    zero=True,
    fresh=True,
    unsaved=True,
)
_adaptive = partial(Op, kind="adaptive pool", takes="input; output_size", zero=True, fresh=True)
_average = partial(_adaptive, name="adaptive_avg_pool", values="averages", homogeneous="all")
_maximum = partial(
    _adaptive,
    name="adaptive_max_pool",
    takes="input; output_size, return_indices=False",
    values="selects",
    homogeneous="positive",
)
_reduce = partial(Op, kind="reduction", takes="input; dim=None, keepdim=False, dtype=None", fresh=True)
_ranks = partial(Op, kind="axis", takes="input; dim=-1, descending=False, stable=False", shape="none", fresh=True)
_OVER = "input; dim=None, keepdim=False"
_SPREAD = "input; dim=None, unbiased=True, keepdim=False, *, correction=None"
_MODES = ("nearest", "nearest-exact", "linear", "bilinear", "trilinear", "area")

ROWS: tuple[Op, ...] = (
    _max_pool(layers=(nn.MaxPool1d,), functions=(functional.max_pool1d, torch.max_pool1d), axes=1),
    _max_pool(layers=(nn.MaxPool2d,), functions=(functional.max_pool2d, torch.max_pool2d), axes=2),
    _max_pool(layers=(nn.MaxPool3d,), functions=(functional.max_pool3d, torch.max_pool3d), axes=3, dtype=""),
    _avg_pool(layers=(nn.AvgPool1d,), functions=(functional.avg_pool1d,), axes=1),
    _avg_pool(layers=(nn.AvgPool2d,), functions=(functional.avg_pool2d,), axes=2),
    _avg_pool(layers=(nn.AvgPool3d,), functions=(functional.avg_pool3d,), axes=3),
    _average(layers=(nn.AdaptiveAvgPool1d,), functions=(functional.adaptive_avg_pool1d,), axes=1),
    _average(layers=(nn.AdaptiveAvgPool2d,), functions=(functional.adaptive_avg_pool2d,), axes=2),
    _average(layers=(nn.AdaptiveAvgPool3d,), functions=(functional.adaptive_avg_pool3d,), axes=3),
    _maximum(layers=(nn.AdaptiveMaxPool1d,), functions=(functional.adaptive_max_pool1d,), axes=1),
    _maximum(layers=(nn.AdaptiveMaxPool2d,), functions=(functional.adaptive_max_pool2d,), axes=2),
    _maximum(layers=(nn.AdaptiveMaxPool3d,), functions=(functional.adaptive_max_pool3d,), axes=3),
    Op(
        "interpolate",
        "resize",
        "input; size=None, scale_factor=None, mode='nearest', align_corners=None, recompute_scale_factor=None, "
        "antialias=False",
        (nn.Upsample,),
        (functional.interpolate,),
        where={"mode": _MODES},
        values="averages",
        homogeneous="all",
        zero=True,
    ),
    Op(
        "interpolate",
        "resize",
        "input; size=None, scale_factor=None",
        (nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
        values="averages",
        homogeneous="all",
        zero=True,
    ),
    _reduce(name="mean", functions=(torch.mean,), methods=("mean",), values="averages", homogeneous="all", zero=True),
    _reduce(name="sum", functions=(torch.sum,), methods=("sum",), homogeneous="all", zero=True),
    _reduce(
        name="amax",
        takes="input; dim=None, keepdim=False",
        functions=(torch.amax,),
        methods=("amax",),
        values="selects",
        homogeneous="positive",
        zero=True,
    ),
    _reduce(
        name="amin",
        takes="input; dim=None, keepdim=False",
        functions=(torch.amin,),
        methods=("amin",),
        values="selects",
        homogeneous="positive",
        zero=True,
    ),
    _reduce(
        name="var",
        takes=_SPREAD,
        functions=(torch.var,),
        methods=("var",),
        image=(0.0, math.inf),
        zero=True,
    ),
    _reduce(
        name="std",
        takes=_SPREAD,
        functions=(torch.std,),
        methods=("std",),
        image=(0.0, math.inf),
        zero=True,
    ),
    _reduce(
        name="norm",
        takes="input; p=2, dim=None, keepdim=False, dtype=None",
        functions=(torch.norm,),
        methods=("norm",),
        where={"p": ("fro", 1, 2, math.inf)},
        image=(0.0, math.inf),
        zero=True,
    ),
    _reduce(
        name="vector_norm",
        takes="input; ord=2, dim=None, keepdim=False, dtype=None",
        functions=(torch.linalg.vector_norm,),
        image=(0.0, math.inf),
        zero=True,
        where={"ord": (1, 2)},
    ),
    _reduce(
        name="linalg_norm",
        takes="input; ord=None, dim=None, keepdim=False, dtype=None",
        functions=(torch.linalg.norm,),
        image=(0.0, math.inf),
        zero=True,
        where={"ord": (None, 1, 2)},
    ),
    _reduce(
        name="logsumexp", takes="input; dim, keepdim=False", functions=(torch.logsumexp,), methods=("logsumexp",)
    ),
    _reduce(name="prod", functions=(torch.prod,), methods=("prod",), zero=True),
    _reduce(name="any", takes=_OVER, functions=(torch.any,), methods=("any",)),
    _reduce(name="all", takes=_OVER, functions=(torch.all,), methods=("all",)),
    _reduce(name="argmax", takes=_OVER, functions=(torch.argmax,), methods=("argmax",)),
    _reduce(name="argmin", takes=_OVER, functions=(torch.argmin,), methods=("argmin",)),
    # those that return several tensors, or another shape than the kind says
    _reduce(name="max", takes=_OVER, functions=(torch.max,), methods=("max",), shape="none"),
    _reduce(name="min", takes=_OVER, functions=(torch.min,), methods=("min",), shape="none"),
    _reduce(name="median", takes=_OVER, functions=(torch.median,), methods=("median",), shape="none"),
    _reduce(name="var_mean", takes=_SPREAD, functions=(torch.var_mean,), shape="none"),
    _reduce(name="std_mean", takes=_SPREAD, functions=(torch.std_mean,), shape="none"),
    _ranks(
        name="topk", takes="input; k, dim=-1, largest=True, sorted=True", functions=(torch.topk,), methods=("topk",)
    ),
    _ranks(name="sort", functions=(torch.sort,), methods=("sort",)),
    _ranks(name="argsort", functions=(torch.argsort,), methods=("argsort",), shape="same"),
    Op(
        "grid_sample",
        "resize",
        "input, grid; mode='bilinear', padding_mode='zeros', align_corners=None",
        functions=(functional.grid_sample,),
        shape="none",
        fresh=True,
    ),
)
