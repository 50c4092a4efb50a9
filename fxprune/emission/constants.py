"""Arguments of nodes and layers as JSON, and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx
from torch.fx.passes.shape_prop import TensorMetadata

from fxprune.emission.records import Record, record_of
from fxprune.errors import EmitError, LoadError
from fxprune.ops.operators import plain_number

_LONGEST_RANGE = 1 << 20
_LARGEST_EXAMPLES = 1 << 28  # numbers, all together


def encode(value: Any) -> Any:
    """Return ``value`` as JSON data; raises EmitError for a kind of constant that :func:`decode` does not know."""
    value = plain_number(value)
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, complex):
        return {"complex": str(value)}
    if isinstance(value, torch.Size):
        return {"size": list(value)}
    if isinstance(value, TensorMetadata):
        kept = (value.requires_grad, value.stride, value.memory_format)
        return {"tensor": [list(value.shape), str(value.dtype), *map(encode, kept)]}
    if isinstance(value, tuple):
        items = [encode(v) for v in value]
        record = record_of(type(value))
        return {"tuple": items} if record is None else {"record": [record.name, list(record.fields), items]}
    if isinstance(value, list):
        return [encode(v) for v in value]
    if isinstance(value, Mapping):
        return {"dict": [[encode(k), encode(v)] for k, v in value.items()]}
    if isinstance(value, (slice, range)):
        return {type(value).__name__: [encode(v) for v in (value.start, value.stop, value.step)]}
    if value is Ellipsis:
        return {"ellipsis": True}
    if isinstance(value, (torch.dtype, torch.memory_format, torch.layout)):
        return {"torch": str(value)}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    raise EmitError(f"the constant {value!r} of type {type(value).__name__} cannot be written as data")


def decode(value: Any, nodes: Mapping[str, fx.Node] | None = None, tensor: Callable[[Any], Any] | None = None) -> Any:
    """Return what :func:`encode` was given; ``nodes`` are those of the new graph by name.

    What describes a tensor is read by ``tensor``, where it is given, and refused elsewhere.

    Raises LoadError, or what a damaged file causes (LookupError, TypeError, ValueError, RuntimeError).
    """

    def inside(value: Any) -> Any:
        return decode(value, nodes, tensor)

    if isinstance(value, list):
        return [inside(v) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "node":
        return (nodes or {})[content]
    if kind == "tensor" and tensor is not None:
        return tensor(content)
    if kind == "tuple":
        return tuple(inside(v) for v in content)
    if kind == "dict":
        return {inside(k): inside(v) for k, v in content}
    if kind == "slice":
        return slice(*(inside(v) for v in content))
    if kind == "range":
        return _bounded(range(*content))
    if kind == "record":
        name, fields, items = content
        return Record("namedtuple", name, tuple(fields)).make()(*(inside(v) for v in items))
    simple: dict[str, Callable[[Any], Any]] = {
        "float": float,
        "complex": complex,
        "size": torch.Size,
        "device": torch.device,
        "torch": _torch_constant,
        "ellipsis": lambda _: Ellipsis,
    }
    return simple[kind](content)


def _bounded(numbers: range) -> range:
    if len(numbers) > _LONGEST_RANGE:
        raise LoadError(f"graph.json holds a range of {len(numbers)} numbers, more than the {_LONGEST_RANGE} allowed")
    return numbers


def _torch_constant(name: str) -> Any:
    value = getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(value, (torch.dtype, torch.memory_format, torch.layout)):
        raise LoadError(f"graph.json names {name!r}, which is no dtype")
    return value


def examples_to_data(examples: Any) -> Any:
    """Return example inputs as JSON, of tensors only shape and dtype; None if there are none that a file can hold."""

    def describe(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return {"tensor": [list(value.shape), str(value.dtype)]}
        if type(value) in (tuple, list):
            items = [describe(v) for v in value]
            return {"tuple": items} if isinstance(value, tuple) else items
        if isinstance(value, Mapping):
            return {"dict": [[encode(k), describe(v)] for k, v in value.items()]}
        return encode(value)

    try:
        return describe(examples)
    except EmitError:
        return None


def examples_from_data(data: Any) -> Any:
    """Return example inputs as :func:`examples_to_data` described them: normal random numbers, zeros if integer."""
    generator = torch.Generator().manual_seed(0)
    left = _LARGEST_EXAMPLES

    def example(content: Any) -> torch.Tensor:
        nonlocal left
        shape, dtype = _shape_and_dtype(*content)
        left -= math.prod(shape)
        if left < 0:
            raise LoadError(f"graph.json has example inputs of more than {_LARGEST_EXAMPLES} numbers")
        if not dtype.is_floating_point:
            return torch.zeros(shape, dtype=dtype)
        return torch.randn(shape, generator=generator).to(dtype)

    return decode(data, tensor=example)


def metadata_from_data(data: Any) -> Any:
    """Return the metadata of a value, with that of its tensors, as :func:`encode` described it."""

    def metadata(content: Any) -> TensorMetadata:
        shape, dtype = _shape_and_dtype(*content[:2])
        requires_grad, stride, memory_format = map(decode, content[2:])
        return TensorMetadata(shape, dtype, requires_grad, stride, memory_format, False, {})

    return decode(data, tensor=metadata)


def _shape_and_dtype(shape: Any, dtype: Any) -> tuple[torch.Size, torch.dtype]:
    found = _torch_constant(dtype)
    if not isinstance(found, torch.dtype) or not all(type(size) is int and size >= 0 for size in shape):
        raise LoadError(f"graph.json has a tensor of shape {shape} and dtype {dtype}, which none has")
    return torch.Size(shape), found
