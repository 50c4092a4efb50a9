"""What a call returns for fake tensors, worked out once for all calls of the same kind.

A call of a layer on a fake tensor takes 50 to 500 microseconds, and a network repeats few kinds of calls many times.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.func import functional_call
from torch.fx.passes.shape_prop import TensorMetadata, _extract_tensor_metadata

from fxprune.graph import called_module
from fxprune.module_tree import has_hooks
from fxprune.operators import is_torchs_own

# Their outputs are like their inputs ...
_ELEMENTWISE = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Sigmoid, nn.Hardsigmoid),
)
# ... and the weights of these take torch milliseconds to make fake.
_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.Size)


class _Unknown(Exception):
    """The kind of a call cannot be told."""


@dataclass(frozen=True)
class _Output:
    """A new tensor like ``metadata``, or the positional argument at ``same_as``."""

    metadata: TensorMetadata
    mode: FakeTensorMode
    device: torch.device
    same_as: int | None


class RepeatedCalls:
    """Remembers what kinds of calls return: of torch.nn's own layers and of torch's own functions.

    A kind is the layer's class and settings, or the function, with the shapes, strides, dtypes and devices of the
    tensors and the other arguments. Calls that return views, or more than one tensor, are not remembered.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, _Output] = {}

    def call(
        self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], compute: Callable[[], Any]
    ) -> tuple[Any, TensorMetadata | None]:
        """Return what ``node`` returns for ``args`` and ``kwargs``, with its metadata if it is at hand.

        ``compute`` makes the call, where no call of its kind was made before.
        """
        try:
            key = _kind_of_call(node, args, kwargs)
        except _Unknown:
            return compute(), None
        if key in self._known:
            output = self._known[key]
            value = (
                _new(output.metadata, output.mode, output.device) if output.same_as is None else args[output.same_as]
            )
            return value, output.metadata
        value = _worked_out(node, args) if not kwargs else None
        value = compute() if value is None else value
        found = _described(value, args, kwargs)
        if found is None:
            return value, None
        self._known[key] = found
        return value, found.metadata


def _new(like: TensorMetadata, mode: FakeTensorMode, device: torch.device) -> FakeTensor:
    return FakeTensor(mode, torch.empty_strided(like.shape, like.stride, dtype=like.dtype, device="meta"), device)


def _worked_out(node: fx.Node, args: tuple[Any, ...]) -> FakeTensor | None:
    """Return what ``node`` returns where that can be told without fake tensors, which are slow; None elsewhere."""
    module = called_module(node)
    if node.target is torch.cat and type(args[0]) in (tuple, list):
        parts = args[0]
    elif module is not None and len(args) == 1:
        parts = args
    else:
        return None
    if not all(type(part) is FakeTensor and part.is_floating_point() for part in parts):
        return None
    mode, device = parts[0].fake_mode, parts[0].fake_device
    if type(module) in _ELEMENTWISE and parts[0].is_contiguous():
        return (
            parts[0] if getattr(module, "inplace", False) else _new(_extract_tensor_metadata(parts[0]), mode, device)
        )
    if module is not None and type(module) not in _WEIGHTED:
        return None
    metas = [torch.empty_strided(p.shape, p.stride(), dtype=p.dtype, device="meta") for p in parts]
    try:
        if module is None:
            return FakeTensor(mode, torch.cat(metas, *args[1:]), device)
        weights = {name: torch.empty_like(p, device="meta") for name, p in module.named_parameters()}
        return FakeTensor(mode, functional_call(module, weights, (metas[0],)), device)
    except (RuntimeError, IndexError):
        return None  # they do not fit: fake tensors say why


def _kind_of_call(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
    given = _kind(args), _kind(tuple(kwargs.items()))
    module = called_module(node)
    if module is not None:
        return (*_kind_of_layer(module), *given)
    if node.op not in ("call_function", "call_method") or (
        node.op == "call_function" and not is_torchs_own(node.target)
    ):
        raise _Unknown
    return (node.target, *given)


def _kind_of_layer(module: nn.Module) -> tuple[Hashable, ...]:
    """Return what tells layers apart. torch.nn's own keep all of their settings in public attributes."""
    if not type(module).__module__.startswith("torch.nn.modules.") or has_hooks(module) or module._modules:
        raise _Unknown
    settings = [value for name, value in vars(module).items() if not name.startswith("_")]
    weights = ((p.shape, p.dtype) for p in module._parameters.values() if p is not None)
    return (type(module), _kind(tuple(settings)), *weights)


def _kind(value: Any) -> Hashable:
    if isinstance(value, FakeTensor):
        if value.constant is not None or value.storage_offset() or value.is_conj() or value.is_neg():
            raise _Unknown
        return value.shape, value.stride(), value.dtype, value.fake_device
    if isinstance(value, _PLAIN):
        return type(value), value
    if type(value) in (tuple, list):
        return (type(value), *map(_kind, value))
    raise _Unknown


def _described(value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Output | None:
    """Return ``value``, a tensor with memory of its own or one of ``args``, as it can be made again."""
    if type(value) is not FakeTensor or value.layout is not torch.strided:
        return None
    try:
        _kind(value)
    except _Unknown:
        return None
    inputs: list[torch.Tensor] = []
    fx.node.map_aggregate((args, kwargs), lambda one: inputs.append(one) if isinstance(one, torch.Tensor) else one)
    if not inputs:
        return None
    same_as = next((index for index, one in enumerate(args) if one is value), None)
    if same_as is None and value.untyped_storage()._cdata in {one.untyped_storage()._cdata for one in inputs}:
        return None
    return _Output(_extract_tensor_metadata(value), value.fake_mode, value.fake_device, same_as)
