"""What graphs call: how Python writes its operators and numbers, the names of sums, products, and torch's own."""

from __future__ import annotations

import enum
import numbers
import operator
from collections.abc import Container
from typing import Any

import torch
from torch import fx

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
ADDITIONS: tuple[Any, ...] = (operator.add, torch.add, "add")
SUBTRACTIONS: tuple[Any, ...] = (operator.sub, torch.sub, "sub")
PRODUCTS: tuple[Any, ...] = (operator.mul, torch.mul, "mul")


def calls(node: fx.Node, targets: Container[Any]) -> bool:
    """Say whether ``node`` calls one of ``targets``: functions, and methods by name.

    A module or a parameter may have the name of a method.
    """
    return node.op in ("call_function", "call_method") and node.target in targets


def calls_function(node: fx.Node, functions: Container[Any]) -> bool:
    """Say whether ``node`` calls one of ``functions``; methods are none."""
    return node.op == "call_function" and node.target in functions


def is_sum(node: fx.Node) -> bool:
    """Say whether ``node`` adds two values and does nothing else."""
    return (
        calls_function(node, ADDITIONS)
        and len(node.args) == 2
        and not node.kwargs
        and all(isinstance(one, fx.Node) for one in node.args)
    )


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
