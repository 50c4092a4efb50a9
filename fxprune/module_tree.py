"""What the modules of a network are (layers, opaque modules, regions), their copies, and their train flags."""

from __future__ import annotations

import copy
import copyreg
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import fx, nn

from fxprune.nests import PLAIN

CALLS = "fxprune_calls"  # of a region: the elements that it reads in all its calls, over those of its example
PER_SAMPLE = "fxprune_per_sample"  # of a region: what its MACs are divided by to be those of one sample


def every_module(module: nn.Module) -> list[nn.Module]:
    """Return what ``module.modules()`` yields, in a third of the time: every analysis walks the tree."""
    if not module._modules:
        return [module]
    found: dict[int, nn.Module] = {}
    waiting = [module]
    while waiting:
        one = waiting.pop()
        if id(one) not in found:
            found[id(one)] = one
            waiting += [child for child in reversed(one._modules.values()) if child is not None]
    return list(found.values())


def every_path(module: nn.Module) -> dict[str, nn.Module]:
    """Return what ``module.named_modules(remove_duplicate=False)`` yields, in a third of the time.

    Paths that run in a circle, which it never comes out of, are left out.
    """
    found: dict[str, nn.Module] = {}

    def visit(one: nn.Module, path: str, above: tuple[nn.Module, ...]) -> None:
        found[path] = one
        if one._modules:
            prefix, above = f"{path}." if path else "", (*above, one)
            for name, child in one._modules.items():
                if child is not None and child not in above:
                    visit(child, prefix + name, above)

    visit(module, "", ())
    return found


def set_flags(modules: Iterable[nn.Module], training: bool) -> None:
    """Put each of ``modules`` in train or eval mode."""
    for module in modules:
        if module.training is not training:
            module.training = training


def put_in_eval_mode(module: nn.Module) -> None:
    """Do what ``module.eval()`` does, its own or that of nn.Module in less time."""
    modules = every_module(module)
    if all(type(one).train is nn.Module.train and type(one).eval is nn.Module.eval for one in modules):
        set_flags(modules, False)
    else:
        module.eval()


def regions_in(module: nn.Module) -> list[tuple[str, fx.GraphModule]]:
    """Return the graphs that were compiled inside an opaque module, with their paths in it; not those inside them."""
    found: list[tuple[str, fx.GraphModule]] = []
    seen: set[int] = set()

    def visit(owner: nn.Module, prefix: str) -> None:
        for name, child in owner._modules.items():
            if child is None or id(child) in seen:
                continue
            seen.add(id(child))
            if is_region(child):
                found.append((prefix + name, child))
            else:
                visit(child, f"{prefix}{name}.")

    if not isinstance(module, fx.GraphModule):
        visit(module, "")
    return found


def is_region(module: nn.Module) -> TypeGuard[fx.GraphModule]:
    """Say whether ``module`` is a graph that was compiled inside an opaque module."""
    return isinstance(module, fx.GraphModule) and CALLS in module.meta


def is_layer(module: nn.Module) -> bool:
    """Say whether ``module`` is a layer of torch's own, which is always one call."""
    return type(module).__module__.startswith(("torch.nn", "torch.ao.nn")) and not isinstance(module, nn.Sequential)


def mark_opaque(module: nn.Module, opaque: bool = True) -> None:
    """Mark ``module`` as one whose calls are kept whatever happens to what they return, and need real tensors."""
    if opaque:
        module.__dict__["_is_impure"] = True  # the name that torch.fx asks for
    else:
        module.__dict__.pop("_is_impure", None)


def is_opaque(module: nn.Module | None) -> bool:
    """Say whether ``module`` could not be traced and is one call."""
    return module is not None and bool(module.__dict__.get("_is_impure"))


def opaque_children(module: nn.Module) -> Iterator[nn.Module]:
    """Yield ``module`` and all below it, but for regions and what is inside them."""
    yield module
    for child in module.children():
        if not is_region(child):
            yield from opaque_children(child)


def has_hooks(module: nn.Module) -> bool:
    """Say whether calling ``module`` runs hooks, which may see or change its values."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def is_parametrized(module: nn.Module) -> bool:
    """Say what torch's function of this name says; where an attribute is missing, ``getattr`` takes microseconds."""
    return "parametrizations" in module._modules


def copy_module(module: nn.Module, *, share_weights: bool = False) -> nn.Module:
    """Return a deep copy of ``module``; with ``share_weights`` its parameters and buffers are those of ``module``.

    Tensors that it computed and keeps (the weight of an old-style ``torch.nn.utils.weight_norm``, say) are copied by
    value, which plain deep-copying refuses: they are computed again in every forward.
    """
    memo: dict[int, Any] = {}
    if share_weights:
        for one in every_module(module):
            for tensor in (*one._parameters.values(), *one._buffers.values()):
                memo[id(tensor)] = tensor
    return _deepcopy_module(module, memo)


_EMPTY = vars(nn.Module())
_TABLES = frozenset(_EMPTY)  # torch's own, which modules do not share
_SETTINGS = {name: value for name, value in _EMPTY.items() if type(value) in PLAIN}
_NEW = tuple((name, type(value)) for name, value in _EMPTY.items() if name not in _SETTINGS)


def empty_module() -> nn.Module:
    """Return ``nn.Module()``, in half the time: every copy of a graph makes its containers anew."""
    made = nn.Module.__new__(nn.Module)
    made.__dict__.update(_SETTINGS)
    for name, table in _NEW:
        made.__dict__[name] = table()
    return made


def _deepcopy_module(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Do what ``copy.deepcopy`` does, several times as fast: most of what a module holds is empty, or a number."""
    if id(module) in memo:
        return memo[id(module)]  # type: ignore[no-any-return]
    kind = type(module)
    how = () if hasattr(kind, "__deepcopy__") else module.__reduce_ex__(4)
    if len(how) < 3 or how[:2] != (copyreg.__newobj__, (kind,)) or type(how[2]) is not dict:  # type: ignore[attr-defined]
        for one in every_module(module):
            memo |= {id(v): v.detach().clone() for v in vars(one).values() if _is_computed(v)}
        return copy.deepcopy(module, memo)
    duplicate = memo[id(module)] = kind.__new__(kind)
    state: dict[str, Any] = {}
    for name, value in how[2].items():  # what the module's own __getstate__ leaves of it
        sort = type(value)
        if sort in PLAIN or (sort is tuple and PLAIN.issuperset(map(type, value))):
            pass
        elif name == "_modules":
            value = sort((key, child and _deepcopy_module(child, memo)) for key, child in value.items())
        elif name in _TABLES and sort in (dict, OrderedDict, set) and not value:
            value = sort()
        elif name in ("_parameters", "_buffers") and sort is dict:
            value = {
                key: memo[id(tensor)] if id(tensor) in memo else copy.deepcopy(tensor, memo)
                for key, tensor in value.items()
            }
        elif _is_computed(value):
            value = memo.setdefault(id(value), value.detach().clone())
        else:
            value = copy.deepcopy(value, memo)
        state[name] = value
    duplicate.__setstate__(state)  # type: ignore[no-untyped-call]
    return duplicate


def _is_computed(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not value.is_leaf


@contextmanager
def evaluating(graph_module: nn.Module) -> Iterator[None]:
    """Put every module in eval mode without gradients, and give each its own flag back at the end.

    So too the tensors that modules compute and keep (see :func:`copy_module`): those of this run may be fake.
    """
    modules = every_module(graph_module)
    flags = [module.training for module in modules]
    kept = [
        (module, name, value)
        for module in modules
        if not is_layer(module) or module._forward_pre_hooks
        for name, value in vars(module).items()
        if isinstance(value, torch.Tensor)
    ]
    try:
        set_flags(modules, False)
        with torch.no_grad():
            yield
    finally:
        for module, flag in zip(modules, flags, strict=True):
            if module.training is not flag:
                module.training = flag
        for module, name, value in kept:
            vars(module)[name] = value
