"""Modules and functions that wrap another and compute what it does: compiled ones, and those for several devices.

    torch.compile(m), DataParallel(m), DistributedDataParallel(m), in any nesting   ->   m

Graphs are traced from what is inside, under its own names: no path or key tells of a wrapper.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import FunctionType
from typing import Any, TypeVar

import torch
from torch import nn

from fxprune.errors import TraceError
from fxprune.ir.module_tree import every_module, every_path, has_hooks

_COMPILED = ("torch._dynamo.eval_frame", "OptimizedModule")  # by name: to import the compiler takes a second
_PARALLEL: tuple[type[nn.Module], ...] = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_SHARDED = ("FullyShardedDataParallel", "FSDPModule")
_INSIDE = ("_orig_mod", "module")  # what wrappers call the module inside
_ORIGINAL = "_torchdynamo_orig_callable"  # of a compiled function: what was compiled

V = TypeVar("V")


def _inside_as(kind: type) -> str | None:
    """Return what modules of ``kind`` call the one that they wrap; None if they are no wrappers."""
    if kind.__name__ == _COMPILED[1] and kind.__module__ == _COMPILED[0]:
        return "_orig_mod"
    return "module" if issubclass(kind, _PARALLEL) else None


def _is_sharded(kind: type) -> bool:
    return any(one.__name__ in _SHARDED and one.__module__.startswith("torch.distributed") for one in kind.__mro__)


def inside(module: nn.Module) -> nn.Module:
    """Return what the wrappers around ``module`` hold; ``module`` itself if it is no wrapper."""
    while (name := _inside_as(type(module))) is not None:
        module = module._modules[name]  # type: ignore[assignment]
    return module


def holds_wrappers(model: nn.Module) -> bool:
    """Say whether a wrapper is in ``model``, or is the model.

    Raises:
        TraceError: one cannot be looked through (names it, and says what to do).
    """
    kinds = set(map(type, every_module(model)))
    if not any(_inside_as(kind) is not None or _is_sharded(kind) for kind in kinds):
        return False
    for path, module in every_path(model).items():
        _require_transparent(module, path or "the model")
    return True


def _require_transparent(module: nn.Module, place: str) -> None:
    kind = type(module)
    if _is_sharded(kind):
        raise TraceError(
            f"{place} is wrapped by FSDP ({kind.__name__}), which spreads its weights over processes: trace "
            "the model before it is wrapped, and wrap the graph"
        )
    name = _inside_as(kind)
    if name is None:
        return
    if _has_own_forward(module):
        why = "has a forward of its own"
    elif has_hooks(module):
        why = "has hooks, which what is inside does not"
    else:
        return
    raise TraceError(
        f"{place} ({kind.__name__}) {why}, and cannot be looked through: give the module inside it, .{name}"
    )


def reaches_inside(error: Exception) -> bool:
    """Say whether ``error`` is that of a forward which asks a module for what only a wrapper has."""
    return isinstance(error, AttributeError) and any(f"has no attribute '{name}'" in str(error) for name in _INSIDE)


def _has_own_forward(wrapper: nn.Module) -> bool:
    forward = vars(wrapper).get("forward")
    if isinstance(wrapper, _PARALLEL):
        return forward is not None or not any(type(wrapper).forward is kind.forward for kind in _PARALLEL)
    is_torchs = inspect.isroutine(forward) and str(forward.__module__).startswith("torch._dynamo")
    return inspect.isroutine(forward) and original_of(forward) is forward and not is_torchs


def original_of(function: Any) -> Any:
    """Return what a compiled function, or method of an instance, was made of; ``function`` itself if it is none."""
    while inspect.isfunction(function) and _ORIGINAL in vars(function) and _is_of_compiler(function):
        function = vars(function)[_ORIGINAL]
        if inspect.isfunction(function) and _is_of_compiler(function):
            function = vars(function).get("__wrapped__", function)  # torch wraps methods of its layers once more
    return function


def _is_of_compiler(function: FunctionType) -> bool:
    """Say whether torch.compile made ``function``: a user's decorator around it copies all of its attributes."""
    return str(function.__globals__.get("__name__")).startswith("torch._dynamo.")


@contextmanager
def uncompiled(*, tracing: bool = False) -> Iterator[None]:
    """Inside, what was compiled runs as it was written: compiled code crashes on fake tensors.

    With ``tracing``, also where torch.fx traces, which torch would refuse.
    """
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is None:  # nothing is compiled yet
        yield
        return
    nested = dynamo.config.patch(error_on_nested_fx_trace=False) if tracing else nullcontext()
    with torch.compiler.set_stance("force_eager"), nested:
        yield


def without_prefixes(state: Mapping[str, V], own: Collection[str]) -> dict[str, V]:
    """Return ``state`` under the keys ``own`` of a model: without what wrappers put before them or into them.

    A prefix that all keys have is taken off where more of them are the model's then; one in the middle (that of a
    wrapped child) where the model has no such child. A key that is none of the model's even so is left as it is.
    """
    known = {".".join(atoms[:end]) for atoms in (key.split(".") for key in own) for end in range(1, len(atoms) + 1)}
    candidates = [dict(state)]
    while len(prefixes := {key.partition(".")[0] for key in candidates[-1]}) == 1 and prefixes.issubset(_INSIDE):
        candidates.append({key.partition(".")[2]: value for key, value in candidates[-1].items()})
    return max((_renamed(one, known) for one in candidates), key=lambda found: sum(key in own for key in found))


def _renamed(state: Mapping[str, V], known: Collection[str]) -> dict[str, V]:
    found: dict[str, V] = {}
    for key, value in state.items():
        name = _in_model(key, known)
        found[key if name in found or (name != key and name in state) else name] = value
    return found


def _in_model(key: str, known: Collection[str]) -> str:
    """Return ``key`` without the names of wrappers that are not ``known`` in their places."""
    path = ""
    for atom in key.split("."):
        longer = f"{path}.{atom}" if path else atom
        if longer in known:
            path = longer
        elif atom not in _INSIDE:
            return key
    return path
