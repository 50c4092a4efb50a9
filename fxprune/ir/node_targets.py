"""What dotted targets name in a GraphModule: reading it, setting it, and free names for new layers."""

from __future__ import annotations

import keyword
import unicodedata
from functools import lru_cache
from typing import Any

import torch
from torch import fx, nn

from fxprune.ir.nodes import is_there, module_path


def is_identifier(atom: str) -> bool:
    """Say whether source can name an attribute ``atom``: Python reads some letters as others."""
    return atom.isidentifier() and not keyword.iskeyword(atom) and unicodedata.normalize("NFKC", atom) == atom


@lru_cache(maxsize=1 << 14)
def is_sayable(atom: str) -> bool:
    """Say whether the code that torch.fx makes of a graph can name an attribute ``atom`` of a module."""
    quotable = atom.isprintable() and not atom.isidentifier() and '"' not in atom and "\\" not in atom
    return (quotable or is_identifier(atom)) and not hasattr(nn.Module, atom)


def attribute(graph_module: nn.Module, target: str) -> Any:
    """Return what a dotted ``target`` names below ``graph_module``."""
    value: Any = graph_module
    for atom in target.split("."):
        value = getattr(value, atom)
    return value


def set_attribute(graph_module: nn.Module, target: str, value: Any) -> None:
    """Put ``value``, a module or a parameter, at ``target``, making the containers on the way."""
    owner, name = _owner(graph_module, target)
    if isinstance(value, nn.Module) and name in owner._modules:
        owner._modules[name] = value  # what setattr would do, after a look at all that a name may stand for
    else:
        setattr(owner, name, value)


def set_buffer(graph_module: nn.Module, target: str, buffer: torch.Tensor) -> None:
    """Put ``buffer`` at ``target``, making the containers on the way."""
    owner, name = _owner(graph_module, target)
    owner.register_buffer(name, buffer)


def _owner(graph_module: nn.Module, target: str) -> tuple[nn.Module, str]:
    *parents, last = target.split(".")
    owner = graph_module
    for atom in parents:
        child = owner._modules.get(atom)
        if child is None:
            child = nn.Module()
            owner.add_module(atom, child)
        owner = child
    return owner, last


def free_target(graph_module: fx.GraphModule, wanted: str) -> str:
    """Return ``wanted``, or the first of ``wanted_1``, ``wanted_2``, ... that nothing has yet.

    What would stand inside a layer, which other graphs may share, gets a name beside it: ``conv_weight``.
    """
    atoms = wanted.split(".")
    for depth in range(1, len(atoms)):
        owner = ".".join(atoms[:depth])
        if is_there(graph_module, owner) and type(attribute(graph_module, owner)) is not nn.Module:
            wanted = ".".join([*atoms[: depth - 1], "_".join(atoms[depth - 1 :])])
            break
    candidate, number = wanted, 0
    while is_there(graph_module, candidate):
        number += 1
        candidate = f"{wanted}_{number}"
    return candidate


def module_target(graph_module: fx.GraphModule, node: fx.Node, source: fx.Node) -> str:
    """Return where a layer belongs that takes the place of ``node``, a function's call on ``source`` and weights.

    At the path of the module whose forward made the call, if all that is used of that module goes into the weights;
    else below it. So the weight of a layer with a forward of its own keeps its name.
    """
    path = module_path(node)
    if not path:
        return free_target(graph_module, node.name)
    own = {node}
    waiting = [weight for weight in node.all_input_nodes if weight is not source]
    while waiting:
        weight = waiting.pop()
        if all(user in own for user in weight.users):
            own.add(weight)
            waiting += weight.all_input_nodes
    used = (other for other in graph_module.graph.nodes if other.op in ("get_attr", "call_module"))
    below = [other for other in used if f"{other.target}.".startswith(f"{path}.")]
    if below and all(other.op == "get_attr" and other in own for other in below):
        return path
    return free_target(graph_module, f"{path}.{node.name}")
