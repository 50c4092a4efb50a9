"""The float64 values of weights, kept beside the rounded ones while a pipeline verifies.

So what is compared is the algebra of the passes and not the rounding of what they make.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import nn

from fxprune.copies import copy_module

_Weighted = TypeVar("_Weighted", bound=nn.Module)
_exact: ContextVar[dict[int, tuple[torch.Tensor, torch.Tensor]] | None] = ContextVar("exact", default=None)


@contextmanager
def keep_exact_weights(enabled: bool = True) -> Iterator[None]:
    """Keep the float64 values of all weights made inside; an outer such block goes on serving."""
    if not enabled or _exact.get() is not None:
        yield
        return
    token = _exact.set({})
    try:
        yield
    finally:
        _exact.reset(token)


def keeps_exact_weights() -> bool:
    """Say whether this runs inside :func:`keep_exact_weights`."""
    return _exact.get() is not None


def exact(tensor: torch.Tensor) -> torch.Tensor:
    """Return ``tensor`` in float64: as it was before rounding if that was kept, else converted."""
    kept = (_exact.get() or {}).get(id(tensor))
    return tensor.detach().double() if kept is None else kept[1]


def has_exact(module: nn.Module) -> bool:
    """Say whether a parameter of ``module`` was rounded and its value before that was kept."""
    kept = _exact.get() or {}
    return bool(kept) and any(id(parameter) in kept for parameter in module.parameters())


@torch.no_grad()
def in_float64(module: _Weighted, *, memo: dict[int, Any] | None = None) -> _Weighted:
    """Return a deep copy of ``module`` in float64, with the exact values of its parameters.

    ``memo`` is that of :func:`fxprune.copies.copy_module`.
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
    """Return ``value`` (float64) with dtype, device and memory layout of ``like``; what it was before is kept."""
    if like.shape == value.shape:
        made = torch.empty_like(like).copy_(value)
    else:
        made = value.to(device=like.device, dtype=like.dtype, copy=True)
    _keep(made, value)
    return made


def make_parameter(value: torch.Tensor, like: torch.Tensor, requires_grad: bool) -> nn.Parameter:
    """Return ``value`` (float64) as a Parameter with dtype, device and memory layout of ``like``."""
    parameter = nn.Parameter(rounded(value, like), requires_grad=requires_grad)
    _keep(parameter, value)
    return parameter


def _keep(tensor: torch.Tensor, value: torch.Tensor) -> None:
    kept = _exact.get()
    if kept is not None:
        kept[id(tensor)] = (tensor, value)
