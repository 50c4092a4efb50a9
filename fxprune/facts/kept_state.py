"""Runs of a graph that leave no trace in it, whatever its modules keep, and wherever.

Code that is not torch's (opaque modules, hooks, parametrizations) may keep anything: objects in lists in dicts,
hooks, submodules, random generators, tensors that it writes to. For a run, deep copies stand in for the modules that
it is in. All else writes to nothing but tensors that nodes of the graph read: those get their values back.

What such code keeps outside of its module is out of reach: globals, attributes of classes, variables of closures.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import fx, nn

from fxprune.errors import FxpruneError
from fxprune.facts.effects import is_foreign, is_in_place, rescaled_weight, rescales
from fxprune.ir.copies import copy_module, not_copied
from fxprune.ir.module_tree import is_opaque, mark_opaque, runs_own_code
from fxprune.ir.node_targets import attribute
from fxprune.ir.nodes import called_modules
from fxprune.ir.pytrees import version_of


class Copy(Protocol):
    """Deep-copies a module; ``memo`` is that of ``copy.deepcopy``."""

    def __call__(self, module: nn.Module, *, memo: dict[int, Any]) -> nn.Module:
        """Return the copy."""


@contextmanager
def keeping_state(graph_module: fx.GraphModule, copied: Copy = copy_module) -> Iterator[None]:
    """Give ``graph_module`` the state back that it has now, whatever runs inside change.

    Args:
        graph_module: the graph; inside, what ``copied`` returns stands in its modules with code of their own.
        copied: makes those copies.

    Raises:
        FxpruneError: such a module holds what cannot be copied (names it).
    """
    places = _places(graph_module)
    stand_ins = _stand_ins(places, copied)
    held = [(tensor, version_of(tensor), tensor.detach().clone()) for tensor in _may_be_written(graph_module)]
    try:
        for (owner, name, _), stand_in in zip(places.values(), stand_ins, strict=True):
            owner._modules[name] = stand_in
        yield
    finally:
        for owner, name, module in places.values():
            owner._modules[name] = module
        with torch.no_grad():
            for tensor, version, value in held:
                if version_of(tensor) != version:
                    tensor.copy_(value)


def _places(graph_module: fx.GraphModule) -> dict[str, tuple[nn.Module, str, nn.Module]]:
    """Return, by target, the modules with code of their own that are called: who holds each, under which name."""
    found: dict[str, tuple[nn.Module, str, nn.Module]] = {}
    for node in graph_module.graph.find_nodes(op="call_module", sort=False):
        target = str(node.target)
        *parents, name = target.split(".")
        owner: Any = graph_module
        for atom in parents:
            owner = owner._modules[atom]
        if runs_own_code(module := owner._modules[name]):
            found[target] = (owner, name, module)
    return found


def _stand_ins(places: dict[str, tuple[nn.Module, str, nn.Module]], copied: Copy) -> list[nn.Module]:
    """Return copies of modules; what they share their copies share."""
    memo: dict[int, Any] = {}
    made: list[nn.Module] = []
    for target, (_, _, module) in places.items():
        try:
            made.append(copied(module, memo=memo))
        except FxpruneError:
            raise
        except Exception as error:
            raise not_copied(target, error) from error
        if is_opaque(module):
            mark_opaque(made[-1])  # a copy of what torch.jit compiled is not
    return made


def _may_be_written(graph_module: fx.GraphModule) -> list[torch.Tensor]:
    """Return the parameters and buffers that nodes read, if there are nodes that may write to what they read.

    So too the weights of embeddings that shorten what they read.
    """
    nodes = graph_module.graph.nodes
    reads = graph_module.graph.find_nodes(op="get_attr", sort=False)
    layers = called_modules(graph_module).values()
    values: list[Any] = [layer.weight for layer in layers if rescales(layer)]
    if reads and any(is_in_place(node) or is_foreign(node) or rescaled_weight(node) for node in nodes):
        values += [attribute(graph_module, str(node.target)) for node in reads]
    return list({id(value): value for value in values if isinstance(value, torch.Tensor)}.values())
