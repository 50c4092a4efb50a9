"""A model, run in float64 as a graph of it is, and watched: which modules it calls, where, and what they return."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from fxprune.ir.copies import copy_module
from fxprune.ir.module_tree import mark_opaque, put_in_eval_mode
from fxprune.ir.pytrees import tensors_in
from fxprune.rewriting.float64 import run_float64
from fxprune.tracing.source import current_line


@dataclass(frozen=True)
class Returned:
    """What a module returned, once: its path, the line of the user's that called it, shapes and sums."""

    path: str
    line: str
    shapes: tuple[tuple[int, ...], ...]
    sums: torch.Tensor


def run_model_float64(
    model: nn.Module, graph_module: fx.GraphModule, inputs: Sequence[Any], watched: Collection[str] = ()
) -> tuple[list[torch.Tensor], list[Returned]]:
    """Return what ``model`` returns in eval mode, in float64, and what its modules ``watched``, by path, return.

    It is left as it was. ``inputs`` are in the order of those of ``graph_module``, its graph.
    """
    trial = copy_module(model)
    put_in_eval_mode(trial)
    seen = watch(trial, watched)
    return run_float64(_as_one_call(trial, model, graph_module), inputs), seen


def watch(model: nn.Module, paths: Collection[str]) -> list[Returned]:
    """Return a list that gets what the modules at ``paths``, and copies of them, return from now on."""
    seen: list[Returned] = []
    for path in paths:
        model.get_submodule(path).register_forward_hook(_noting(path, seen))
    return seen


def _noting(path: str, seen: list[Returned]) -> Callable[..., None]:
    def note(module: nn.Module, args: Any, output: Any) -> None:
        tensors = [one.detach().double() for one in tensors_in(output) if not one.is_complex()]
        sums = [value for one in tensors for value in (one.sum(), one.abs().sum())]
        shapes = tuple(tuple(one.shape) for one in tensors)
        seen.append(Returned(path, current_line(), shapes, torch.tensor([float(one) for one in sums])))

    return note


def _as_one_call(trial: nn.Module, model: nn.Module, graph_module: fx.GraphModule) -> fx.GraphModule:
    """Return a graph that calls ``trial`` as one opaque module, with inputs as ``graph_module`` has them."""
    mark_opaque(trial)
    root = nn.Module()
    root.add_module("model", trial)
    graph = fx.Graph()
    inputs = {name: graph.placeholder(name) for name in input_names(graph_module)}
    args, kwargs = arranged(model, inputs)
    graph.output(graph.call_module("model", args, kwargs))
    return fx.GraphModule(root, graph)


def input_names(graph_module: fx.GraphModule) -> list[str]:
    """Return what the inputs that evaluation has are called, in order."""
    inputs = graph_module.graph.find_nodes(op="placeholder")
    return [str(node.target).lstrip("*") for node in inputs if not node.args]


def arranged(model: nn.Module, inputs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return ``inputs``, by the names that they have in the graph, as the (args, kwargs) of ``model.forward``."""
    args: list[Any] = []
    left = dict(inputs)
    for name, parameter in inspect.signature(model.forward).parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            args += [left.pop(one) for one in list(left) if one.startswith(f"{name}_")]
        elif name not in left or parameter.kind is parameter.KEYWORD_ONLY:
            break
        else:
            args.append(left.pop(name))
    return tuple(args), left
