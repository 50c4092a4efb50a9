"""The float64 values of weights, kept beside the rounded ones while a pipeline verifies.

So what is compared is the algebra of the passes and not the rounding of what they make. What they make is the same
with and without: a pass works out its weights from rounded ones, and once more from those before rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

from fxprune.ir.copies import copy_module
from fxprune.ir.module_tree import every_module
from fxprune.ir.pytrees import version_of

_Weighted = TypeVar("_Weighted", bound=nn.Module)
_Made = TypeVar("_Made", bound="nn.Module | torch.Tensor")
_Given = ParamSpec("_Given")
# By id: the tensor, its version when it was made, and its values before rounding.
_Kept = dict[int, tuple[torch.Tensor, int | None, torch.Tensor]]
_NOTHING = (None, None, None)
_kept: ContextVar[_Kept | None] = ContextVar("kept", default=None)
_unrounded: ContextVar[bool] = ContextVar("unrounded", default=False)


@contextmanager
def keep_exact_weights(enabled: bool = True) -> Iterator[None]:
    """Keep the float64 values of all weights made inside; an outer such block goes on serving."""
    if not enabled or _kept.get() is not None:
        yield
        return
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


@contextmanager
def unrounded() -> Iterator[None]:
    """Inside, weights are what they were before they were rounded, where that was kept; none is rounded."""
    token = _unrounded.set(True)
    try:
        yield
    finally:
        _unrounded.reset(token)


def is_unrounded() -> bool:
    """Say whether this runs inside :func:`unrounded`."""
    return _unrounded.get()


def keeping_exact(make: Callable[_Given, _Made]) -> Callable[_Given, _Made]:
    """Have the tensors that ``make`` returns, or the module's, known by their exact values where those are kept."""

    @wraps(make)
    def made(*args: _Given.args, **kwargs: _Given.kwargs) -> _Made:
        result, kept = make(*args, **kwargs), _kept.get()
        if kept is not None and not is_unrounded():
            token = _unrounded.set(True)
            try:
                twin = make(*args, **kwargs)
            finally:
                _unrounded.reset(token)
            for tensor, exact_twin in zip(_tensors(result), _tensors(twin), strict=True):
                if tensor is not exact_twin and tensor.is_floating_point():
                    kept[id(tensor)] = (tensor, version_of(tensor), exact_twin.detach().double())
        return result

    return made


def _tensors(made: nn.Module | torch.Tensor) -> list[torch.Tensor]:
    if isinstance(made, torch.Tensor):
        return [made]
    tables = [table for one in every_module(made) for table in (one._parameters, one._buffers)]
    return [tensor for table in tables for tensor in table.values() if tensor is not None]


def exact(tensor: torch.Tensor) -> torch.Tensor:
    """Return ``tensor`` in float64; inside :func:`unrounded` as it was before it was rounded, if that was kept."""
    value = _value_kept(tensor) if is_unrounded() else None
    return tensor.detach().double() if value is None else value


def exact_values() -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what :func:`exact` is for the weights that there are now, in less time for many."""
    kept = (_kept.get() or {}) if is_unrounded() else {}

    def value(tensor: torch.Tensor) -> torch.Tensor:
        _, version, known = kept.get(id(tensor), _NOTHING)
        return tensor.detach().double() if known is None or version != version_of(tensor) else known

    return value


def has_exact(module: nn.Module) -> bool:
    """Say whether :func:`exact` tells more of a parameter of ``module`` than the parameter itself."""
    if not is_unrounded() or not _kept.get():
        return False
    parameters = (one for part in every_module(module) for one in part._parameters.values() if one is not None)
    return any(_value_kept(parameter) is not None for parameter in parameters)


def _value_kept(tensor: torch.Tensor) -> torch.Tensor | None:
    """Return what was kept of ``tensor``; None once something has written to it."""
    _, version, value = (_kept.get() or {}).get(id(tensor), _NOTHING)
    return value if version == version_of(tensor) else None


@torch.no_grad()
def in_float64(module: _Weighted, *, memo: dict[int, Any] | None = None) -> _Weighted:
    """Return a deep copy of ``module`` in float64, with the exact values of its parameters.

    ``memo`` is that of :func:`fxprune.ir.copies.copy_module`.
    """
    wide = copy_module(module, memo=memo).double()
    for parameter, widened in zip(module.parameters(), wide.parameters(), strict=True):
        if parameter.is_floating_point():
            widened.copy_(exact(parameter))
    return wide  # type: ignore[return-value]


def widen(tensor: torch.Tensor) -> torch.Tensor:
    """Return ``tensor`` in float64 if it holds floating-point numbers, else as it is."""
    return tensor.double() if tensor.is_floating_point() else tensor


def rounded(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return ``value`` (float64) with dtype, device and layout of ``like``; inside :func:`unrounded`, itself."""
    if is_unrounded():
        return value
    if like.shape == value.shape:
        return torch.empty_like(like).copy_(value)
    return value.to(device=like.device, dtype=like.dtype, copy=True)


def make_parameter(value: torch.Tensor, like: torch.Tensor, requires_grad: bool) -> nn.Parameter:
    """Return ``value`` (float64) as a Parameter with dtype, device and memory layout of ``like``."""
    return nn.Parameter(rounded(value, like), requires_grad=requires_grad)
