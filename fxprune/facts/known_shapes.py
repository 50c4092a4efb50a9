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
from fxprune.ops.call import Call, claims_of
from fxprune.ops.layer_classes import CONV_CLASSES
from fxprune.ops.op import Op
from fxprune.ops.table import row_of_layer

_OF_EACH = (
    "elementwise",
    "arithmetic",
    "norm",
)  # of these kinds, those that fix a dtype return one like their inputs
_ALIKE_ON_META = ("elementwise", "arithmetic", "pad", "window", "adaptive pool")
_VIEWS = ("expand", "flatten", "getitem", "narrow", "permute", "reshape", "squeeze", "transpose", "unsqueeze")


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
    if found is not None:
        return found
    if node.target is torch.cat:
        return _on_meta(node.target, args, kwargs)
    if node.target is functional.layer_norm:
        return _behind_layer_norm(args, kwargs)
    if module is not None and module._parameters:
        return _behind_weights(module, args[0]) if len(args) == 1 and not kwargs else None
    return _called_on_meta(node, module, args, kwargs)


def _behind_weights(module: nn.Module, x: Any) -> FakeTensor | None:
    """Return what a layer with weights returns, if it is one of those known here."""
    if type(module) in CONV_CLASSES:
        return _behind_conv(module, x)
    weights = tuple(module._parameters.values())
    if type(module) is nn.Linear:
        return _on_meta(functional.linear, (x, *weights), {})
    return _behind_layer_norm((x, module.normalized_shape, *weights), {}) if type(module) is nn.LayerNorm else None


def _behind_layer_norm(args: tuple[Any, ...], kwargs: dict[str, Any]) -> FakeTensor | None:
    """Return the output of a layer norm, contiguous whatever its input is: the meta device takes milliseconds."""
    given = dict(zip(("input", "normalized_shape", "weight", "bias", "eps"), args, strict=False)) | kwargs
    x, sizes = given["input"], given["normalized_shape"]
    if type(x) is not FakeTensor or not x.is_floating_point() or not isinstance(sizes, (tuple, list)) or not sizes:
        return None
    weights = [given[name] for name in ("weight", "bias") if given.get(name) is not None]
    if any(one.dtype != x.dtype or one.device != x.fake_device for one in weights):
        return None
    fits = all(tuple(shape) == tuple(sizes) for shape in (x.shape[-len(sizes) :], *(one.shape for one in weights)))
    return _new(x, x.shape) if fits else None


def _called_on_meta(node: fx.Node, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> FakeTensor | None:
    """Return what a call without weights returns there, if strides are known to be the same on every device."""
    call = Call(node)
    op = call.exact
    if op is None or not (op.kind in _ALIKE_ON_META or op.name in _VIEWS):
        return None
    if op.name == "adaptive_avg_pool" and (pooled := _behind_adaptive_pool(call, args[0])) is not None:
        return pooled
    real = [x for x in tensors_in((args, kwargs)) if type(x) is not FakeTensor]
    devices = {x.fake_device if type(x) is FakeTensor else x.device for x in tensors_in((args, kwargs))}
    if len(devices) != 1 or (real and not op.fresh):  # a view of a real tensor has the memory of that
        return None
    method = str(node.target)
    compute = module or (
        node.target if node.op == "call_function" else lambda x, *a, **k: getattr(x, method)(*a, **k)
    )
    return _on_meta(compute, args, kwargs)


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


def _behind_adaptive_pool(call: Call, x: Any) -> FakeTensor | None:
    """Return the averages of a contiguous batch; None if anything is unusual."""
    sizes = call.numbers("output_size")
    if type(x) is not FakeTensor or sizes is None or x.dim() != len(sizes) + 2:
        return None
    if not x.is_floating_point() or not x.is_contiguous() or min(*x.shape, *sizes) <= 0:
        return None
    return _new(x, (*x.shape[:2], *sizes))


def _on_meta(compute: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> FakeTensor | None:
    """Return what ``compute`` returns on the meta device, a new tensor, a view or one of ``args``, as a fake one.

    None if it returns no tensor, or several, or refuses: fake tensors say why.
    """
    fakes = [x for x in tensors_in(args) if type(x) is FakeTensor]
    if not fakes or len({x.fake_device for x in fakes}) != 1:
        return None

    given: dict[int, tuple[torch.Tensor, Any]] = {}

    def to_meta(x: torch.Tensor) -> torch.Tensor:
        if type(x) is FakeTensor:  # whose memory is on the meta device: what is a view there is one of it
            meta = torch.empty(0, dtype=x.dtype, device="meta")
            meta.set_(x.untyped_storage(), x.storage_offset(), x.shape, x.stride())
        else:
            meta = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
        given[id(meta)] = meta, x
        return meta

    try:
        meta = compute(*map_tensors(args, to_meta), **map_tensors(kwargs, to_meta))
    except (RuntimeError, IndexError, TypeError, ValueError):
        return None
    if id(meta) in given:
        return given[id(meta)][1]  # type: ignore[no-any-return]
    if not isinstance(meta, torch.Tensor) or not meta.is_meta:
        return None
    return FakeTensor(fakes[0].fake_mode, meta, fakes[0].fake_device)


def _plain_to_see(node: fx.Node, args: tuple[Any, ...]) -> FakeTensor | None:
    """Return what ``node`` returns for tensors in one memory format, if that is like them or one formula away."""
    module = called_module(node)
    tensors: Sequence[Any] = args
    if node.target is torch.cat and args and type(args[0]) in (tuple, list) and args[0]:
        tensors = args[0]
    if not tensors or not all(type(x) in (FakeTensor, nn.Parameter) and x.is_floating_point() for x in tensors):
        return None
    if len({(x.dtype, x.device) for x in tensors}) != 1:
        return None
    first = next((x for x in tensors if type(x) is FakeTensor), None)
    if first is None:
        return None
    if node.target is torch.cat:
        return _concatenated(tensors, *args[1:]) if len(args) < 3 and first is tensors[0] else None
    shape = _broadcast(tensors)
    if node.target in (operator.iadd, operator.imul):
        return first if first is args[0] and shape == first.shape else None
    if shape is not None and (format_ := _common_format(tensors, shape)) is not None:
        op = claims_of(node)
        if op is not None and _is_like_inputs(op):
            return first if getattr(module, "inplace", False) else _new(first, shape, format_)
    if type(module) is nn.Linear and len(args) == 1 and first.is_contiguous() and first.dim():
        weight = module._parameters.get("weight")
        if weight is not None and (weight.dtype, weight.shape[1]) == (first.dtype, first.shape[-1]):
            return _new(first, (*first.shape[:-1], module.out_features))
    return None


def _broadcast(tensors: Sequence[torch.Tensor]) -> torch.Size | None:
    """Return the shape of ``tensors`` broadcast, if one of them has it: the others only repeat then."""
    shapes = {x.shape for x in tensors}
    if len(shapes) == 1:
        return shapes.pop()
    try:
        shape = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
    except RuntimeError:
        return None
    return shape if shape in shapes else None


def _common_format(tensors: Sequence[torch.Tensor], shape: torch.Size) -> torch.memory_format | None:
    """Return the memory format that a result of this shape has; None if ``tensors`` do not agree on one."""
    formats = {_memory_format(x) for x in tensors if x.shape == shape}
    others = [x for x in tensors if x.shape != shape]
    if len(formats) != 1 or not all(x.is_contiguous() for x in others):
        return None
    format_ = formats.pop()
    has_say = any(sum(size > 1 for size in x.shape) > 1 for x in others)  # in the order of the axes
    return None if has_say and format_ is not torch.contiguous_format else format_


def _new(
    like: FakeTensor, shape: Sequence[int], format_: torch.memory_format = torch.contiguous_format
) -> FakeTensor:
    meta = torch.empty(tuple(shape), dtype=like.dtype, device="meta", memory_format=format_)
    return FakeTensor(like.fake_mode, meta, like.fake_device)


def _concatenated(tensors: Sequence[FakeTensor], dim: Any = 0) -> FakeTensor | None:
    rank = tensors[0].dim()
    if not all(x.is_contiguous() for x in tensors):
        return None
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
    own, of_weight = _memory_format(x), _memory_format(weight)
    if own is None or of_weight is None:
        return None
    if conv.padding == "same":
        sizes = list(x.shape[2:])
    else:
        padding = (0,) * (x.dim() - 2) if conv.padding == "valid" else conv.padding
        geometry = zip(x.shape[2:], padding, conv.dilation, weight.shape[2:], conv.stride, strict=True)
        sizes = [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, p, d, k, s in geometry]
    if min(sizes) <= 0:
        return None
    return _new(x, (x.shape[0], weight.shape[0], *sizes), of_weight if own is torch.contiguous_format else own)


def _memory_format(tensor: torch.Tensor) -> torch.memory_format | None:
    if tensor.is_contiguous():
        return torch.contiguous_format
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.dim())
    return last if last is not None and tensor.is_contiguous(memory_format=last) else None
