"""What graphs call: how Python writes its operators and numbers, and what is torch's own."""

from __future__ import annotations

import enum
import numbers
import operator
from typing import Any

from fxprune.ir.by_mode import by_mode

INFIX: dict[Any, str] = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.floordiv: "//",
    operator.mod: "%",
    operator.pow: "**",
    operator.matmul: "@",
    operator.eq: "==",
    operator.ne: "!=",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
    operator.and_: "&",
    operator.or_: "|",
    operator.xor: "^",
}
MODE_QUESTIONS = (
    *("is_grad_enabled", "is_inference_mode_enabled", "is_autocast_enabled", "is_autocast_cpu_enabled"),
    *("is_autocast_cache_enabled", "get_autocast_dtype", "get_autocast_gpu_dtype", "get_autocast_cpu_dtype"),
    *("are_deterministic_algorithms_enabled", "get_default_dtype"),
)
"""Functions of torch that ask for a mode of the process, which another call may find changed."""


def is_torchs_own(function: Any) -> bool:
    """Say whether ``function`` is torch's, one of Python's operators or by_mode, not code that may do anything."""
    home = str(getattr(function, "__module__", ""))
    return home.partition(".")[0] == "torch" or home in ("_operator", "math", "builtins") or function is by_mode


def plain_number(value: Any) -> Any:
    """Return a number of NumPy's, or of another subclass, as Python's own; anything else as it is."""
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return value.item()
    if isinstance(value, (bool, enum.Enum)) or not isinstance(value, numbers.Number):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    return complex(value) if isinstance(value, numbers.Complex) else value
