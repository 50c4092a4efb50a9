"""Tier 3: a module whose forward depends on data becomes one call, and what can be traced inside it a region.

    M(x)   ->   M'(x),   M' a copy of M in whose place of a child c stands the GraphModule of c

A region carries the plain attributes of the module that it stands for, its own example inputs (those of the largest
call), and in its meta how often it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import fx, nn

from fxprune.errors import TraceError
from fxprune.ir.copies import copy_module
from fxprune.ir.module_tree import CALLS, has_hooks, is_layer, opaque_children
from fxprune.ir.nodes import PRESERVED
from fxprune.ir.pytrees import copy_tensors, tensors_in, version_of
from fxprune.ops.layer_classes import WEIGHTED_CLASSES
from fxprune.rewriting.verify import difference
from fxprune.tracing.attempt import RESERVED
from fxprune.tracing.check import TOLERANCE, run_model, run_once
from fxprune.tracing.inputs import Call, bind

_PLAIN = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
_CONTAINERS = (nn.ModuleList, nn.ModuleDict)

Compile = Callable[[nn.Module, Call, Mapping[str, bool]], fx.GraphModule]
Run = Callable[[], Any]


@dataclass
class Calls:
    """The calls of one module in a run: the largest one's arguments, the elements of it and of all, the results."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    largest: int = -1
    elements: int = 0
    outputs: list[Any] = field(default_factory=list)
    overwrites: bool = False
    read_outside: bool = False


def record_calls(
    root: nn.Module,
    call: Call,
    modules: Iterable[nn.Module],
    *,
    keep_outputs: bool = False,
    training: bool = False,
) -> tuple[dict[nn.Module, Calls], Any]:
    """Run a copy of ``root``; return how each of ``modules`` is called in it, if it is, and what it returns.

    In eval mode, or with ``training`` in the mode that it is in.
    """
    copies: dict[int, Any] = {}
    running = copy_module(root, memo=copies)
    originals = {copies[id(module)]: module for module in modules if id(module) in copies}
    calls, result = _watched_run(lambda: run_once(running, call, training=training), originals, keep_outputs)
    return {originals[module]: found for module, found in calls.items()}, result


def _watched_run(run: Run, modules: Iterable[nn.Module], keep_outputs: bool) -> tuple[dict[nn.Module, Calls], Any]:
    found = {module: Calls() for module in modules}
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
        calls.elements += size
        if size > calls.largest:
            calls.largest = size
            calls.args, calls.kwargs = copy_tensors(args), copy_tensors(kwargs)

    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        active.pop()
        if [version_of(tensor) for tensor in tensors_in((args, kwargs))] != versions.pop():
            found[module].overwrites = True
        if keep_outputs:
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
    return {module: calls for module, calls in found.items() if calls.largest >= 0}, result


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


def compile_inside(
    opaque: nn.Module,
    path: str,
    root: fx.GraphModule,
    call: Call,
    compile_region: Compile,
    flags: Mapping[str, bool],
) -> None:
    """Put a region in the place of every child of ``opaque`` that is called on the example and can be traced.

    Args:
        opaque: the opaque module, a copy that may be changed.
        path: its path in the user's model, for ``flags``.
        root: the graph that ``opaque`` is in; regions share no parameter with the rest of it.
        call: the call of ``root``.
        compile_region: traces a module; raises TraceError if it cannot be.
        flags: the train flag of each module of the user's model, by path.
    """
    level = list(_named_children(opaque, path))
    while level:
        calls, result = record_calls(root, call, [child for _, child in level])
        expected = copy_tensors(tensors_in(result))
        regions: list[tuple[nn.Module, fx.GraphModule]] = []
        deeper: list[tuple[str, nn.Module]] = []
        for name, child in level:
            region = None
            if child in calls and _is_worthwhile(child):
                own_flags = {inner: flags.get(_join(name, inner), True) for inner, _ in child.named_modules()}
                region = _region(child, calls[child], root, compile_region, own_flags)
            if region is None:
                deeper += _named_children(child, name)
            else:
                regions.append((child, region))
        refused = _install(opaque, regions, lambda: run_model(root, call), expected)
        deeper += [entry for name, child in level if child in refused for entry in _named_children(child, name)]
        level = deeper


def _named_children(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    if not isinstance(module, fx.GraphModule) and not (is_layer(module) and not isinstance(module, _CONTAINERS)):
        yield from ((_join(path, name), child) for name, child in module.named_children())


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def _is_worthwhile(module: nn.Module) -> bool:
    if has_hooks(module) or next(module.parameters(), None) is None:
        return False
    return not is_layer(module) or type(module) in WEIGHTED_CLASSES


def _region(
    child: nn.Module, calls: Calls, root: nn.Module, compile_region: Compile, flags: Mapping[str, bool]
) -> fx.GraphModule | None:
    inside = set(child.modules())
    elsewhere = {id(p) for m in root.modules() if m not in inside for p in m._parameters.values() if p is not None}
    tied = any(id(parameter) in elsewhere for parameter in child.parameters())
    if tied or calls.read_outside or calls.overwrites:
        return None
    try:
        region = compile_region(child, bind(child, calls.args, calls.kwargs), flags)
    except TraceError:
        return None
    plain = {name: v for name, v in child.__dict__.items() if name not in RESERVED and _is_plain(name, v)}
    region.meta[PRESERVED] = plain
    for name, value in plain.items():
        setattr(region, name, value)
    region.meta[CALLS] = Fraction(calls.elements, calls.largest) if calls.largest else Fraction(1)
    return region


def _is_plain(name: str, value: Any) -> bool:
    if name.startswith("_") or name == "training":
        return False
    if isinstance(value, (list, tuple, set)):
        return all(_is_plain("part", part) for part in value)
    if isinstance(value, dict):
        return all(_is_plain("part", part) for part in (*value, *value.values()))
    return isinstance(value, _PLAIN)


def _install(
    opaque: nn.Module, regions: list[tuple[nn.Module, fx.GraphModule]], run: Run, expected: list[torch.Tensor]
) -> set[nn.Module]:
    """Put regions in their places where the model still computes the same; return the modules that had to stay.

    What stays is asked for more than a region has: its type, its length, its methods.
    """
    if not regions:
        return set()

    def replaced(pairs: list[tuple[nn.Module, fx.GraphModule]]) -> bool:
        for child, region in pairs:
            _replace(opaque, child, region)
        try:
            same = difference(expected, tensors_in(run()))[1] <= TOLERANCE
        except Exception:
            same = False
        if not same:
            for child, region in pairs:
                _replace(opaque, region, child)
        return same

    if replaced(regions):
        return set()
    return {pair[0] for pair in regions if not replaced([pair])}


def _replace(opaque: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for module in opaque_children(opaque):
        for name, child in module._modules.items():
            if child is old:
                module._modules[name] = new
