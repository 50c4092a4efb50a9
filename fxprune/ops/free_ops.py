"""Which ops have no MACs: they multiply no weights and no matrices. What is not known to be free is not free.

Torch says of its own ops whether they are element-wise or return a view; the others are listed by families of names.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import nn

from fxprune.ops.operators import MODE_QUESTIONS, is_torchs_own

_NAMES = frozenset(
    f"""
    all any amax amin aminmax argmax argmin count_nonzero mean median mode nanmean nanmedian nansum norm linalg_norm
    linalg_vector_norm logsumexp prod sum sum_to_size std std_mean var var_mean quantile nanquantile kthvalue trace
    cumsum cumprod cummax cummin logcumsumexp diff dist trapezoid trapz histc bincount renorm

    sort argsort msort topk unique unique_consecutive searchsorted bucketize nonzero argwhere isin allclose

    batch_norm group_norm instance_norm layer_norm rms_norm local_response_norm normalize native_batch_norm
    native_group_norm native_layer_norm weight_norm cosine_similarity pairwise_distance

    softmax log_softmax softmin softsign gumbel_softmax glu hardswish logsigmoid prelu tanhshrink

    absolute clip complex cross linalg_cross dequantize divide fix floor_divide greater greater_equal isclose isreal
    less less_equal multiply negative not_equal polar subtract truediv floordiv mod invert pos and or xor lshift
    rshift radd rsub rmul rdiv rtruediv rfloordiv rmod rpow ror rxor rlshift rrshift

    bfloat16 bool byte cdouble cfloat char double float half int long short type type_as item tolist numpy

    block_diag cartesian_prod cat concat concatenate column_stack combinations constant_pad_nd copy diag
    diag_embed diagflat dstack fill fill_diagonal flip fliplr flipud fold gather getitem hstack index
    interpolate meshgrid one_hot pad put repeat repeat_interleave roll rot90 row_stack setitem stack take
    take_along_dim tile tril triu unfold vstack zero pixel_shuffle pixel_unshuffle channel_shuffle as_subclass
    requires_grad unsafe_chunk unsafe_split

    arange array asarray bernoulli binomial exponential eye linspace logspace multinomial new normal poisson
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
_IN_TORCHVISION = {
    *("stochastic_depth", "drop_block2d", "drop_block3d", "nms", "batched_nms", "box_iou", "roi_align", "roi_pool"),
    *("ps_roi_align", "ps_roi_pool", "patch_merging_pad", "get_relative_position_bias"),
    *("squeeze", "unsqueeze"),
}
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
    is_listed = name in _NAMES or name.startswith(_BEGINNINGS) or name.endswith(_ENDS)
    return is_listed or home in ("builtins", "math", "_operator") or _is_elementwise_or_view(name)


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
