"""Nests of tensors: tuples, named tuples, lists, dicts and dataclasses, as models take and return them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch.fx.immutable_collections import immutable_dict

PLAIN = frozenset((int, float, bool, str, type(None)))  # what holds no tensor, and nothing else


def map_tensors(value: Any, function: Callable[[torch.Tensor], Any]) -> Any:
    """Return ``value`` with every tensor in it replaced by what ``function`` makes of it; containers are new."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, torch.Size):
        return value
    if isinstance(value, tuple):
        parts = [map_tensors(part, function) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, list):
        return [map_tensors(part, function) for part in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        duplicate = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(duplicate, field.name, map_tensors(getattr(value, field.name, None), function))
        return duplicate
    if isinstance(value, dict):
        entries = dict(value) if isinstance(value, immutable_dict) else copy.copy(value)
        for key, part in value.items():
            entries[key] = map_tensors(part, function)
        return entries
    tensors = {name: part for name, part in getattr(value, "__dict__", {}).items() if isinstance(part, torch.Tensor)}
    if tensors and not isinstance(value, (torch.nn.Module, type)):  # an object that carries tensors: an ImageList
        duplicate = copy.copy(value)
        for name, part in tensors.items():
            setattr(duplicate, name, function(part))
        return duplicate
    return value


def copy_tensors(value: Any) -> Any:
    """Return ``value`` with a detached copy of every tensor in it."""
    return map_tensors(value, lambda tensor: tensor.detach().clone())


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Return every tensor in a nest, in order."""
    found: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    map_tensors(value, note)
    return found


def structure(value: Any) -> Any:
    """Return what a nest of tensors looks like: the types and keys of its containers, and where tensors stand."""
    if isinstance(value, torch.Tensor):
        return torch.Tensor
    if isinstance(value, (tuple, list)):
        return type(value), [structure(part) for part in value]
    if isinstance(value, dict):
        return type(value), [(key, structure(part)) for key, part in value.items()]
    return type(value), [structure(part) for part in vars(value).values()] if tensors_in(value) else []


def version_of(tensor: torch.Tensor) -> int | None:
    """Return a number that changes with every write to ``tensor``; None where torch counts none, and allows none."""
    return None if tensor.is_inference() else tensor._version
