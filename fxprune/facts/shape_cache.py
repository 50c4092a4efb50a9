"""What a call returns for fake tensors, worked out once for all calls of the same kind.

A call of a layer on a fake tensor takes 50 to 500 microseconds, and a network repeats few kinds of calls many times.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.immutable_collections import immutable_dict, immutable_list
from torch.fx.node import map_aggregate
from torch.fx.passes.shape_prop import TensorMetadata, _extract_tensor_metadata

from fxprune.facts.known_shapes import is_like_input, worked_out
from fxprune.gates.gate import ScaledLayer
from fxprune.ir.autocast import autocast_state
from fxprune.ir.module_tree import has_hooks
from fxprune.ir.nodes import called_module
from fxprune.ir.pytrees import PLAIN, map_tensors, tensors_in
from fxprune.ops.layer_classes import NORM_CLASSES
from fxprune.ops.operators import is_torchs_own

_ALIKE = (*NORM_CLASSES, nn.Identity)  # what returns a tensor like its input
_HASHABLE = PLAIN | {torch.dtype, torch.device, torch.Size}


class _Unknown(Exception):
    """The kind of a call cannot be told."""


@dataclass(frozen=True)
class _Output:
    """A tensor of a ``kind``, like ``metadata``: a new one, a positional argument, or a view of one."""

    kind: Hashable
    metadata: TensorMetadata
    mode: FakeTensorMode
    device: torch.device
    same_as: int | None
    view_of: int | None


def metadata_of(tensor: torch.Tensor) -> TensorMetadata:
    """Return torch.fx's TensorMetadata of ``tensor``; of a contiguous one in a tenth of the time."""
    if tensor.layout is not torch.strided or tensor.is_quantized or not tensor.is_contiguous():
        return _extract_tensor_metadata(tensor)
    form = torch.contiguous_format
    return TensorMetadata(tensor.shape, tensor.dtype, tensor.requires_grad, tensor.stride(), form, False, {})


class Repeated:
    """Stands for a tensor that is like one seen before; the tensor is made if it is asked for, which is rare.

    It has memory of its own, or that of ``base``, a Repeated or a tensor.
    """

    __slots__ = ("_tensor", "base", "output")

    def __init__(self, output: _Output, base: Any = None, tensor: FakeTensor | None = None) -> None:
        self.output = output
        self.base = base
        self._tensor = tensor

    @property
    def tensor(self) -> FakeTensor:
        """The tensor: always the same one."""
        if self._tensor is None:
            like, base = self.output.metadata, made(self.base)
            if base is None:
                meta = torch.empty_strided(like.shape, like.stride, dtype=like.dtype, device="meta")
                self._tensor = FakeTensor(self.output.mode, meta, self.output.device)
            else:
                self._tensor = base.as_strided(like.shape, like.stride)
        return self._tensor

    def forget(self) -> None:
        """Make the tensor anew when it is asked for: what was made has been given another shape in place."""
        self._tensor = None

    @property
    def storage(self) -> Hashable:
        """A key for its memory, which only what shares that memory has."""
        if self.base is not None:
            return self.base.storage if type(self.base) is Repeated else self.base.untyped_storage()._cdata
        return id(self) if self._tensor is None else self._tensor.untyped_storage()._cdata


class Values:
    """The value of every node of a graph, and its metadata where it is at hand; ``calls`` made them.

    ``writes`` tells of calls of foreign code which of their arguments they were seen to write into.
    """

    def __init__(self) -> None:
        self._values: dict[fx.Node, Any] = {}
        self.writes: dict[fx.Node, tuple[int | None, ...]] = {}
        self.calls = RepeatedCalls()

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
        return value.output.metadata if type(value) is Repeated else map_tensors(value, metadata_of)

    def storages(self, node: fx.Node) -> list[Hashable]:
        """Return a key for the storage of each tensor in the value of ``node``."""
        found: list[Hashable] = []

        def visit(part: Any) -> Any:
            if type(part) is Repeated:
                found.append(part.storage)
            elif isinstance(part, torch.Tensor):
                found.append(part.untyped_storage()._cdata)
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
    tensors and the other arguments. Calls that return more than one tensor are not remembered.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, _Output] = {}
        self._metadata: dict[Hashable, TensorMetadata] = {}  # by kind: working it out takes microseconds

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
        autocast = autocast_state()
        try:
            kind = _kind_of_call(node, args, kwargs)
            key = kind if autocast is None else (kind, autocast)
            output = self._known.get(key)
        except (_Unknown, TypeError):  # of what cannot be hashed
            return compute(node, made(args), made(kwargs))
        if output is not None:
            return _again(output, args)
        given, args, kwargs = args, made(args), made(kwargs)
        before = [getattr(one, "shape", None) for one in args]
        value = worked_out(node, args, kwargs)
        value = compute(node, args, kwargs) if value is None else value
        found = self._described(value, args, kwargs)
        if found is None:
            return value
        if found.same_as is not None and before[found.same_as] != value.shape:  # transpose_, say
            source = given[found.same_as]
            if type(source) is not Repeated:
                return value
            source.forget()
            found, value = replace(found, same_as=None, view_of=found.same_as), None
        self._known[key] = found
        return _again(found, given, value)

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
        storage = value.untyped_storage()._cdata
        sharing = [one for one in inputs if one.untyped_storage()._cdata == storage]
        view_of = next((index for index, one in enumerate(args) if sharing and one is sharing[0]), None)
        if len(sharing) > 1 or (sharing and view_of is None):
            return None
        if kind not in self._metadata:
            self._metadata[kind] = metadata_of(value)
        return _Output(kind, self._metadata[kind], value.fake_mode, value.fake_device, same_as, view_of)


def _again(output: _Output, args: tuple[Any, ...], tensor: FakeTensor | None = None) -> Any:
    if output.same_as is not None:
        return args[output.same_as]
    return Repeated(output, None if output.view_of is None else args[output.view_of], tensor)


def _kind_of_call(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
    module = called_module(node)
    if isinstance(module, ScaledLayer):
        return (
            *_kind_of_gate(module, kwargs),
            _kind(args[: module.operands]),
        )  # the others only give the unit of its scale
    given = _kind(args), _kind(tuple(kwargs.items())) if kwargs else ()
    if module is not None:
        return (*_kind_of_layer(module), *given)
    if node.op not in ("call_function", "call_method") or (
        node.op == "call_function" and not is_torchs_own(node.target)
    ):
        raise _Unknown
    return (node.target, *given)


def _kind_of_gate(gate: ScaledLayer, kwargs: dict[str, Any]) -> tuple[Hashable, ...]:
    """Return what tells ResConvs and BranchScales apart: their state and the conv (a norm changes no shape)."""
    conv, scale = gate.wrapped, gate.trained_scale
    others = [one for one in gate._modules.values() if one is not None and one is not conv]
    if type(gate).outline is ScaledLayer.outline:
        raise _Unknown
    if kwargs or any(map(has_hooks, (gate, *others))) or not all(type(one) in _ALIKE for one in others):
        raise _Unknown
    inside = () if conv is None else _kind_of_layer(conv)
    kind: Any = type(gate)
    return (kind, gate.closed, gate.resting, scale.dtype, scale.device, *inside)


def _kind_of_layer(module: nn.Module) -> tuple[Hashable, ...]:
    """Return what tells layers apart. torch.nn's own keep all of their settings in public attributes."""
    kind: Any = type(module)
    if not kind.__module__.startswith("torch.nn.modules.") or module._modules or has_hooks(module):
        raise _Unknown
    if is_like_input(module):
        return (kind, getattr(module, "inplace", False))
    settings = tuple([value for name, value in module.__dict__.items() if name[0] != "_"])
    weights = [(p.shape, p.stride(), p.dtype) for p in module._parameters.values() if p is not None]
    return (kind, settings, *weights)


def _kind(value: Any) -> Hashable:
    kind = type(value)
    if kind is Repeated:
        return value.output.kind  # type: ignore[no-any-return]
    if kind in _HASHABLE:
        return kind, value
    if kind is tuple or (isinstance(value, list) and kind in (list, immutable_list)):
        return (kind is not tuple, *[_kind(part) for part in value])
    if kind is slice:
        return slice, _kind(value.start), _kind(value.stop), _kind(value.step)
    if isinstance(value, FakeTensor):
        if value.constant is not None or value.storage_offset() or value.is_conj() or value.is_neg():
            raise _Unknown
        return value.shape, value.stride(), value.dtype, value.fake_device
    if isinstance(value, nn.Parameter) and value.layout is torch.strided and not value.storage_offset():
        return "parameter", value.shape, value.stride(), value.dtype, value.device
    raise _Unknown
