"""Ops that multiply weights or matrices: what has MACs."""

from __future__ import annotations

import operator
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from fxprune.ops.op import Op

_weighted = partial(Op, fresh=True, unsaved=True, dtype="lower", weights={"weight": ("out", "in"), "bias": ("out",)})
_conv = partial(
    _weighted, name="conv", kind="conv", takes="input; weight, bias=None, stride=1, padding=0, dilation=1, groups=1"
)
_transposed = partial(
    _weighted,
    name="conv_transpose",
    kind="transposed conv",
    takes="input; weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1",
    weights={"weight": ("in", "out"), "bias": ("out",)},
)
_product = partial(Op, kind="product", fresh=True)


def _windows(function: str, scale: str = "") -> Op:
    """Return the row of torchvision's Swin attention, which pads to whole windows and cuts off again."""
    takes = (
        "input; qkv_weight, proj_weight, relative_position_bias, window_size, num_heads, shift_size, "
        f"attention_dropout=0.0, dropout=0.0, qkv_bias=None, proj_bias=None, {scale}training=True"
    )
    return Op("shifted_window_attention", "attention", takes, functions=(function,), shape="same")


ROWS: tuple[Op, ...] = (
    _conv(layers=(nn.Conv1d,), functions=(functional.conv1d,), axes=1),
    _conv(layers=(nn.Conv2d,), functions=(functional.conv2d,), axes=2),
    _conv(layers=(nn.Conv3d,), functions=(functional.conv3d,), axes=3),
    _transposed(layers=(nn.ConvTranspose1d,), functions=(functional.conv_transpose1d,), axes=1),
    _transposed(layers=(nn.ConvTranspose2d,), functions=(functional.conv_transpose2d,), axes=2),
    _transposed(layers=(nn.ConvTranspose3d,), functions=(functional.conv_transpose3d,), axes=3),
    _weighted(
        name="linear",
        kind="linear",
        takes="input; weight, bias=None",
        layers=(nn.Linear,),
        functions=(functional.linear,),
    ),
    # products of what the graph computes
    _product(
        name="matmul",
        takes="input, other;",
        functions=(operator.matmul, torch.matmul, torch.linalg.matmul),
        methods=("matmul",),
        shape="matmul",
    ),
    _product(name="bmm", takes="input, mat2;", functions=(torch.bmm,), methods=("bmm",), shape="matmul"),
    _product(name="mm", takes="input, mat2;", functions=(torch.mm,), methods=("mm",)),
    _product(name="mv", takes="input, vec;", functions=(torch.mv,), methods=("mv",)),
    _product(name="inner", takes="input, other;", functions=(torch.inner,), methods=("inner",)),
    _product(name="dot", takes="input, tensor;", functions=(torch.dot, torch.vdot), methods=("dot", "vdot")),
    _product(
        name="addmm",
        takes="input, mat1, mat2; *, beta=1, alpha=1",
        functions=(torch.addmm,),
        methods=("addmm",),
    ),
    _product(name="addmv", takes="input, mat, vec; *, beta=1, alpha=1", functions=(torch.addmv,), methods=("addmv",)),
    _product(
        name="baddbmm",
        takes="input, batch1, batch2; *, beta=1, alpha=1",
        functions=(torch.baddbmm,),
        methods=("baddbmm",),
    ),
    _product(
        name="addbmm",
        takes="input, batch1, batch2; *, beta=1, alpha=1",
        functions=(torch.addbmm,),
        methods=("addbmm",),
    ),
    _product(name="outer", takes="input, vec2;", functions=(torch.outer, torch.ger), methods=("outer", "ger")),
    _product(name="addr", takes="input, vec1, vec2; *, beta=1, alpha=1", functions=(torch.addr,), methods=("addr",)),
    _product(name="tensordot", takes="a, b; dims=2", functions=(torch.tensordot,)),
    _product(name="multi_dot", takes="tensors", functions=(torch.linalg.multi_dot,)),
    _product(name="chain_matmul", takes="*tensors", functions=(torch.chain_matmul,)),
    _product(name="einsum", takes="equation, *operands", functions=(torch.einsum,), shape="einsum"),
    _product(
        name="bilinear",
        takes="input1, input2; weight, bias=None",
        layers=(nn.Bilinear,),
        functions=(functional.bilinear,),
    ),
    # attention and recurrent layers
    Op("multihead_attention", "attention", "query, key, value", (nn.MultiheadAttention,), shape="heads"),
    Op(
        "scaled_dot_product_attention",
        "attention",
        "query, key, value; attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False",
        functions=(functional.scaled_dot_product_attention,),
        shape="attention",
    ),
    Op(
        "multi_head_attention_forward",
        "attention",
        "query, key, value; embed_dim_to_check, num_heads, in_proj_weight, in_proj_bias, bias_k, bias_v, "
        "add_zero_attn, dropout_p, out_proj_weight, out_proj_bias, training=True, key_padding_mask=None, "
        "need_weights=True, attn_mask=None, use_separate_proj_weight=False, q_proj_weight=None, k_proj_weight=None, "
        "v_proj_weight=None, static_k=None, static_v=None, average_attn_weights=True, is_causal=False",
        functions=(functional.multi_head_attention_forward,),
        shape="none",
    ),
    _windows("torchvision.models.swin_transformer.shifted_window_attention", "logit_scale=None, "),
    _windows("torchvision.models.video.swin_transformer.shifted_window_attention_3d"),
    Op("rnn", "recurrent", "input, hx=None", (nn.RNN, nn.RNNCell)),
    Op("gru", "recurrent", "input, hx=None", (nn.GRU, nn.GRUCell)),
    Op("lstm", "recurrent", "input, hx=None", (nn.LSTM, nn.LSTMCell)),
)
