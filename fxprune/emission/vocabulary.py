"""What an emitted folder may call: the functions, methods and attributes that are known to do no more than compute.

``emit`` writes nothing that is not in here and ``load_emitted`` reads nothing that is not, so that a graph file can
be read without trust, and whatever was written can be read back.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from fxprune.errors import LoadError
from fxprune.ir.autocast import ENTER_AUTOCAST, EXIT_AUTOCAST
from fxprune.ops.operators import MODE_QUESTIONS

_OPERATORS = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "neg", "pos", "abs", "getitem"),
    *("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "xor", "not_", "invert", "lshift", "rshift", "contains"),
    *("is_", "is_not", "index", "truth", "setitem"),
)
_MATH = ("sqrt", "ceil", "floor", "trunc", "prod", "log", "log2", "log10", "exp", "pow", "gcd", "isqrt", "fabs")
_BUILTINS = ("abs", "bool", "divmod", "float", "int", "len", "list", "max", "min", "range", "round", "sum", "tuple")
_FACTORIES = (
    *("zeros", "ones", "full", "empty", "arange", "linspace", "logspace", "eye", "tensor", "as_tensor"),
    *("scalar_tensor", "tril_indices", "triu_indices", "rand", "randn", "randint", "randperm", "hann_window"),
    *("finfo", "iinfo"),
)
# Functions of torchvision that torch.fx does not trace into, or that are kernels.
_TORCHVISION = {
    "torchvision.ops": (
        *("stochastic_depth", "drop_block2d", "drop_block3d", "deform_conv2d", "roi_align", "roi_pool"),
        *("ps_roi_align", "ps_roi_pool", "nms", "batched_nms", "box_convert", "box_iou", "clip_boxes_to_image"),
    ),
    "torchvision.models.swin_transformer": (
        *("shifted_window_attention", "_patch_merging_pad", "_get_relative_position_bias"),
    ),
    "torchvision.models.video.swin_transformer": (
        *("shifted_window_attention_3d", "_get_window_and_shift_size", "_get_relative_position_bias"),
        *("_compute_pad_size_3d", "_compute_attention_mask_3d"),
    ),
    "torchvision.models.video.mvit": ("_unsqueeze", "_squeeze", "_add_rel_pos", "_add_shortcut"),
}
# These leave the world of tensors: torch imports modules by name there, or runs what it is given.
_FORBIDDEN_METHODS = {
    *("untyped_storage", "storage", "storage_type", "numpy", "apply_", "map_", "map2_", "set_", "backward"),
    *("register_hook", "register_post_accumulate_grad_hook", "module_load", "share_memory_", "data_ptr"),
}
_CONTAINER_METHODS = {"get", "keys", "values", "items"}
_ATTRIBUTES = {
    *("shape", "dtype", "device", "ndim", "T", "mT", "H", "mH", "real", "imag", "data", "is_cuda", "itemsize"),
    *("min", "max", "eps", "tiny", "bits"),  # of torch.finfo
    *("type", "index"),  # of a device
}


@functools.cache
def functions() -> dict[str, Callable[..., Any]]:
    """Return every function that may be called, by the name that emitted source has for it."""
    from torch.overrides import get_overridable_functions

    of_tensors = {id(f) for home, fs in get_overridable_functions().items() if home is not torch.Tensor for f in fs}
    known: dict[str, Callable[..., Any]] = {f"operator.{name}": getattr(operator, name) for name in _OPERATORS}
    homes = {"F": functional, "torch": torch}
    homes |= {f"torch.{name}": getattr(torch, name) for name in ("linalg", "fft", "special")}
    for prefix, home in homes.items():
        for name in dir(home):
            if not name.startswith("_") and id(getattr(home, name)) in of_tensors:
                known[f"{prefix}.{name}"] = getattr(home, name)
    known |= {f"torch.{name}": getattr(torch, name) for name in _FACTORIES}
    known |= {f"math.{name}": getattr(math, name) for name in _MATH}
    known |= {name: getattr(builtins, name) for name in _BUILTINS}
    known |= {f"torch.{name}": getattr(torch, name) for name in MODE_QUESTIONS if hasattr(torch, name)}
    known |= {"torch.amp._enter_autocast": ENTER_AUTOCAST, "torch.amp._exit_autocast": EXIT_AUTOCAST}
    known |= {"torch._assert": torch._assert, "torch.set_grad_enabled": torch._C._set_grad_enabled}
    for package, names in _TORCHVISION.items():
        known |= {f"{package}.{name}": f for name in names if (f := _of_torchvision(package, name))}
    return known


def _of_torchvision(package: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(package), name, None)
    except ImportError:
        return None


@functools.cache
def _names() -> dict[int, str]:
    return {id(function): name for name, function in reversed(list(functions().items()))}


def name_of(function: Any) -> str | None:
    """Return the name of ``function`` in emitted source; None if it may not be called there."""
    return _names().get(id(function))


def function_named(name: str) -> Callable[..., Any]:
    """Return the function that a graph file calls ``name``; raises LoadError if it may not."""
    if name not in functions():
        raise LoadError(f"graph.json calls {name!r}, which is not one of torch's tensor functions")
    return functions()[name]


def refused_method(name: str, arguments: Sequence[Any]) -> str | None:
    """Say why the method ``name`` may not be called; None if it may."""
    if name == "type":  # with a string it imports what the string names
        harmless = all(isinstance(a, torch.dtype) or _is_dtype_of(a) for a in arguments[1:])
        return None if harmless else "which is no tensor method that takes a dtype only; write .to(dtype)"
    known = hasattr(torch.Tensor, name) or name in _CONTAINER_METHODS
    if name.startswith("_") or name in _FORBIDDEN_METHODS or not known:
        return "which is no tensor method that only computes"
    return None


def _is_dtype_of(value: Any) -> bool:
    return isinstance(value, fx.Node) and value.target is getattr and bool(value.args[1] == "dtype")


def refused_attribute(name: Any) -> str | None:
    """Say why the attribute ``name`` may not be read; None if it may."""
    return None if name in _ATTRIBUTES else f"which is not one of {', '.join(sorted(_ATTRIBUTES))}"
