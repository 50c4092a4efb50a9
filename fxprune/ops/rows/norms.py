"""Norms, by statistics of a batch or of each sample."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional

from fxprune.ops.op import Op

_norm = partial(Op, kind="norm", fresh=True, weights={"weight": ("out",), "bias": ("out",)})
_of_batch = partial(_norm, name="batch_norm", unsaved=True, dtype="keeps", train_flag="training")
_last_axes = partial(_norm, weights={})  # its weights have the last axes, as many as it normalizes

ROWS: tuple[Op, ...] = (
    _of_batch(
        takes="input; running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5",
        layers=(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
        functions=(functional.batch_norm,),
    ),
    _of_batch(
        takes="input; weight, bias, running_mean, running_var, training, momentum, eps, cudnn_enabled",
        functions=(torch.batch_norm,),
    ),
    _norm(
        name="instance_norm",
        takes="input; running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, "
        "momentum=0.1, eps=1e-5",
        layers=(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
        functions=(functional.instance_norm,),
    ),
    _norm(
        name="instance_norm",
        takes="input; weight, bias, running_mean, running_var, use_input_stats, momentum, eps, cudnn_enabled",
        functions=(torch.instance_norm,),
    ),
    _norm(
        name="group_norm",
        takes="input; num_groups, weight=None, bias=None, eps=1e-5",
        layers=(nn.GroupNorm,),
        functions=(functional.group_norm,),
    ),
    _last_axes(
        name="layer_norm",
        takes="input; normalized_shape, weight=None, bias=None, eps=1e-5",
        layers=(nn.LayerNorm,),
        functions=(functional.layer_norm,),
    ),
    _last_axes(
        name="rms_norm",
        takes="input; normalized_shape, weight=None, eps=None",
        layers=(nn.RMSNorm,),
        functions=(functional.rms_norm,),
        zero=True,
    ),
    _last_axes(
        name="local_response_norm",
        takes="input; size, alpha=1e-4, beta=0.75, k=1.0",
        layers=(nn.LocalResponseNorm,),
        functions=(functional.local_response_norm,),
        zero=True,
    ),
    _last_axes(
        name="normalize",
        takes="input; p=2.0, dim=1, eps=1e-12",
        functions=(functional.normalize,),
        zero=True,
        image=(-1.0, 1.0),
        where={"p": (1, 2)},
    ),
)
