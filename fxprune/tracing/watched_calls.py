"""How modules are called while a model runs: a copy of it runs, with hooks, and nothing of it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from fxprune.ir.copies import copy_module
from fxprune.ir.pytrees import copy_tensors, tensors_in, version_of
from fxprune.tracing.check import Reference, blaming_the_model, run_once
from fxprune.tracing.inputs import Call

Run = Callable[[], Any]


@dataclass
class Calls:
    """The calls of one module in a run: how many, the largest one and its arguments, the elements of it and of all.

    ``ran`` is the copy of the module that was called.
    """

    ran: nn.Module
    count: int = 0
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    largest: int = -1
    largest_at: int = 0
    elements: int = 0
    outputs: list[Any] = field(default_factory=list)
    overwrites: bool = False
    read_outside: bool = False

    @property
    def is_only_one(self) -> bool:
        """Whether a run of the module alone, on these arguments, shows all that happens in it."""
        return self.count == 1 and not self.overwrites and not self.read_outside

    def reference(self, module: nn.Module, call: Call) -> Reference:
        """Return what ``module`` returns for ``call``, the largest one."""
        all_returned = len(self.outputs) == self.count
        return Reference(module, call, (self.ran, self.outputs[self.largest_at]) if all_returned else None)


@dataclass(frozen=True)
class WatchedRun:
    """A run: how what was watched was called, by path, and what the whole returned."""

    calls: dict[str, Calls]
    result: Any


def record_calls(
    root: nn.Module, call: Call, modules: Mapping[str, nn.Module], *, training: bool = False
) -> WatchedRun:
    """Run a copy of ``root`` and watch ``modules`` of it, by path.

    In eval mode, or with ``training`` in the mode that it is in. Raises ModelFails if ``root`` does.
    """
    copies: dict[int, Any] = {}
    running = copy_module(root, memo=copies)
    watched = {path: copies[id(module)] for path, module in modules.items() if id(module) in copies}
    with blaming_the_model():
        run = partial(run_once, running, call, training=training, keeping=False)
        found, result = _watched_run(run, watched.values())
    return WatchedRun({path: found[module] for path, module in watched.items()}, copy_tensors(result))


def _watched_run(run: Run, modules: Iterable[nn.Module]) -> tuple[dict[nn.Module, Calls], Any]:
    found = {module: Calls(module) for module in modules}
    owners: dict[int, list[nn.Module]] = {}
    for module in found:
        for inner in module.modules():
            owners.setdefault(id(inner), []).append(module)
    active: list[nn.Module] = []
    versions: list[list[int | None]] = []

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        active.append(module)
        given = tensors_in((args, kwargs))
        versions.append([version_of(tensor) for tensor in given])
        calls, size = found[module], sum(tensor.numel() for tensor in given)
        calls.count += 1
        calls.elements += size
        if size > calls.largest:
            calls.largest, calls.largest_at = size, calls.count - 1
            calls.args, calls.kwargs = copy_tensors(args), copy_tensors(kwargs)

    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        active.pop()
        if [version_of(tensor) for tensor in tensors_in((args, kwargs))] != versions.pop():
            found[module].overwrites = True
        found[module].outputs.append(copy_tensors(output))

    def read(owner: nn.Module) -> None:
        for module in owners.get(id(owner), ()):
            if module not in active:
                found[module].read_outside = True

    handles = [m.register_forward_pre_hook(before, with_kwargs=True, prepend=True) for m in found]
    handles += [m.register_forward_hook(after, with_kwargs=True) for m in found]
    try:
        with _watched_reads(read):
            result = run()
    finally:
        for handle in handles:
            handle.remove()
    return found, result


@contextmanager
def _watched_reads(read: Callable[[nn.Module], None]) -> Iterator[None]:
    """Tell ``read`` of which modules a parameter or buffer is read by name."""
    original = nn.Module.__getattr__

    def watched(self: nn.Module, name: str) -> Any:
        value = original(self, name)
        if isinstance(value, torch.Tensor):
            read(self)
        return value

    nn.Module.__getattr__ = watched  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__getattr__ = original  # type: ignore[method-assign]
