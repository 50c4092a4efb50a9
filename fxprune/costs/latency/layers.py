"""The work of layers that have weights: convs, linear layers, norms; each is made anew at any widths."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx.passes.shape_prop import TensorMetadata

from fxprune.costs.latency.workloads import Operand, Widths, Workload, layer_workload
from fxprune.facts.shapes import tensor_meta
from fxprune.ops.call import Call
from fxprune.ops.op import Op

_BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_INSTANCE_NORMS = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


def weighted_workload(call: Call, read: TensorMetadata, made: TensorMetadata, has_norm: bool) -> Workload | None:
    """Return the work of a conv or a linear layer, which a folded norm gives a bias; None if its numbers are unknown.

    Its parameters are the channels that it reads and those that it makes; of depthwise convs the latter alone.
    """
    op = call.op
    assert op is not None
    bias = has_norm or (call.module.bias if call.module is not None else call.argument("bias")) is not None
    if call.kind == "linear":
        last = len(read.shape) - 1
        widths = (int(read.shape[-1]), int(made.shape[-1]))
        operand = Operand.like(read, [-1] * last + [0])
        return layer_workload(f"linear{' +b' * bias}", lambda at: nn.Linear(at[0], at[1], bias=bias), operand, widths)
    return _conv_workload(call, op, read, made, bias)


def _conv_workload(call: Call, op: Op, read: TensorMetadata, made: TensorMetadata, bias: bool) -> Workload | None:
    axis = len(read.shape) - op.axes - 1
    shape = _weight_shape(call)
    settings = {name: call.argument(name) for name in ("stride", "padding", "dilation", "groups")}
    if shape is None or not isinstance(settings["groups"], int):
        return None
    numbers = {name: call.numbers(name) for name in ("stride", "padding", "dilation")}
    settings |= {name: value for name, value in numbers.items() if value is not None}
    settings |= {"kernel_size": shape[2:], "bias": bias}
    if op.kind == "transposed conv":
        settings["output_padding"] = call.argument("output_padding")
    if call.module is not None and call.module.padding_mode != "zeros":
        settings["padding_mode"] = call.module.padding_mode
    groups, channels = settings.pop("groups"), (int(read.shape[axis]), int(made.shape[axis]))
    kind: Any = op.layers[0]
    is_depthwise = groups > 1 and groups == channels[0]
    scaled = [-1] * len(read.shape)
    scaled[axis] = 0
    operand = Operand.like(read, scaled)
    told = ", ".join(f"{name}={value}" for name, value in sorted(settings.items()))
    if is_depthwise:
        times = channels[1] // channels[0]

        def of_depth(at: Widths) -> nn.Module:
            width = at[0] // times
            return kind(width, at[0], groups=width, **settings)  # type: ignore[no-any-return]

        name = f"{op.name}{op.axes}d x{times} each, {told}"
        return layer_workload(name, of_depth, operand, (channels[1],), (times,))

    def made_at(at: Widths) -> nn.Module:
        return kind(*at, groups=groups, **settings)  # type: ignore[no-any-return]

    name = f"{op.name}{op.axes}d, groups={groups}, {told}, to c1"
    return layer_workload(name, made_at, operand, channels, (groups, groups))


def _weight_shape(call: Call) -> tuple[int, ...] | None:
    if call.module is not None:
        return tuple(call.module.weight.shape)
    meta = tensor_meta(call.argument("weight"))
    return None if meta is None else tuple(meta.shape)


def norm_workload(call: Call, read: TensorMetadata, axis: int) -> Workload | None:
    """Return the work of a norm that stays, by the width along ``axis``; None of one to be timed as it is called."""
    assert call.op is not None
    name, rank = call.op.name, len(read.shape)
    by_rank: Any = {"batch_norm": _BATCH_NORMS, "instance_norm": _INSTANCE_NORMS}.get(name, {})
    kind: Any = {"layer_norm": nn.LayerNorm, "rms_norm": nn.RMSNorm, "group_norm": nn.GroupNorm}.get(name)
    kind = kind or by_rank.get(rank)
    if kind is None or (by_rank and axis != 1):
        return None
    width, step = int(read.shape[axis]), 1
    before: tuple[int, ...] = ()
    if name == "group_norm":
        step = call.argument("num_groups")
        before = (step,)
    elif name in ("layer_norm", "rms_norm"):
        normalized = call.argument("normalized_shape")
        if axis != rank - 1 or (len(normalized) if isinstance(normalized, (tuple, list)) else 1) != 1:
            return None
    scaled = [-1] * rank
    scaled[axis] = 0
    return layer_workload(
        f"{name}{before or ''}",
        lambda at: kind(*before, *at),
        Operand.like(read, scaled),
        (width,),
        (step,),
        fused=True,
    )
