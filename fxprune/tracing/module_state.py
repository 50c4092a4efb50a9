"""What forward leaves in modules while they are traced: undone, or refused where a graph would lose it."""

from __future__ import annotations

import dis
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from fxprune.errors import TraceError
from fxprune.facts.effects import IN_PLACE_OPERATORS
from fxprune.ir.module_tree import CONTAINERS, keeps_containers

_SIZED = (list, dict, set)
_KEEPING = frozenset((int, float, bool, *_SIZED))  # what forward may keep between calls


@contextmanager
def state_kept(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Undo what tracing leaves in modules: attributes that forward sets, which now hold stand-ins, and constants.

    After a success the flags that the graph needs stay as they are.
    """
    before = [(module, module.__dict__.copy()) for module in modules]
    contents = [
        (value, value.copy())
        for module, state in before
        if not keeps_containers(module)
        for value in state.values()
        if type(value) in CONTAINERS
    ]
    succeeded = False
    try:
        yield
        succeeded = True
    finally:
        for container, content in contents:
            _refill(container, content)
        for module, state in before:
            own = module.__dict__
            flags = {name: own[name] for name in ("inplace", "training") if name in state} if succeeded else {}
            own.clear()
            own.update(state | flags)


def _refill(container: Any, content: Any) -> None:
    """Give a container, which other modules may hold too, its content back."""
    if container or content:
        container.clear()
        (container.extend if isinstance(container, list) else container.update)(content)


def require_no_memory(own: nn.Module, module: nn.Module, state: Mapping[str, Any]) -> None:
    """Raise TraceError if forward has changed a number or a container that it reads: what it keeps between calls."""
    for name, value in state.items():
        if name[:1] == "_" or name == "training" or type(value) not in _KEEPING:
            continue
        now: Any = module.__dict__.get(name)
        changed = type(now) is not type(value) or (len(now) != len(value) if type(value) in _SIZED else now != value)
        if changed and _reads(type(module), name):
            path = next(path for path, one in own.named_modules() if one is module)
            reason = f"it changes its attribute {name}, which it reads too, from call to call"
            raise TraceError(f"{type(own).__name__} cannot be traced: {reason}", path=path, reason=reason)


def _reads(kind: type[nn.Module], name: str) -> bool:
    """Say whether the forward of a class reads ``self.name``; code that is not Python's counts as reading it."""
    code = getattr(kind.forward, "__code__", None)
    return code is None or any(
        one.opname in ("LOAD_ATTR", "LOAD_METHOD") and one.argval == name for one in dis.get_instructions(code)
    )


def require_own_buffers(own: nn.Module, held: Sequence[tuple[nn.Module, str, torch.Tensor]]) -> None:
    """Raise TraceError if forward put another tensor in the place of a buffer: a graph would lose it."""
    for module, name, buffer in held:
        now = module._buffers.get(name)
        if now is buffer or (isinstance(now, fx.Proxy) and now.node.target in IN_PLACE_OPERATORS):
            continue
        path = next(path for path, one in own.named_modules() if one is module)
        reason = f"it assigns its buffer {name} anew; write it in place, self.{name}.copy_(...)"
        raise TraceError(f"{type(own).__name__} cannot be traced: {reason}", path=path, reason=reason)
