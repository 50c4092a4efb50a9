"""``with torch.no_grad():`` in forward, and a function that it decorates, recorded as torch's own switches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx

from fxprune.errors import TraceError
from fxprune.tracing.recording import RecordingTracer
from fxprune.tracing.source import current_line

_SET_GRAD: Any = torch._C._set_grad_enabled
_IS_GRAD_ENABLED: Any = torch.is_grad_enabled


class RecordedGradMode:
    """Records for one tracer where the grad mode changes; it is switched all the same, for what is run then."""

    def __init__(self, tracer: RecordingTracer) -> None:
        self._tracer = tracer
        self._recorded: tuple[bool, fx.Node | None] = (True, None)  # what the graph is in now, and was in before
        self._set_by_python = True

    def patches(self) -> list[tuple[Any, str, Any]]:
        """Return what is replaced while a model is traced."""
        return [(torch._C, "_set_grad_enabled", self._set)]

    def _set(self, enabled: bool) -> None:
        """Take note that Python switches the grad mode: what C++ switches it for is an autograd.Function."""
        if not self._tracer.is_elsewhere:
            self._set_by_python = enabled
        _SET_GRAD(enabled)

    def follow(self, enabled: bool) -> None:
        """Record ``with torch.no_grad():``; its end gives back the mode that the caller had at its start."""
        if not enabled and self._set_by_python:
            raise TraceError(f"{current_line()}: it calls an autograd.Function, whose backward a graph would lose")
        was_enabled, outer = self._recorded
        if enabled == was_enabled:
            return
        graph = self._tracer.graph
        if outer is None:
            outer = graph.call_function(_IS_GRAD_ENABLED, ())
            graph.call_function(_SET_GRAD, (enabled,))
            self._recorded = (enabled, outer)
        else:
            graph.call_function(_SET_GRAD, (outer,))
            self._recorded = (True, None)

    @contextmanager
    def around_function(self) -> Iterator[None]:
        """Inside, the mode is that around an autograd.Function, in whose forward C++ has switched it off."""
        _SET_GRAD(self._set_by_python)
        try:
            yield
        finally:
            _SET_GRAD(False)
