"""Calls of functions of torch that take no tensor, which torch.fx does not see: those that draw, or tell a mode."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

from fxprune.ops.operators import MODE_QUESTIONS
from fxprune.tracing.recording import RecordingTracer
from fxprune.tracing.source import is_librarys

RANDOM_FACTORIES = ("rand", "randn", "randint", "randperm", "normal")
"""Functions of torch that return another tensor in every call."""


def recorded_calls(tracer: RecordingTracer) -> list[tuple[Any, str, Any]]:
    """Return what is replaced while a model is traced, as (where, name, by what), so that ``tracer`` records them."""

    def recorded(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if tracer.is_running or tracer.is_elsewhere:
                return function(*args, **kwargs)
            return tracer.create_proxy("call_function", function, args, kwargs)

        return call

    def asking(function: Callable[..., Any]) -> Callable[..., Any]:
        record = recorded(function)

        def call(*args: Any, **kwargs: Any) -> Any:
            is_users = not is_librarys(sys._getframe(1).f_code.co_filename)
            return record(*args, **kwargs) if is_users else function(*args, **kwargs)

        return call

    questions = [(torch, name, asking(getattr(torch, name))) for name in MODE_QUESTIONS if hasattr(torch, name)]
    return [*questions, *((torch, name, recorded(getattr(torch, name))) for name in RANDOM_FACTORIES)]
