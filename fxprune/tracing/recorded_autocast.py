"""``with torch.autocast(...):`` in forward, and a function that it decorates, recorded as torch's pair for graphs."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxprune.ir.autocast import ENTER_AUTOCAST, EXIT_AUTOCAST
from fxprune.tracing.recording import RecordingTracer

_DEVICES = ("cpu", "cuda")
_GIVEN = "_fxprune_given"  # what the user's code made an autocast of


class RecordedAutocast:
    """Records for one tracer where autocast begins and ends; it is switched all the same, for what is run then."""

    def __init__(self, tracer: RecordingTracer) -> None:
        self._tracer = tracer
        self._entered: list[fx.Node] = []
        self._flags: list[bool] = []

    def remember(self) -> None:
        """Take what is on now for what the graph has recorded."""
        self._flags = _flags()

    def require_recorded(self) -> None:
        """Refuse what forward switched otherwise."""
        if _flags() != self._flags:
            self._tracer.refuse("it switches autocast by hand; write with torch.autocast(...)")

    def patches(self) -> list[tuple[Any, str, Any]]:
        """Return what is replaced while a model is traced."""
        make, enter, leave = (getattr(torch.autocast, name) for name in ("__init__", "__enter__", "__exit__"))

        def remember(
            mode: Any, device_type: Any, dtype: Any = None, enabled: Any = True, cache_enabled: Any = None
        ) -> None:
            given = (device_type, dtype, enabled, cache_enabled)
            make(mode, *map(self._tracer.known, given))
            vars(mode)[_GIVEN] = given

        def record_begin(mode: Any) -> Any:
            entered = enter(mode)
            if not self._tracer.is_running:
                made_before = (mode.device, mode.fast_dtype, mode._enabled, mode._cache_enabled)
                given = vars(mode).get(_GIVEN, made_before)
                self._entered.append(self._tracer.record_switch(ENTER_AUTOCAST, given))
            return entered

        def record_end(mode: Any, *error: Any) -> Any:
            left = leave(mode, *error)
            if not self._tracer.is_running:
                self._tracer.record_switch(EXIT_AUTOCAST, (self._entered.pop(),))
            return left

        autocast = torch.autocast
        return [
            (autocast, "__init__", remember),
            (autocast, "__enter__", record_begin),
            (autocast, "__exit__", record_end),
        ]


def _flags() -> list[bool]:
    return [torch.is_autocast_enabled(device) for device in _DEVICES]
