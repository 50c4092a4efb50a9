"""Ops that put elements elsewhere: reshaping, permuting, splitting, joining, padding; and what makes tensors anew."""

from __future__ import annotations

import operator
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from fxprune.ops.op import Op

_move = partial(Op, kind="movement", values="selects", homogeneous="all", zero=True, dtype="keeps")
_join = partial(Op, kind="join", takes="tensors; dim=0", values="selects", fresh=True)
_pads = partial(Op, kind="pad", takes="input; padding", values="selects", homogeneous="all", zero=True, fresh=True)
_MADE = "dtype=None, layout=None, device=None, requires_grad=False, pin_memory=False"
_new = partial(Op, kind="new", takes=f"; *size, {_MADE}", fresh=True)
_like = partial(Op, kind="new", takes=f"input; *, {_MADE}", shape="same", fresh=True)

ROWS: tuple[Op, ...] = (
    _move(
        name="flatten",
        takes="input; start_dim=0, end_dim=-1",
        layers=(nn.Flatten,),
        functions=(torch.flatten,),
        methods=("flatten",),
        shape="flatten",
    ),
    _move(
        name="reshape",
        takes="input; *shape",
        functions=(torch.reshape,),
        methods=("reshape", "view"),
        shape="reshape",
    ),
    _move(name="permute", takes="input; *dims", functions=(torch.permute,), methods=("permute",), shape="permute"),
    _move(
        name="transpose",
        takes="input; dim0, dim1",
        functions=(torch.transpose, torch.swapaxes),
        methods=("transpose", "swapaxes"),
        shape="transpose",
    ),
    _move(
        name="movedim",
        takes="input; source, destination",
        functions=(torch.movedim, torch.moveaxis),
        methods=("movedim", "moveaxis"),
    ),
    _move(name="t", takes="input;", functions=(torch.t, torch.adjoint), methods=("t", "adjoint")),
    _move(name="squeeze", takes="input; dim=None", functions=(torch.squeeze,), methods=("squeeze",)),
    _move(
        name="unsqueeze", takes="input; dim", functions=(torch.unsqueeze,), methods=("unsqueeze",), shape="unsqueeze"
    ),
    _move(  # one axis more or none, and how many there were
        name="unsqueeze_to",
        takes="input; target_dim, expand_dim",
        functions=("torchvision.models.video.mvit._unsqueeze",),
    ),
    _move(
        name="squeeze_to",
        takes="input; target_dim, expand_dim, tensor_dim",
        functions=("torchvision.models.video.mvit._squeeze",),
    ),
    _move(name="chunk", takes="input; chunks, dim=0", functions=(torch.chunk,), methods=("chunk",), shape="chunk"),
    _move(name="split", takes="tensor; split_size_or_sections, dim=0", functions=(torch.split,), shape="split"),
    _move(name="split", takes="tensor; split_size, dim=0", methods=("split",), shape="split"),
    _move(
        name="tensor_split",
        takes="input; indices_or_sections=None, dim=0, indices=None, sections=None",
        functions=(torch.tensor_split,),
        methods=("tensor_split",),
    ),
    _move(name="unbind", takes="input; dim=0", functions=(torch.unbind,), methods=("unbind",), shape="unbind"),
    _move(name="getitem", takes="input; index", functions=(operator.getitem,), shape="python"),
    _move(name="narrow", takes="input; dim, start, length", functions=(torch.narrow,), methods=("narrow",)),
    _move(name="select", takes="input; dim, index", functions=(torch.select,), methods=("select",)),
    _move(
        name="index_select",
        takes="input; dim, index",
        functions=(torch.index_select,),
        methods=("index_select",),
        fresh=True,
    ),
    _move(
        name="gather",
        takes="input; dim, index, sparse_grad=False",
        functions=(torch.gather,),
        methods=("gather",),
        fresh=True,
    ),
    _move(
        name="unflatten",
        takes="input; dim, sizes",
        functions=(torch.unflatten,),
        methods=("unflatten",),
    ),
    _move(name="unflatten", takes="input; dim, unflattened_size", layers=(nn.Unflatten,)),
    _move(
        name="expand",
        takes="input; *size",
        functions=(torch.broadcast_to,),
        methods=("expand", "broadcast_to"),
        shape="expand",
    ),
    _move(name="expand_as", takes="input, other;", methods=("expand_as", "view_as", "reshape_as"), shape="other"),
    _move(name="repeat", takes="input; *repeats", methods=("repeat",)),
    _move(name="tile", takes="input; dims", functions=(torch.tile,)),
    _move(name="tile", takes="input; *dims", methods=("tile",)),
    _move(
        name="repeat_interleave",
        takes="input; repeats, dim=None",
        functions=(torch.repeat_interleave,),
        methods=("repeat_interleave",),
        fresh=True,
    ),
    _move(name="flip", takes="input; *dims", functions=(torch.flip,), methods=("flip",), shape="same", fresh=True),
    _move(
        name="roll",
        takes="input; shifts, dims=None",
        functions=(torch.roll,),
        methods=("roll",),
        shape="same",
        fresh=True,
    ),
    _move(
        name="pixel_shuffle",
        takes="input; upscale_factor",
        layers=(nn.PixelShuffle,),
        functions=(functional.pixel_shuffle,),
    ),
    _move(
        name="pixel_unshuffle",
        takes="input; downscale_factor",
        layers=(nn.PixelUnshuffle,),
        functions=(functional.pixel_unshuffle,),
    ),
    _move(
        name="channel_shuffle",
        takes="input; groups",
        layers=(nn.ChannelShuffle,),
        functions=(functional.channel_shuffle,),
        shape="same",
    ),
    _join(name="cat", functions=(torch.cat, torch.concat, torch.concatenate), shape="cat"),
    _join(name="stack", functions=(torch.stack,), shape="stack"),
    Op(
        "pad",
        "pad",
        "input; pad, mode='constant', value=None",
        functions=(functional.pad,),
        where={"value": (None, 0), "mode": ("constant",)},
        values="pads",
        zero=True,
        shape="pad",
        fresh=True,
        dtype="keeps",
    ),
    _pads(name="zero_pad", layers=(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d), values="pads", dtype="keeps"),
    _pads(
        name="constant_pad",
        takes="input; padding, value",
        layers=(nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d),
        where={"value": (0,)},
        values="pads",
        homogeneous="no",
        dtype="keeps",
    ),
    _pads(name="reflection_pad", layers=(nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d)),
    _pads(name="replication_pad", layers=(nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d)),
    _move(name="unfold", takes="input; dimension, size, step", methods=("unfold",)),
    _move(
        name="im2col",
        takes="input; kernel_size, dilation=1, padding=0, stride=1",
        layers=(nn.Unfold,),
        functions=(functional.unfold,),
        values="pads",
    ),
    _move(
        name="col2im",
        takes="input; output_size, kernel_size, dilation=1, padding=0, stride=1",
        layers=(nn.Fold,),
        functions=(functional.fold,),
        values="",
        dtype="",
    ),
    _move(
        name="patch_merging_pad",
        takes="x;",
        functions=("torchvision.models.swin_transformer._patch_merging_pad",),
        values="pads",
        dtype="",
    ),
    _new(name="eye", functions=(torch.eye,), shape="none"),
    _new(name="arange", functions=(torch.arange,), shape="none"),
    _new(name="zeros", functions=(torch.zeros,)),
    _new(name="ones", functions=(torch.ones,)),
    _new(name="full", takes=f"; size, fill_value, *, {_MADE}", functions=(torch.full,)),
    _new(name="empty", functions=(torch.empty,)),
    _like(name="zeros_like", functions=(torch.zeros_like,), image=(0.0, 0.0)),
    _like(name="ones_like", functions=(torch.ones_like,), image=(1.0, 1.0)),
    _like(name="empty_like", functions=(torch.empty_like,)),
    _like(name="full_like", takes=f"input; fill_value, *, {_MADE}", functions=(torch.full_like,)),
    Op("new_tensor", "new", f"input; *size, {_MADE}", methods=("new_empty", "new_zeros", "new_ones")),
    Op("new_full", "new", f"input; size, fill_value, *, {_MADE}", methods=("new_full",)),
)
