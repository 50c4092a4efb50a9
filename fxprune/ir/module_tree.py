"""What the modules of a network are (layers, opaque modules, regions), and their train flags."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeGuard

import torch
from torch import fx, nn

from fxprune.ir.pytrees import PLAIN

CALLS = "fxprune_calls"  # of a region: the elements that it reads in all its calls, over those of its example
PER_SAMPLE = "fxprune_per_sample"  # of a region: what its MACs are divided by to be those of one sample
CONTAINERS = frozenset((list, dict, set))
TENSORS = ("_parameters", "_buffers", "_non_persistent_buffers_set")
"""The tables of a module that hold, or tell of, tensors of its own."""
_KNOWN = ("torch.", "fxprune.")
_EMPTY = vars(nn.Module())
_SETTINGS = {name: value for name, value in _EMPTY.items() if type(value) in PLAIN}
_NEW = tuple((name, type(value)) for name, value in _EMPTY.items() if name not in _SETTINGS)


def empty_module() -> nn.Module:
    """Return ``nn.Module()``, in half the time: every copy of a graph makes its containers anew."""
    made = nn.Module.__new__(nn.Module)
    state = made.__dict__
    state.update(_SETTINGS)
    for name, table in _NEW:
        state[name] = table()
    return made


def every_module(module: nn.Module) -> list[nn.Module]:
    """Return what ``module.modules()`` yields, in a third of the time: every analysis walks the tree."""
    found: dict[int, nn.Module] = {id(module): module}

    def visit(one: nn.Module) -> None:
        for child in one._modules.values():
            if child is not None and id(child) not in found:
                found[id(child)] = child
                if child._modules:
                    visit(child)

    visit(module)
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


def every_tensor(module: nn.Module, *tables: str) -> dict[str, torch.Tensor]:
    """Return what ``module.named_parameters()`` yields, or named_buffers(), in less time: the first name of each.

    The ``tables`` are "_parameters", "_buffers", or both.
    """
    found: dict[int, tuple[str, torch.Tensor]] = {}
    for path, one in every_path(module).items():
        for table in tables:
            for name, tensor in getattr(one, table).items():
                if tensor is not None and id(tensor) not in found:
                    found[id(tensor)] = (f"{path}.{name}" if path else name, tensor)
    return dict(found.values())


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


def mark_opaque(module: nn.Module) -> None:
    """Mark ``module`` as one whose calls are kept whatever happens to what they return, and need real tensors."""
    module.__dict__["_is_impure"] = True  # the name that torch.fx asks for


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


def runs_own_code(module: nn.Module) -> bool:
    """Say whether calling ``module`` runs code that is neither torch's nor ours, which may keep anything anywhere."""
    return is_opaque(module) or any(map(_is_changed, every_module(module) if module._modules else (module,)))


def _is_changed(module: nn.Module) -> bool:
    return has_hooks(module) or not type(module).__module__.startswith(_KNOWN) or "forward" in module.__dict__


def keeps_dtype(module: nn.Module) -> bool:
    """Say whether ``module`` keeps a dtype of its own whatever the network is cast to, as gates do."""
    return bool(getattr(type(module), "keeps_dtype", False))


def is_parametrized(module: nn.Module) -> bool:
    """Say what torch's function of this name says; where an attribute is missing, ``getattr`` takes microseconds."""
    return "parametrizations" in module._modules


def outside_inference_mode() -> AbstractContextManager[Any]:
    """Leave ``torch.inference_mode()`` inside, if it is on: what is made in it can be trained nowhere."""
    return torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()


@contextmanager
def evaluating(graph_module: nn.Module, *, keeping: bool = True) -> Iterator[None]:
    """Put every module in eval mode without gradients, and give each its own flag back at the end.

    So too, if ``keeping``, the tensors that modules compute and keep (see :mod:`fxprune.ir.copies`): those of this
    run may be fake.
    """
    modules = every_module(graph_module)
    flags = [module.training for module in modules]
    kept = [
        (module, name, value)
        for module in modules
        if not is_layer(module) or module._forward_pre_hooks
        for name, value in vars(module).items()
        if keeping and isinstance(value, torch.Tensor)
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


def keeps_containers(module: nn.Module) -> bool:
    """Say whether no forward changes the containers of ``module``: a layer of torch's own, and no list or dict."""
    return is_layer(module) and type(module).forward is not nn.Module.forward


def state_of(module: nn.Module) -> dict[str, Any]:
    """Return the attributes of ``module``, with copies of the containers that a forward may change."""
    if keeps_containers(module):
        return module.__dict__.copy()
    return {name: v.copy() if type(v) in CONTAINERS else v for name, v in module.__dict__.items()}
