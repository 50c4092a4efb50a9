"""What a call returns for fake tensors, worked out once for all calls of the same kind.

A call of a layer on a fake tensor takes 50 to 500 microseconds, and a network repeats few kinds of calls many times.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.immutable_collections import immutable_dict, immutable_list
from torch.fx.node import map_aggregate
from torch.fx.passes.shape_prop import TensorMetadata, _extract_tensor_metadata
from torch.nn import functional

from fxprune.graph import called_module
from fxprune.module_tree import has_hooks
from fxprune.nests import map_tensors, tensors_in
from fxprune.operators import is_torchs_own

# Their outputs are like their inputs ...
_ELEMENTWISE = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Sigmoid, nn.Hardsigmoid),
)
_ELEMENTWISE_FUNCTIONS = {operator.add, operator.mul, torch.add, functional.relu, torch.relu}
# ... and the weights of these take torch milliseconds to make fake.
_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_PLAIN = frozenset((int, float, bool, str, type(None), torch.dtype, torch.device, torch.Size))


class _Unknown(Exception):
    """The kind of a call cannot be told."""


@dataclass(frozen=True)
class _Output:
    """A new tensor of a ``kind``, like ``metadata``, or the positional argument at ``same_as``."""

    kind: Hashable
    metadata: TensorMetadata
    mode: FakeTensorMode
    device: torch.device
    same_as: int | None


class Repeated:
    """Stands for a new tensor that is like one seen before; the tensor is made if it is asked for, which is rare."""

    __slots__ = ("_tensor", "output")

    def __init__(self, output: _Output, tensor: FakeTensor | None = None) -> None:
        self.output = output
        self._tensor = tensor

    @property
    def is_made(self) -> bool:
        """Whether the tensor was asked for already: others may share its memory since."""
        return self._tensor is not None

    @property
    def tensor(self) -> FakeTensor:
        """The tensor: always the same one, with memory of its own."""
        if self._tensor is None:
            self._tensor = _new(self.output.metadata, self.output.mode, self.output.device)
        return self._tensor


class Values:
    """The value of every node of a graph, and its metadata where it is at hand."""

    def __init__(self) -> None:
        self._values: dict[fx.Node, Any] = {}

    def __getitem__(self, node: fx.Node) -> Any:
        """Return the value of ``node``; raises KeyError if there is none."""
        return made(self._values[node])

    def raw(self, node: fx.Node) -> Any:
        """Return the value of ``node`` with what stands for tensors left as it is; None if there is none."""
        return self._values.get(node)

    def __setitem__(self, node: fx.Node, value: Any) -> None:
        """Note the value of ``node``."""
        self._values[node] = value

    def metadata(self, node: fx.Node) -> Any:
        """Return the value of ``node`` with torch.fx's TensorMetadata in the place of tensors."""
        value = self._values[node]
        return value.output.metadata if type(value) is Repeated else map_tensors(value, _extract_tensor_metadata)

    def storages(self, node: fx.Node) -> list[Hashable]:
        """Return a key for the storage of each tensor in the value of ``node``."""
        found: list[Hashable] = []

        def visit(part: Any) -> Any:
            if type(part) is Repeated and not part.is_made:
                found.append(("not made", id(part)))
            elif type(part) is Repeated or isinstance(part, torch.Tensor):
                found.append(made(part).untyped_storage()._cdata)
            return part

        value = self._values.get(node)
        visit(value) if isinstance(value, (Repeated, torch.Tensor)) else map_aggregate(value, visit)
        return found


def made(value: Any) -> Any:
    """Return ``value`` with tensors in the place of what stands for them."""
    kind = type(value)
    if kind is Repeated:
        return value.tensor
    if kind is tuple:
        return tuple(map(made, value))
    if isinstance(value, list) and kind in (list, immutable_list):
        return [made(part) for part in value]
    if isinstance(value, dict) and kind in (dict, immutable_dict):
        return {key: made(part) for key, part in value.items()}
    return value


class RepeatedCalls:
    """Remembers what kinds of calls return: of torch.nn's own layers and of torch's own functions.

    A kind is the layer's class and settings, or the function, with the shapes, strides, dtypes and devices of the
    tensors and the other arguments. Calls that return views, or more than one tensor, are not remembered.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, _Output] = {}
        self._metadata: dict[Hashable, TensorMetadata] = {}  # by kind: working it out takes a tenth of a millisecond

    def call(
        self,
        node: fx.Node,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        compute: Callable[[fx.Node, tuple[Any, ...], dict[str, Any]], Any],
    ) -> Any:
        """Return what ``node`` returns for ``args`` and ``kwargs``, or a :class:`Repeated` that stands for it.

        ``compute`` makes the call, where no call of its kind was made before.
        """
        try:
            key = _kind_of_call(node, args, kwargs)
            output = self._known.get(key)
        except (_Unknown, TypeError):  # of what cannot be hashed
            return compute(node, made(args), made(kwargs))
        if output is not None:
            return Repeated(output) if output.same_as is None else args[output.same_as]
        args, kwargs = made(args), made(kwargs)
        value = _worked_out(node, args) if not kwargs else None
        value = compute(node, args, kwargs) if value is None else value
        found = self._described(value, args, kwargs)
        if found is None:
            return value
        self._known[key] = found
        return value if found.same_as is not None else Repeated(found, value)

    def _described(self, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Output | None:
        """Return ``value``, a tensor with memory of its own or one of ``args``, as it can be made again."""
        if type(value) is not FakeTensor or value.layout is not torch.strided:
            return None
        try:
            kind = _kind(value)
        except _Unknown:
            return None
        inputs = tensors_in((args, kwargs))
        if not inputs:
            return None
        same_as = next((index for index, one in enumerate(args) if one is value), None)
        if same_as is None and value.untyped_storage()._cdata in {one.untyped_storage()._cdata for one in inputs}:
            return None
        if kind not in self._metadata:
            self._metadata[kind] = _extract_tensor_metadata(value)
        return _Output(kind, self._metadata[kind], value.fake_mode, value.fake_device, same_as)


def _new(like: TensorMetadata, mode: FakeTensorMode, device: torch.device) -> FakeTensor:
    return FakeTensor(mode, torch.empty_strided(like.shape, like.stride, dtype=like.dtype, device="meta"), device)


def _like(tensor: FakeTensor) -> FakeTensor:
    meta = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return FakeTensor(tensor.fake_mode, meta, tensor.fake_device)


def _worked_out(node: fx.Node, args: tuple[Any, ...]) -> FakeTensor | None:
    """Return what ``node`` returns where that can be told without fake tensors, which are slow; None elsewhere."""
    module = called_module(node)
    if node.target is torch.cat and type(args[0]) in (tuple, list):
        parts = args[0]
    elif module is not None and len(args) == 1:
        parts = args
    elif node.target in _ELEMENTWISE_FUNCTIONS:
        return _like_all(args)
    else:
        return None
    if not all(type(part) is FakeTensor and part.is_floating_point() for part in parts):
        return None
    mode, device = parts[0].fake_mode, parts[0].fake_device
    if type(module) in _ELEMENTWISE and parts[0].is_contiguous():
        return parts[0] if getattr(module, "inplace", False) else _like(parts[0])
    if module is not None and type(module) not in _WEIGHTED:
        return None
    metas = [torch.empty_strided(p.shape, p.stride(), dtype=p.dtype, device="meta") for p in parts]
    try:
        if module is None:
            return FakeTensor(mode, torch.cat(metas, *args[1:]), device)
        weight, bias = (p if p is None else torch.empty_like(p, device="meta") for p in module._parameters.values())
        compute: Any = functional.linear if isinstance(module, nn.Linear) else module._conv_forward
        return FakeTensor(mode, compute(metas[0], weight, bias), device)
    except (RuntimeError, IndexError):
        return None  # they do not fit: fake tensors say why


def _like_all(args: tuple[Any, ...]) -> FakeTensor | None:
    """Return a tensor like each of ``args``, contiguous tensors of floating point that are all alike; else None."""
    if not all(type(one) is FakeTensor and one.is_floating_point() and one.is_contiguous() for one in args):
        return None
    if len({(one.shape, one.dtype, one.fake_device) for one in args}) != 1:
        return None
    return _like(args[0])


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
    kind = type(module)
    if not kind.__module__.startswith("torch.nn.modules.") or module._modules or has_hooks(module):
        raise _Unknown
    if kind in _ELEMENTWISE:
        return (kind, getattr(module, "inplace", False))
    settings = tuple([value for name, value in module.__dict__.items() if name[0] != "_"])
    weights = [(p.shape, p.dtype) for p in module._parameters.values() if p is not None]
    return (kind, settings, *weights)


def _kind(value: Any) -> Hashable:
    kind = type(value)
    if kind is Repeated:
        return value.output.kind  # type: ignore[no-any-return]
    if kind in _PLAIN:
        return kind, value
    if isinstance(value, FakeTensor):
        if value.constant is not None or value.storage_offset() or value.is_conj() or value.is_neg():
            raise _Unknown
        return value.shape, value.stride(), value.dtype, value.fake_device
    if isinstance(value, (tuple, list)) and kind in (tuple, list, immutable_list):
        return (isinstance(value, list), *map(_kind, value))
    raise _Unknown
