"""Which nodes matter beside their value: they write to memory, or are inputs, outputs or foreign code."""

from __future__ import annotations

import operator
from functools import lru_cache
from types import BuiltinFunctionType, FunctionType
from typing import Any, cast

import torch
from torch import fx, nn

from fxprune.ir.applied import Applied
from fxprune.ir.module_tree import is_opaque
from fxprune.ir.nodes import called_module
from fxprune.ops.call import Call
from fxprune.ops.operators import is_torchs_own
from fxprune.ops.table import row_of_layer, row_of_target

IN_PLACE_OPERATORS = {
    getattr(operator, "i" + name): getattr(operator, name)
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
} | {operator.iand: operator.and_, operator.ior: operator.or_, operator.ixor: operator.xor}
_FUNCTIONS = (BuiltinFunctionType, FunctionType)


def is_guard(node: fx.Node) -> bool:
    """Say whether ``node`` only checks a value: an assertion, which goes with what it checks."""
    return node.op == "call_function" and node.target is torch._assert


def is_foreign(node: fx.Node) -> bool:
    """Say whether ``node`` calls code that may do anything: an opaque module, or a function of the user's.

    Not one that has a row in the table of ops, which says what it does.
    """
    if node.op == "call_module":
        module = called_module(node)
        return is_opaque(module) or isinstance(module, Applied)
    return node.op == "call_function" and not is_torchs_own(node.target) and row_of_target(node.target) is None


def is_draw(node: fx.Node) -> bool:
    """Say whether ``node`` makes random numbers, and does nothing else: unread, it may go."""
    op = row_of_target(node.target) if node.op == "call_function" else None
    return op is not None and op.draws and node.kwargs.get("out") is None


def rescaled_weight(node: fx.Node) -> Any:
    """Return the weight of a functional embedding that shortens the rows which it reads (``max_norm``), or None."""
    op = row_of_target(node.target) if node.op == "call_function" else None
    if op is None or op.kind != "lookup":
        return None
    call = Call(node)
    return call.argument("weight") if call.argument("max_norm") is not None else None


def rescales(module: nn.Module | None) -> bool:
    """Say whether ``module`` is an embedding that shortens the rows of its weight which it reads (``max_norm``)."""
    op = None if module is None else row_of_layer(type(module))
    return op is not None and op.kind == "lookup" and getattr(module, "max_norm", None) is not None


def rescales_weight(node: fx.Node) -> bool:
    """Say whether ``node`` is an embedding, layer or function, that shortens the rows of its weight."""
    return rescales(called_module(node)) or rescaled_weight(node) is not None


def has_effect(node: fx.Node) -> bool:
    """Say whether ``node`` matters beside its value: it is an input or the output, or writes to memory."""
    module = called_module(node)
    if module is not None:
        return bool(_flag(module, "inplace") or _flag(module, "_is_impure")) or rescales(module)
    if node.op in ("placeholder", "output") or is_in_place(node):
        return True
    if is_draw(node):
        return False
    if rescaled_weight(node) is not None:
        return True
    if isinstance(node.target, _FUNCTIONS) and is_torchs_own(node.target):
        return _is_impure(node.target) and not is_guard(node)
    return node.is_impure() and not is_guard(node)


def is_in_place(node: fx.Node) -> bool:
    """Say whether ``node`` overwrites one of its inputs."""
    if node.op == "call_module":
        module = called_module(node)
        assert module is not None
        return bool(_flag(module, "inplace"))
    if node.op == "call_method":
        name = str(node.target)
        return (name.endswith("_") and not name.endswith("__")) or name == "__setitem__"
    if node.op != "call_function":
        return False
    if node.kwargs and (node.kwargs.get("out") is not None or node.kwargs.get("inplace") is True):
        return True
    index = _inplace_index(node.target)
    if index is not None and index < len(node.args) and node.args[index] is True:
        return True
    return _writes(node.target)


def in_place_argument(node: fx.Node) -> int | str | None:
    """Return where a true ``inplace`` argument of a function stands: its index, its keyword, or None."""
    if node.kwargs.get("inplace") is True:
        return "inplace"
    index = _inplace_index(node.target)
    return index if index is not None and index < len(node.args) and node.args[index] is True else None


def _flag(module: nn.Module, name: str) -> Any:
    """Return an attribute, False where there is none: ``getattr`` takes microseconds to find that out."""
    value, kind = module.__dict__.get(name), cast(Any, type(module))
    return getattr(module, name) if value is None and _class_has(kind, name) else value


@lru_cache(maxsize=512)
def _class_has(kind: Any, name: str) -> bool:
    return hasattr(kind, name)


@lru_cache(maxsize=512)
def _inplace_index(function: Any) -> int | None:
    code = getattr(function, "__code__", None)
    names = () if code is None else code.co_varnames[: code.co_argcount]
    return names.index("inplace") if "inplace" in names else None


@lru_cache(maxsize=512)
def _writes(function: Any) -> bool:
    """Say whether a function's name says that it writes to its first argument."""
    if function in IN_PLACE_OPERATORS or function is operator.setitem:
        return True
    if getattr(function, "__module__", None) == operator.not_.__module__:
        return False  # the operators not_, and_, or_, is_ end so because the bare words are taken
    name = getattr(function, "__name__", "")
    return name.endswith("_") and not name.endswith("__")


@lru_cache(maxsize=512)
def _is_impure(function: Any) -> bool:
    """Say what torch.fx says of one of torch's own functions: whether it draws random numbers, for one."""
    return fx.Graph().call_function(function).is_impure()
