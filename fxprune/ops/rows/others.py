"""Rows looked up by indices, random numbers, and what computes no tensor."""

from __future__ import annotations

import math
import operator
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from fxprune.ops.op import Op

_random = partial(Op, kind="random", draws=True, fresh=True)
_drawn = partial(Op, kind="new", takes="; *size", draws=True, fresh=True)
_like = partial(Op, kind="new", takes="input;", shape="same", draws=True, fresh=True)
_size = partial(Op, kind="size")

ROWS: tuple[Op, ...] = (
    Op(
        "embedding",
        "lookup",
        "input; weight, padding_idx=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False, sparse=False",
        (nn.Embedding,),
        (functional.embedding,),
    ),
    Op(
        "embedding_bag",
        "lookup",
        "input; weight, offsets=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False, mode='mean', "
        "sparse=False, per_sample_weights=None, include_last_offset=False, padding_idx=None",
        (nn.EmbeddingBag,),
        (functional.embedding_bag,),
    ),
    _drawn(name="rand", functions=(torch.rand,), image=(0.0, 1.0)),
    _drawn(name="randn", functions=(torch.randn,)),
    _drawn(name="randint", functions=(torch.randint,), shape="none"),
    _drawn(name="randperm", functions=(torch.randperm,), shape="none"),
    _random(name="normal", takes="; *size", functions=(torch.normal,)),
    _like(name="rand_like", functions=(torch.rand_like,), image=(0.0, 1.0)),
    _like(name="randn_like", functions=(torch.randn_like,)),
    _like(name="randint_like", takes="input; high", functions=(torch.randint_like,), shape="none"),
    _random(name="multinomial", takes="input; num_samples", functions=(torch.multinomial,)),
    _random(name="poisson", takes="input;", functions=(torch.poisson,)),
    _random(name="bernoulli", takes="input; p=None", functions=(torch.bernoulli,), shape="same", image=(0.0, 1.0)),
    Op("bernoulli", "random", "input; p=None", methods=("bernoulli",), shape="same", fresh=True, image=(0.0, 1.0)),
    _size(name="size", takes="input; dim=None", methods=("size",), shape="size"),
    _size(name="dim", takes="input;", methods=("dim", "ndimension"), shape="rank"),
    _size(name="getattr", takes="input, name", functions=(getattr,), shape="python"),
    _size(name="numel", takes="input;", functions=(torch.numel,), methods=("numel", "nelement"), shape="none"),
    _size(name="len", takes="input;", functions=(len,), shape="python"),
    _size(name="math", takes="value;", functions=(math.ceil, math.floor, math.sqrt), shape="none"),
    _size(name="extremum", takes="*values", functions=(max, min), shape="none"),
    _size(name="not", takes="value;", functions=(operator.not_,), shape="none"),
    _size(
        name="window_size",
        takes="*sizes",
        functions=(
            "torchvision.models.video.swin_transformer._compute_pad_size_3d",
            "torchvision.models.video.swin_transformer._get_window_and_shift_size",
        ),
        shape="none",
    ),
    Op(
        "relative_position_bias",
        "lookup",
        "relative_position_bias_table, relative_position_index; window_size",
        functions=(
            "torchvision.models.swin_transformer._get_relative_position_bias",
            "torchvision.models.video.swin_transformer._get_relative_position_bias",
        ),
    ),
    Op("assert", "check", "condition; message", functions=(torch._assert,), shape="python"),
)
