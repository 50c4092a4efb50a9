"""Ops that return what they read: always, in eval mode, or but for its dtype."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional

from fxprune.ops.op import Op

_dropout = partial(
    Op,
    kind="dropout",
    takes="input; p=0.5, training=True, inplace=False",
    values="drops",
    homogeneous="all",
    zero=True,
    dtype="keeps",
    train_flag="training",
)
_same = partial(Op, kind="identity", values="selects", homogeneous="all", zero=True, dtype="keeps")

ROWS: tuple[Op, ...] = (
    _same(name="identity", takes="input;", layers=(nn.Identity,)),
    _same(name="clone", takes="input; memory_format=None", functions=(torch.clone,), methods=("clone",), fresh=True),
    _same(name="contiguous", takes="input; memory_format=None", methods=("contiguous",)),
    _same(name="detach", takes="input;", functions=(torch.detach,), methods=("detach",)),
    _dropout(name="dropout", layers=(nn.Dropout,), functions=(functional.dropout,)),
    _dropout(name="dropout1d", layers=(nn.Dropout1d,), functions=(functional.dropout1d,)),
    _dropout(name="dropout2d", layers=(nn.Dropout2d,), functions=(functional.dropout2d,)),
    _dropout(name="dropout3d", layers=(nn.Dropout3d,), functions=(functional.dropout3d,)),
    _dropout(  # what it drops becomes another number than zero
        name="alpha_dropout",
        takes="input; p=0.5, training=False, inplace=False",
        layers=(nn.AlphaDropout,),
        functions=(functional.alpha_dropout,),
        values="",
        homogeneous="no",
        zero=False,
    ),
    _dropout(
        name="feature_alpha_dropout",
        takes="input; p=0.5, training=False, inplace=False",
        layers=(nn.FeatureAlphaDropout,),
        functions=(functional.feature_alpha_dropout,),
        values="",
        homogeneous="no",
        zero=False,
    ),
    _dropout(
        name="stochastic_depth",
        takes="input; p, mode, training=True",
        functions=("torchvision.ops.stochastic_depth.stochastic_depth",),
    ),
    _dropout(
        name="drop_block2d",
        takes="input; p, block_size, inplace=False, eps=1e-6, training=True",
        functions=("torchvision.ops.drop_block.drop_block2d",),
    ),
    _dropout(
        name="drop_block3d",
        takes="input; p, block_size, inplace=False, eps=1e-6, training=True",
        functions=("torchvision.ops.drop_block.drop_block3d",),
        dtype="",
    ),
    Op("cast", "cast", "input; *to, dtype=None, device=None, non_blocking=False, copy=False", methods=("to",)),
    Op("cast", "cast", "input; *to", methods=("float", "half", "double", "bfloat16", "type")),
    Op("cast", "cast", "input;", methods=("bool", "byte", "short", "int", "long")),
    Op("type_as", "cast", "input, other;", methods=("type_as",)),
)
