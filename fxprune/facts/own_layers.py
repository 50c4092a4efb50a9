"""Layers that belong to one call alone: what may be replaced by another layer with other weights, and why not."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from fxprune.facts.module_uses import CallSites
from fxprune.gates.resconv import WEIGHT_HOOKS
from fxprune.ir.copies import copy_module
from fxprune.ir.module_tree import has_hooks, is_parametrized, runs_own_code


def own_module(
    module: nn.Module, classes: tuple[type[Any], ...], sites: CallSites, *, frozen: bool = False
) -> str | None:
    """Return why ``module`` may not be replaced by another with other weights; None if it may.

    Args:
        module: a layer of a graph.
        classes: of which it is one, itself and no subclass.
        sites: of that graph.
        frozen: weights that are computed will be plain by then (freeze-weights).
    """
    if not frozen and (is_parametrized(module) or _weight_hooks(module)):
        return "its weight is computed from other parameters; apply freeze-weights first"
    if (parametrize.type_before_parametrizations(module) if is_parametrized(module) else type(module)) not in classes:
        return f"{type(module).__name__} is a subclass that may compute something else"
    if any(one is not None and one.is_complex() for one in module._parameters.values()):
        return "its weights are complex numbers"
    if has_hooks(module) and not _weight_hooks(module):
        return "it has hooks, which would see other values"
    if sites.calls(module) != 1:
        return f"it is shared by {sites.calls(module)} call sites"
    updated = sites.updated_tensor(module)
    if updated is not None:
        return f"its {updated} is updated in forward"
    if changes_by_call(module):
        return "its weight is another one in every call"
    tied = sites.shared_parameter(module)
    if tied is not None and tied in module._buffers:
        return f"its {tied} is read by others too"
    return f"its {tied} is tied to another layer's" if tied else None


def changes_by_call(module: nn.Module) -> bool:
    """Say whether a parametrization that is not torch's returns another tensor in its next call: it counts, say."""
    if not is_parametrized(module) or not runs_own_code(module.parametrizations):  # type: ignore[arg-type]
        return False
    own: Any = copy_module(module).eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return any(not torch.equal(getattr(own, name).clone(), getattr(own, name)) for name in own.parametrizations)


def _weight_hooks(module: nn.Module) -> bool:
    """Say whether ``module`` has hooks, and all of them are torch's own that compute a weight before each forward."""
    others = (module._forward_hooks, module._backward_hooks, module._backward_pre_hooks)
    hooks = module._forward_pre_hooks.values()
    return bool(hooks) and not any(others) and all(isinstance(hook, WEIGHT_HOOKS) for hook in hooks)
