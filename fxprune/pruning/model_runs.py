"""A model, run in float64 as a graph of it is, and watched: which modules it calls, where, and what they return."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from fxprune.ir.by_mode import TRAIN_INPUTS, has_modes
from fxprune.ir.copies import copy_module
from fxprune.ir.module_tree import every_module, mark_opaque, put_in_eval_mode, set_flags
from fxprune.ir.nodes import as_taken_now, example_inputs_of, graphs_of
from fxprune.ir.pytrees import copy_tensors, tensors_in
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
    seen = _watch(trial, {path: path for path in watched})
    return run_float64(_as_one_call(trial, graph_module), inputs), seen


def run_graph_float64(
    graph_module: fx.GraphModule, inputs: Sequence[Any], watched: Mapping[str, str]
) -> list[Returned]:
    """Return what the modules ``watched`` of a graph, by path with the name that they go by, return in float64."""
    trial = copy_module(graph_module)
    assert isinstance(trial, fx.GraphModule)
    seen = _watch(trial, watched)
    run_float64(trial, inputs)
    return seen


def _watch(model: nn.Module, names: Mapping[str, str]) -> list[Returned]:
    """Return a list that gets what the modules at some paths, and copies of them, return from now on."""
    seen: list[Returned] = []
    for path, name in names.items():
        model.get_submodule(path).register_forward_hook(_noting(name, seen))
    return seen


def _noting(path: str, seen: list[Returned]) -> Callable[..., None]:
    def note(module: nn.Module, args: Any, output: Any) -> None:
        tensors = [one.detach().double() for one in tensors_in(output) if not one.is_complex()]
        sums = [value for one in tensors for value in (one.sum(), one.abs().sum())]
        shapes = tuple(tuple(one.shape) for one in tensors)
        seen.append(Returned(path, current_line(), shapes, torch.tensor([float(one) for one in sums])))

    return note


def _as_one_call(trial: nn.Module, graph_module: fx.GraphModule) -> fx.GraphModule:
    """Return a graph that calls ``trial`` as one opaque module, with inputs as ``graph_module`` has them."""
    mark_opaque(trial)
    root = nn.Module()
    root.add_module("model", trial)
    graph = fx.Graph()
    inputs = {name: graph.placeholder(name) for name in input_names(graph_module)}
    args, kwargs = arranged(trial, inputs)
    graph.output(graph.call_module("model", args, kwargs))
    return fx.GraphModule(root, graph)


def train_error(model: nn.Module, graph_module: fx.GraphModule) -> Exception | None:
    """Return what ``model`` raises in train mode on inputs that ``graph_module``, its graph, takes; else None.

    Only where the graph has other nodes for train mode: auxiliary heads, say. Both are left as they were.
    """
    if not any(has_modes(graph.graph) for _, graph in graphs_of(graph_module)):
        return None
    inputs = as_taken_now(graph_module, graph_module.meta.get(TRAIN_INPUTS) or example_inputs_of(graph_module))
    args, kwargs = arranged(model, dict(zip(input_names(graph_module, training=True), inputs, strict=False)))
    if _error_in_training(graph_module, inputs, {}) is None:
        return _error_in_training(model, args, kwargs)
    return None


def _error_in_training(model: nn.Module, args: Any, kwargs: Any) -> Exception | None:
    trial = copy_module(model)
    set_flags(every_module(trial), True)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            trial(*copy_tensors(tuple(args)), **copy_tensors(kwargs))
        except Exception as error:
            return error
    return None


def input_names(graph_module: fx.GraphModule, *, training: bool = False) -> list[str]:
    """Return what the inputs are called, in order, those that ``training`` alone has only if asked for."""
    inputs = graph_module.graph.find_nodes(op="placeholder")
    return [str(node.target).lstrip("*") for node in inputs if training or not node.args]


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
