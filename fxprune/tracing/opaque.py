"""Tier 3: a module whose forward depends on data becomes one call, and what can be traced inside it a region.

    M(x)   ->   M'(x),   M' a copy of M in whose place of a child c stands the GraphModule of c

A region carries the plain attributes of the module that it stands for, its own example inputs (those of the largest
call), and in its meta how often it is called.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import fx, nn

from fxprune.errors import TraceError
from fxprune.ir.module_tree import CALLS, has_hooks, is_layer, opaque_children
from fxprune.ir.nodes import PRESERVED
from fxprune.ir.pytrees import tensors_in
from fxprune.ops.layer_classes import WEIGHTED_CLASSES
from fxprune.rewriting.verify import difference
from fxprune.tracing.attempt import RESERVED
from fxprune.tracing.check import TOLERANCE, Reference, run_model
from fxprune.tracing.inputs import Call, bind
from fxprune.tracing.watched_calls import Calls, WatchedRun, record_calls

_LOG = logging.getLogger(__name__)
_PLAIN = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
_LISTS = (nn.ModuleList, nn.ModuleDict)

Compile = Callable[[nn.Module, Reference, Mapping[str, bool]], fx.GraphModule]
Run = Callable[[], Any]


@dataclass(frozen=True)
class _Part:
    """A module inside an opaque one, its path in the user's model, and what is run to see how it is called."""

    path: str
    module: nn.Module
    within: nn.Module
    call: Call


def compile_inside(
    opaque: nn.Module,
    path: str,
    root: fx.GraphModule,
    call: Call,
    compile_region: Compile,
    flags: Mapping[str, bool],
    seen: WatchedRun | None = None,
) -> Calls:
    """Put a region in the place of every child of ``opaque`` that is called on the example and can be traced.

    Args:
        opaque: the opaque module, a copy that may be changed.
        path: its path in the user's model, for ``flags``.
        root: the graph that ``opaque`` is in; regions share no parameter with the rest of it.
        call: the call of ``root``.
        compile_region: traces a module; raises TraceError if it cannot be.
        flags: the train flag of each module of the user's model, by path.
        seen: a run of the model itself, which computes what ``root`` does.

    Returns:
        How ``opaque`` itself is called, and what it returns.
    """
    _LOG.info("%s is opaque: looking inside", path or type(opaque).__name__)
    parts = list(_parts(opaque, path, root, call))
    wanted = {path: opaque} | {part.path: part.module for part in parts}
    if seen is None or not seen.calls.keys() >= wanted.keys():
        seen = record_calls(root, call, wanted)
    calls, expected = seen.calls, tensors_in(seen.result)
    own = calls.get(path, Calls(opaque))

    def region_of(part: _Part, found: Calls) -> fx.GraphModule | None:
        _LOG.info("tracing %s", part.path)
        modes = {name: flags.get(_join(part.path, name), True) for name, _ in part.module.named_modules()}
        return _region(part.module, found, root, compile_region, modes)

    while parts:
        regions = _regions_in(parts, calls, region_of)
        _LOG.info("running the model with the graphs of %d of its parts", len(regions))
        refused = _install(opaque, list(regions.values()), lambda: run_model(root, call), expected)
        again = [(name, module) for name, (module, _) in regions.items() if module in refused]
        parts = [part for name, module in again for part in _parts(module, name, root, call)]
        calls = _calls_of(parts)
    return own


def modules_inside(model: nn.Module, paths: Iterable[str], call: Call) -> dict[str, nn.Module]:
    """Return by path what a run should show to compile inside ``model`` and its modules at ``paths``: two levels."""
    found = {"": model} | {path: model.get_submodule(path) for path in paths}
    for _ in range(2):
        found |= {part.path: part.module for path, one in found.items() for part in _parts(one, path, model, call)}
    return {path: one for path, one in found.items() if not isinstance(one, torch.jit.ScriptModule)}


def _regions_in(
    parts: list[_Part],
    calls: Mapping[str, Calls],
    region_of: Callable[[_Part, Calls], fx.GraphModule | None],
) -> dict[str, tuple[nn.Module, fx.GraphModule]]:
    """Return by path the outermost modules that can be regions, in ``parts`` and in those that cannot, and these."""
    regions = {}
    while parts:
        deeper: list[_Part] = []
        known: dict[str, Calls] = {}
        unknown: list[_Part] = []
        for part in parts:
            found = calls.get(part.path, Calls(part.module))
            region = region_of(part, found) if found.count and _is_worthwhile(part.module) else None
            if region is not None:
                regions[part.path] = part.module, region
                continue
            inside = list(_parts(part.module, part.path, part.within, part.call))
            if calls.keys() >= {one.path for one in inside}:
                deeper += inside
            elif (alone := _alone(part, found)) is not None:
                deeper += alone[0]
                known |= alone[1]
            else:
                deeper += inside
                unknown += inside
        parts, calls = deeper, {**calls, **known, **_calls_of(unknown)}
    return regions


def _alone(part: _Part, calls: Calls) -> tuple[list[_Part], dict[str, Calls]] | None:
    """Return what is in ``part`` and how that is called, by a run of it alone; None if that does not show it."""
    if not calls.is_only_one:
        return None
    try:
        call = bind(part.module, calls.args, calls.kwargs)
        inside = list(_parts(part.module, part.path, part.module, call))
        return inside, _calls_of(inside)
    except Exception:  # it wants more than its arguments
        return None


def _calls_of(parts: Iterable[_Part]) -> dict[str, Calls]:
    """Return how ``parts`` are called: a run for each module that they are in, which need not be the whole model."""
    found: dict[str, Calls] = {}
    groups: dict[nn.Module, list[_Part]] = {}
    for part in parts:
        groups.setdefault(part.within, []).append(part)
    for within, members in groups.items():
        found |= record_calls(within, members[0].call, {part.path: part.module for part in members}).calls
    return found


def _parts(module: nn.Module, path: str, within: nn.Module, call: Call) -> Iterator[_Part]:
    """Yield what is just inside ``module``; lists are looked through, since nothing calls them."""
    if not isinstance(module, fx.GraphModule) and not (is_layer(module) and type(module) not in _LISTS):
        for name, child in module.named_children():
            if type(child) in _LISTS:
                yield from _parts(child, _join(path, name), within, call)
            else:
                yield _Part(_join(path, name), child, within, call)


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
        reference = calls.reference(child, bind(child, calls.args, calls.kwargs))
        region = compile_region(child, reference, flags)
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
