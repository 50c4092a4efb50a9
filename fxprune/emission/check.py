"""What emit is about to write, read back and run first: no file that cannot be read, or that computes otherwise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from fxprune.emission.constants import examples_from_data
from fxprune.emission.graph_data import give_weights, graph_from_data
from fxprune.errors import EmitError, LoadError, first_line
from fxprune.facts.shapes import propagate_shapes
from fxprune.ir.copies import copy_module
from fxprune.ir.node_targets import attribute
from fxprune.ir.pytrees import copy_tensors, map_tensors, tensors_in
from fxprune.rewriting.float64 import run_float64
from fxprune.rewriting.verify import TOLERANCE, difference

_SAME_OPERATIONS = 1e-6  # the source does what the graph does, in the same order and dtype


def read_back(graph_module: fx.GraphModule, data: dict[str, Any]) -> tuple[fx.GraphModule, dict[str, torch.Tensor]]:
    """Return the graph as ``load_emitted`` will give it, and the weights to be written (on the CPU).

    Raises EmitError, naming the tensor, where it would give something else.
    """
    try:
        data = json.loads(json.dumps(data))
        again = graph_from_data(data)
    except LoadError as error:
        raise EmitError(f"the graph could not be read back: {error}") from error
    for name, tensor in _tensors(again).items():
        own = attribute(graph_module, name)
        if own is None:
            raise EmitError(f"{name} is None, but a new layer of its class has one; it cannot be emitted")
        found, wanted = _kind(tensor), _kind(own)
        if found != wanted:
            raise EmitError(f"{name} is {wanted}, but a new one is {found}; it cannot be emitted")
    for path in {name.rpartition(".")[0] for name in _tensors(again)}:
        extra = _names(graph_module.get_submodule(path)) - _names(again.get_submodule(path))
        if extra and any(path == layer or path.startswith(f"{layer}.") for layer in data["layers"]):
            raise EmitError(f"{path} also holds {min(extra)}, which torch.nn does not give it; it cannot be emitted")
    state = {
        name: attribute(graph_module, name).detach().cpu().clone(memory_format=torch.contiguous_format)
        for name in again.state_dict()
    }
    try:
        give_weights(again, data, {name: tensor.clone() for name, tensor in state.items()})  # runs write into them
    except LoadError as error:
        raise EmitError(f"the graph could not be read back: {error}") from error
    return again.eval(), state


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _names(module: nn.Module) -> set[str]:
    held = {**module._parameters, **module._buffers}
    return {name for name, tensor in held.items() if tensor is not None}


def _kind(tensor: torch.Tensor) -> str:
    trainable = "trainable" if tensor.requires_grad else "frozen"
    return f"{trainable} {str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


def build_source(source: str, state: dict[str, torch.Tensor]) -> nn.Module:
    """Execute the source that was just written from the graph, and give the model its weights."""
    namespace: dict[str, Any] = {"__name__": "fxprune_emitted"}
    try:
        exec(compile(source, "model.py", "exec", dont_inherit=True), namespace)
        with torch.random.fork_rng(devices=[]):
            model: nn.Module = namespace["Model"]()
        model.load_state_dict(state)
    except Exception as error:
        raise EmitError(f"the emitted source does not build: {first_line(error)}; please report it") from error
    return model.eval()


def require_equal(
    graph_module: fx.GraphModule, again: fx.GraphModule, model: nn.Module, examples: Sequence[Any]
) -> None:
    """Hold the graph that is read back to the given one in float64, and the source to the graph that is read back."""
    inputs = map_tensors(tuple(examples), torch.Tensor.cpu)
    expected = run_float64(graph_module, examples)
    try:
        read = run_float64(again, inputs)
        ours, theirs = _run(again, inputs), _run(model, inputs)
    except Exception as error:
        raise EmitError(f"what would be written does not run: {first_line(error)}") from error
    absolute, relative = difference([t.cpu() for t in expected], read)
    if not relative <= TOLERANCE:
        raise EmitError(f"the graph computes something else when read back (by {absolute:.2g}); please report it")
    absolute, relative = difference(ours, theirs)
    if not relative <= _SAME_OPERATIONS:
        raise EmitError(f"the emitted source computes something else (by {absolute:.2g}); please report it")


def require_equal_in_train_mode(again: fx.GraphModule, model: nn.Module, examples: Sequence[Any]) -> None:
    """Hold the source to the graph that is read back in train mode, where that takes the inputs."""
    inputs = map_tensors(tuple(examples), torch.Tensor.cpu)
    try:
        expected = _run(copy_module(again).train(), inputs)
    except Exception:
        return  # norms want more values, or it refuses
    absolute, relative = difference(expected, _run(copy_module(model).train(), inputs))
    if not relative <= _SAME_OPERATIONS:
        raise EmitError(f"the emitted source trains something else (by {absolute:.2g}); please report it")


def _run(model: nn.Module, inputs: Sequence[Any]) -> list[torch.Tensor]:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return tensors_in(model(*copy_tensors(tuple(inputs))))


def examples_fit(again: fx.GraphModule, data: Any) -> bool:
    """Say whether the graph takes the inputs that ``load_emitted`` makes up from ``data``; work its shapes out."""
    try:
        inputs = examples_from_data(data)
        if inputs is not None:
            propagate_shapes(again, inputs)
    except Exception:
        return False
    return True
