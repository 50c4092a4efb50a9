"""Ops without a row in the table that are known to have no MACs. What is not known to be free is not free.

They are variants of ops with a row (in place, or as exported), what torch says of its own ops that it is element-wise
or returns a view, and what is listed here by families of names. Nothing else is claimed of them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import nn

from fxprune.ops.op import MULTIPLYING
from fxprune.ops.operators import MODE_QUESTIONS, is_torchs_own
from fxprune.ops.table import rows

_NAMES = frozenset(
    f"""
    all any aminmax argmax argmin count_nonzero median mode nanmean nanmedian nansum norm linalg_norm
    linalg_vector_norm logsumexp prod sum_to_size std_mean var_mean quantile nanquantile kthvalue trace
    cumprod cummax cummin logcumsumexp diff dist trapezoid trapz histc bincount renorm

    sort argsort msort topk unique unique_consecutive searchsorted bucketize nonzero argwhere isin allclose

    group_norm layer_norm rms_norm native_batch_norm
    native_group_norm native_layer_norm weight_norm cosine_similarity pairwise_distance

    gumbel_softmax glu

    absolute complex cross linalg_cross dequantize fix greater greater_equal isclose isreal
    less less_equal negative not_equal polar pos and or xor lshift
    rshift radd rsub rmul rdiv rtruediv rfloordiv rmod rpow ror rxor rlshift rrshift

    bool byte cdouble cfloat char int long short item tolist numpy

    block_diag cartesian_prod concat column_stack combinations constant_pad_nd copy diag
    diag_embed diagflat dstack fill fill_diagonal fliplr flipud fold gather hstack index
    meshgrid one_hot put repeat_interleave rot90 row_stack setitem take
    take_along_dim tile tril triu unfold vstack zero as_subclass
    requires_grad unsafe_chunk unsafe_split

    array asarray binomial exponential linspace logspace multinomial new
    scalar_tensor tensor tril_indices triu_indices uniform

    cross_entropy binary_cross_entropy binary_cross_entropy_with_logits kl_div

    by_mode enter_autocast exit_autocast set_grad_enabled {" ".join(MODE_QUESTIONS)}
    """.split()
)
_BEGINNINGS = (
    *("adaptive_avg_pool", "adaptive_max_pool", "avg_pool", "max_pool", "max_unpool", "lp_pool"),
    *("fractional_max_pool", "index_", "masked_", "scatter", "embedding", "upsample", "grid_sample"),
    *("atleast_", "broadcast_", "new_", "empty", "full", "ones", "zeros", "rand", "arc", "is_", "sym_"),
    *("assert", "check"),
)
_ENDS = ("_loss", "_scatter", "_window", "dropout", "dropout1d", "dropout2d", "dropout3d")
_IN_TORCHVISION = {"nms", "batched_nms", "box_iou", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool"}
_LAYERS = {  # the files of torch.nn.modules that they are in
    *("activation", "batchnorm", "channelshuffle", "distance", "dropout", "flatten", "fold", "instancenorm"),
    *("loss", "normalization", "padding", "pixelshuffle", "pooling", "sparse", "upsampling"),
}


def op_name(target: Any) -> str:
    """Return the name of a function or a method without underscores around it: "add" of ``add_`` and ``__add__``."""
    if isinstance(target, torch._ops.OpOverload):
        target = target._schema.name.rpartition("::")[2]
    return str(target if isinstance(target, str) else getattr(target, "__name__", target)).strip("_")


@lru_cache(maxsize=2048)
def is_free(target: Any) -> bool:
    """Say whether a function, or a method by name, is known to have no MACs."""
    name, home = op_name(target), str(getattr(target, "__module__", ""))
    if home.startswith("torchvision.") and name in _IN_TORCHVISION:
        return True
    if not isinstance(target, (str, torch._ops.OpOverload)) and not is_torchs_own(target):
        return False
    is_listed = name in _NAMES or name.startswith(_BEGINNINGS) or name.endswith(_ENDS) or _has_free_row(name)
    return is_listed or home in ("builtins", "math", "_operator") or _is_elementwise_or_view(name)


def _has_free_row(name: str) -> bool:
    """Say whether there are ops of this name in the table, and none of them multiplies."""
    kinds = {op.kind for op in rows() for spelling in (*op.functions, *op.methods) if op_name(spelling) == name}
    return bool(kinds) and kinds.isdisjoint(MULTIPLYING)


def _is_elementwise_or_view(name: str) -> bool:
    """Say what torch says of its own op of this name, in whatever overload."""
    packets = [getattr(torch.ops.aten, spelling, None) for spelling in (name, f"_{name}", f"{name}_")]
    known: list[Any] = [packet for packet in packets if isinstance(packet, torch._ops.OpOverloadPacket)]
    found = [getattr(packet, overload) for packet in known for overload in packet.overloads()]
    returned = [one.alias_info for op in found for one in op._schema.returns]
    is_view = any(alias is not None and not alias.is_write for alias in returned)
    return is_view or any(torch.Tag.pointwise in op.tags for op in found)


def is_free_layer(module: nn.Module) -> bool:
    """Say whether a layer of torch's own is known to have no MACs (of attention the products are counted before)."""
    files = (kind.__module__.rpartition(".") for kind in type(module).__mro__)
    known = any(package == "torch.nn.modules" and file in _LAYERS for package, _, file in files)
    return known or isinstance(module, nn.Identity)
