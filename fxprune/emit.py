"""Write a graph as a folder that needs torch and safetensors only, and read such a folder back.

    fxprune.emit(graph_module, "out/")

    out/model.py               one plain nn.Module, Model(), and load(), which gives it its weights
    out/weights.safetensors    its state dict, under the traced model's own keys
    out/graph.json             the same graph as data: fxprune reads it without executing model.py

On request also ``model.pt2`` (torch.export) and ``model.onnx``, with a free batch size.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import fx, nn
from torch.fx.node import map_aggregate

from fxprune.codegen import python_source
from fxprune.constants import examples_from_data, examples_to_data
from fxprune.errors import EmitError, LoadError, first_line
from fxprune.facts.shapes import propagate_shapes
from fxprune.files import replacing, write_json, write_text
from fxprune.graph import EXAMPLE_INPUTS, attribute, example_inputs_of
from fxprune.graph_data import graph_from_data, graph_to_data
from fxprune.state_layout import state_layout
from fxprune.verify import TOLERANCE, difference, run_float64

Format = Literal["pt2", "onnx"]
_SOURCE, _WEIGHTS, _GRAPH = "model.py", "weights.safetensors", "graph.json"
_SAME_OPERATIONS = 1e-6  # in the model's own dtype

_LOADER = '''

def load(folder=None):
    """Return Model() with the weights beside this file (or in ``folder``), in eval mode."""
    import pathlib

    from safetensors.torch import load_file

    folder = pathlib.Path(folder or pathlib.Path(__file__).parent)
    model = Model()
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    return model.eval()
'''


def emit(graph_module: fx.GraphModule, folder: str | os.PathLike[str], *, formats: Sequence[Format] = ()) -> Path:
    """Write ``graph_module`` to ``folder`` as plain PyTorch and return the folder.

    The source is built and run before it is written: in float64 its outputs must equal the graph's.

    Args:
        graph_module: a graph without ResConvs.
        folder: made if it does not exist; existing files of an earlier emit in it are replaced.
        formats: "pt2" for torch.export, "onnx" for ONNX (extra ``onnx``), beside the source.

    Raises:
        EmitError: plain PyTorch cannot express the graph (names node or module).
    """
    out = Path(folder)
    unknown = [name for name in formats if name not in ("pt2", "onnx")]
    if unknown:
        raise EmitError(f"unknown format {unknown[0]!r}; use pt2 or onnx")
    title = f"{type(graph_module).__name__}, written by fxprune as plain PyTorch."
    layout = state_layout(graph_module)
    source = python_source(graph_module.graph, layout, title) + _LOADER
    examples = graph_module.meta.get(EXAMPLE_INPUTS)
    data = {**graph_to_data(graph_module.graph, layout), "examples": examples_to_data(examples)}
    with torch.random.fork_rng(devices=[]):  # layers are built with random weights
        again, state = _read_back(graph_module, json.loads(json.dumps(data)))
        model = _build(source, state)
    if examples is not None:
        _require_equal(graph_module, again, model, examples)
        model.load_state_dict(state)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / _SOURCE, source)
    write_json(out / _GRAPH, data, indent=1)
    with replacing(out / _WEIGHTS) as unfinished:
        save_file(state, unfinished)
        shutil.copymode(out / _SOURCE, unfinished)  # safetensors writes files that only their owner may read
    if formats:
        _export(model, example_inputs_of(graph_module), out, formats)
    return out


def _read_back(graph_module: fx.GraphModule, data: dict[str, Any]) -> tuple[fx.GraphModule, dict[str, torch.Tensor]]:
    """Return the graph as :func:`load_emitted` will give it, and the weights to be written (on the CPU)."""
    try:
        again = graph_from_data(data)
    except LoadError as error:
        raise EmitError(f"the graph could not be read back: {error}") from error
    for name, tensor in _tensors(again).items():
        own = attribute(graph_module, name)
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
    again.load_state_dict(state)
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


def _build(source: str, state: dict[str, torch.Tensor]) -> nn.Module:
    """Execute the source that was just written from the graph, and give the model its weights."""
    namespace: dict[str, Any] = {"__name__": "fxprune_emitted"}
    try:
        exec(compile(source, "model.py", "exec"), namespace)
        model: nn.Module = namespace["Model"]()
        model.load_state_dict(state)
    except Exception as error:
        raise EmitError(f"the emitted source does not build: {first_line(error)}; please report it") from error
    return model.eval()


def _require_equal(
    graph_module: fx.GraphModule, again: fx.GraphModule, model: nn.Module, examples: Sequence[Any]
) -> None:
    """Hold the graph that is read back to the given one in float64, and the source to the graph that is read back."""
    inputs = map_aggregate(tuple(examples), lambda x: x.cpu() if isinstance(x, torch.Tensor) else x)
    expected, _ = run_float64(graph_module, examples)
    absolute, relative = difference([t.cpu() for t in expected], run_float64(again, inputs)[0])
    if not relative <= TOLERANCE:
        raise EmitError(f"the graph computes something else when read back (by {absolute:.2g}); please report it")
    try:
        absolute, relative = difference(_run(again, inputs), _run(model, inputs))
    except Exception as error:
        raise EmitError(f"the emitted source does not run: {first_line(error)}; please report it") from error
    if not relative <= _SAME_OPERATIONS:
        raise EmitError(f"the emitted source computes something else (by {absolute:.2g}); please report it")


def _run(model: nn.Module, inputs: Sequence[Any]) -> list[torch.Tensor]:
    copies = map_aggregate(tuple(inputs), lambda x: x.detach().clone() if isinstance(x, torch.Tensor) else x)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        outputs = model(*copies)
    return tensors_of(vars(outputs) if is_dataclass(outputs) else outputs)


def _export(model: nn.Module, examples: tuple[Any, ...], out: Path, formats: Sequence[Format]) -> None:
    inputs = tuple(x.cpu() if isinstance(x, torch.Tensor) else x for x in examples)
    inputs = tuple(torch.cat([x, x]) if isinstance(x, torch.Tensor) and len(x) == 1 else x for x in inputs)
    batch = torch.export.Dim.DYNAMIC
    shapes = tuple({0: batch} if isinstance(x, torch.Tensor) and x.dim() else None for x in inputs)
    try:
        program = torch.export.export(model, inputs, dynamic_shapes=shapes)
        if "pt2" in formats:
            torch.export.save(program, out / "model.pt2")
        if "onnx" in formats:
            exported = torch.onnx.export(program, dynamo=True, verbose=False)
            assert exported is not None
            exported.save(str(out / "model.onnx"))
    except ImportError as error:
        raise EmitError(f"ONNX needs {error.name}; pip install 'fxprune[onnx]'") from error
    except Exception as error:
        raise EmitError(f"torch cannot export the model: {first_line(error)}") from error


def is_emitted(folder: Path) -> bool:
    """Say whether ``folder`` looks like one that :func:`emit` wrote."""
    return folder.is_dir() and (folder / _GRAPH).is_file()


def load_emitted(folder: str | os.PathLike[str]) -> fx.GraphModule:
    """Read a folder that :func:`emit` wrote, as a GraphModule in eval mode; no code in it is executed.

    Raises LoadError if a file is missing, cut short, or names what it may not.
    """
    root = Path(folder)
    try:
        data = json.loads((root / _GRAPH).read_text())
        state = load_file(root / _WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise LoadError(f"{root} is not a whole emitted folder: {first_line(error)}") from error
    with torch.random.fork_rng(devices=[]):
        graph_module = graph_from_data(data)
    try:
        graph_module.load_state_dict(state)
    except RuntimeError as error:
        raise LoadError(f"{root / _WEIGHTS} does not fit {_GRAPH}: {str(error).splitlines()[-1].strip()}") from error
    try:
        inputs = examples_from_data(data.get("examples"))
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise LoadError(f"{root / _GRAPH} is damaged: its examples: {first_line(error)}") from error
    if inputs is not None:
        graph_module.meta[EXAMPLE_INPUTS] = inputs
        propagate_shapes(graph_module, inputs)
    return graph_module.eval()
