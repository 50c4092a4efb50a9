"""What calls return that can be told without calling them on fake tensors, which takes 50 to 3,000 microseconds."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional

from fxprune.gates.gate import ScaledLayer
from fxprune.ir.autocast import autocast_state
from fxprune.ir.nodes import called_module
from fxprune.ir.pytrees import map_tensors, tensors_in
from fxprune.ops.call import claims_of
from fxprune.ops.layer_classes import CONV_CLASSES
from fxprune.ops.op import Op
from fxprune.ops.table import row_of_layer

_OF_EACH = (
    "elementwise",
    "arithmetic",
    "norm",
)  # of these kinds, those that fix a dtype return one like their inputs


def is_like_input(module: nn.Module | None) -> bool:
    """Say whether a layer returns a tensor like its input, of the same shape, dtype and layout; in place or not."""
    op = None if module is None else row_of_layer(type(module))
    return op is not None and type(module) in op.layers and _is_like_inputs(op)


def _is_like_inputs(op: Op) -> bool:
    return op.kind in _OF_EACH and op.fresh and op.dtype != ""


def worked_out(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> FakeTensor | None:
    """Return what ``node`` returns where that can be told without calling it on fake tensors; None elsewhere."""
    module: Any = called_module(node)
    if isinstance(module, ScaledLayer):
        return _behind_gate(module, args)
    if autocast_state() is not None:
        return None
    if kwargs == {"inplace": False}:
        kwargs = {}
    found = None if kwargs else _plain_to_see(node, args)
    if found is None and node.target in (torch.cat, functional.layer_norm):
        return _on_meta(node.target, args, kwargs)
    if found is not None or kwargs or len(args) != 1:
        return found
    weights = tuple(module._parameters.values()) if module is not None else ()
    if type(module) in CONV_CLASSES:
        return _behind_conv(module, args[0])
    if type(module) is nn.Linear:
        return _on_meta(functional.linear, (*args, *weights), {})
    if type(module) is nn.LayerNorm:
        return _on_meta(functional.layer_norm, (*args, module.normalized_shape, *weights), {})
    return None


def _behind_gate(gate: ScaledLayer, args: tuple[Any, ...]) -> FakeTensor | None:
    """Return what a ResConv or a BranchScale returns, under autocast too; None if its inputs are no fake tensors."""
    layer, inputs, scale = gate.wrapped, args[: gate.operands], gate.trained_scale
    if not inputs or not all(type(x) is FakeTensor for x in inputs) or len(inputs) != gate.operands:
        return None
    y: Any = inputs[-1]
    if layer is not None and not gate.closed:
        y = _behind_conv(layer, y) if autocast_state() is None else None
        if y is None:
            with inputs[0].fake_mode:
                y = layer(inputs[0])
    one = torch.empty((), dtype=scale.dtype, device="meta")
    return _on_meta(gate.outline, (one, inputs[0], y), {})


def _on_meta(compute: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> FakeTensor | None:
    """Return what ``compute`` returns on the meta device, a new tensor or one of ``args``, as a fake one."""
    fakes = [x for x in tensors_in(args) if type(x) is FakeTensor]
    if not fakes or len({x.fake_device for x in fakes}) != 1:
        return None

    given: dict[int, tuple[torch.Tensor, Any]] = {}

    def to_meta(x: torch.Tensor) -> torch.Tensor:
        meta = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
        given[id(meta)] = meta, x
        return meta

    try:
        meta = compute(*map_tensors(args, to_meta), **map_tensors(kwargs, to_meta))
    except (RuntimeError, IndexError):
        return None  # they do not fit: fake tensors say why
    if id(meta) in given:
        return given[id(meta)][1]  # type: ignore[no-any-return]
    return FakeTensor(fakes[0].fake_mode, meta, fakes[0].fake_device)


def _plain_to_see(node: fx.Node, args: tuple[Any, ...]) -> FakeTensor | None:
    """Return what ``node`` returns for contiguous tensors, if that is like them or one formula away."""
    module = called_module(node)
    tensors: Sequence[Any] = args
    if node.target is torch.cat and args and type(args[0]) in (tuple, list) and args[0]:
        tensors = args[0]
    if not tensors or not all(type(x) is FakeTensor and x.is_floating_point() and x.is_contiguous() for x in tensors):
        return None
    first: FakeTensor = tensors[0]
    if len({(x.dtype, x.fake_device) for x in tensors}) != 1:
        return None
    if node.target is torch.cat:
        return _concatenated(tensors, *args[1:]) if len(args) < 3 else None
    if len({x.shape for x in tensors}) == 1:
        if node.target in (operator.iadd, operator.imul):
            return first
        op = claims_of(node)
        if op is not None and _is_like_inputs(op):
            return first if getattr(module, "inplace", False) else _new(first, first.shape)
    if module is None or len(args) != 1:
        return None
    weight = module._parameters.get("weight")
    if type(module) is not nn.Linear or weight is None or weight.dtype != first.dtype or not first.dim():
        return None
    return _new(first, (*first.shape[:-1], module.out_features)) if first.shape[-1] == weight.shape[1] else None


def _new(like: FakeTensor, shape: Sequence[int]) -> FakeTensor:
    return FakeTensor(like.fake_mode, torch.empty(tuple(shape), dtype=like.dtype, device="meta"), like.fake_device)


def _concatenated(tensors: Sequence[FakeTensor], dim: Any = 0) -> FakeTensor | None:
    rank = tensors[0].dim()
    if type(dim) is not int or not -rank <= dim < rank or any(x.dim() != rank for x in tensors):
        return None
    dim %= rank
    if len({(*x.shape[:dim], *x.shape[dim + 1 :]) for x in tensors}) != 1:
        return None
    shape = list(tensors[0].shape)
    shape[dim] = sum(x.shape[dim] for x in tensors)
    return _new(tensors[0], shape)


def _behind_conv(conv: Any, x: Any) -> FakeTensor | None:
    """Return the output of a conv: in channels_last if its input or its weight is; None if anything is unusual."""
    weight = conv._parameters.get("weight")
    if type(x) is not FakeTensor or weight is None or weight.dtype != x.dtype or x.dim() != weight.dim():
        return None
    if x.shape[1] != weight.shape[1] * conv.groups:
        return None
    formats = {_memory_format(x), _memory_format(weight)}
    if None in formats:
        return None
    if conv.padding == "same":
        sizes = list(x.shape[2:])
    else:
        padding = (0,) * (x.dim() - 2) if conv.padding == "valid" else conv.padding
        geometry = zip(x.shape[2:], padding, conv.dilation, weight.shape[2:], conv.stride, strict=True)
        sizes = [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, p, d, k, s in geometry]
    if min(sizes) <= 0:
        return None
    format_ = next((one for one in formats if one is not torch.contiguous_format), torch.contiguous_format)
    shape = (x.shape[0], weight.shape[0], *sizes)
    meta = torch.empty(shape, dtype=x.dtype, device="meta", memory_format=format_)
    return FakeTensor(x.fake_mode, meta, x.fake_device)


def _memory_format(tensor: torch.Tensor) -> torch.memory_format | None:
    if tensor.is_contiguous():
        return torch.contiguous_format
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.dim())
    return last if last is not None and tensor.is_contiguous(memory_format=last) else None
