"""What a run measured of a whole network before and after, as a page shows it above the diff."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Form = Literal["share", "ms", "bytes"]
_WORDS: dict[Form, str] = {"share": "top-1", "ms": "ms", "bytes": "memory"}


@dataclass(frozen=True)
class Measured:
    """One number, before and after: a share of 1, milliseconds or bytes, as ``form`` says."""

    label: str
    form: Form
    before: float
    after: float


def measured_in(report: Mapping[str, Any]) -> tuple[Measured, ...]:
    """Return what ``report``, a report.json as it was read, tells of both networks; what it lacks is left out."""
    latency = report.get("latency_ms")
    times = latency.items() if isinstance(latency, Mapping) else ()
    memory = f"peak activation memory{', opaque parts left out' if report.get('opaque') else ''}"
    found: list[tuple[str, Form, Any, Any]] = [
        ("held-out top-1", "share", report.get("accuracy_before"), report.get("accuracy_after")),
        *((f"batch of {size}", "ms", _at(one, "before"), _at(one, "after")) for size, one in times),
        (memory, "bytes", report.get("activation_bytes_before"), report.get("activation_bytes_after")),
    ]
    return tuple(Measured(*one) for one in found if _is_number(one[2]) and _is_number(one[3]))


def not_measured(found: Sequence[Measured]) -> list[str]:
    """Return what a run measures, in words, and ``found`` lacks."""
    return [word for form, word in _WORDS.items() if all(one.form != form for one in found)]


def _at(times: Any, name: str) -> Any:
    return times.get(name) if isinstance(times, Mapping) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
