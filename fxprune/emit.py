"""Write a graph as a folder that needs torch and safetensors only, and read such a folder back.

    fxprune.emit(graph_module, "out/")

    out/model.py               one plain nn.Module, Model(), and load(), which gives it its weights
    out/weights.safetensors    its state dict, under the traced model's own keys
    out/graph.json             the same graph as data: fxprune reads it without executing model.py

Where the graph calls functions of torchvision, so does ``model.py``.
On request also ``model.pt2`` (torch.export) and ``model.onnx``, with a free batch size.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import fx, nn

from fxprune.arguments import require_arguments
from fxprune.errors import EmitError, LoadError, first_line
from fxprune.facts.shapes import propagate_shapes
from fxprune.files import replacing, write_json, write_text
from fxprune.graph import EXAMPLE_INPUTS, TRACE, example_inputs_of, keep_example_inputs
from fxprune.tracing.notes import ASSUMPTIONS, Assumption, assumptions_of

Format = Literal["pt2", "onnx"]
_EXPORTS: dict[Format, str] = {"pt2": "model.pt2", "onnx": "model.onnx"}
_SOURCE, _WEIGHTS, _GRAPH = "model.py", "weights.safetensors", "graph.json"

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

    What is to be written is first read back and run, and must compute what the graph computes.

    Args:
        graph_module: a graph without layer scales and opaque modules.
        folder: made if it does not exist; existing files of an earlier emit in it are replaced.
        formats: "pt2" for torch.export, "onnx" for ONNX (extra ``onnx``), beside the source.

    Raises:
        EmitError: plain PyTorch cannot express the graph, or :func:`load_emitted` could not read it (names node or
            module), or a file of another origin would be overwritten. Nothing is written then.
    """
    from safetensors.torch import save_file  # this, and what follows, is loaded when something is first emitted

    from fxprune.emission.check import build_source, examples_fit, read_back, require_equal
    from fxprune.emission.codegen import python_source
    from fxprune.emission.constants import examples_to_data
    from fxprune.emission.graph_data import graph_to_data
    from fxprune.emission.state_layout import state_layout

    require_arguments(emit, locals())
    out = Path(folder)
    _require_no_files_of_others(out)
    unknown = [name for name in formats if name not in get_args(Format)]
    if unknown:
        raise EmitError(f"unknown format {unknown[0]!r}; use {' or '.join(get_args(Format))}")
    layout = state_layout(graph_module)
    source = python_source(graph_module.graph, layout, type(graph_module).__name__) + _LOADER
    examples = example_inputs_of(graph_module) if EXAMPLE_INPUTS in graph_module.meta else None
    data = graph_to_data(graph_module.graph, layout)
    data["examples"] = examples_to_data(examples)
    data["trace"] = graph_module.meta.get(TRACE)
    data["assumptions"] = [asdict(assumption) for assumption in assumptions_of(graph_module)]
    again, state = read_back(graph_module, data)
    model = build_source(source, state)
    if examples is not None:
        require_equal(graph_module, again, model, examples)
        model.load_state_dict(state)
        if not examples_fit(again, data["examples"]):
            data["examples"] = None  # random numbers in their place would not do
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / _GRAPH, data, indent=1)  # first: it says whose the others are
    write_text(out / _SOURCE, source)
    with replacing(out / _WEIGHTS) as unfinished:
        save_file(state, unfinished)
        shutil.copymode(out / _SOURCE, unfinished)  # safetensors writes files that only their owner may read
    if formats:
        functional = python_source(graph_module.graph, layout, type(graph_module).__name__, in_place=False)
        _export(build_source(functional, state), example_inputs_of(graph_module), out, formats)
    return out


def _require_no_files_of_others(out: Path) -> None:
    """Raise EmitError if a file would be overwritten that is not that of an emitted model."""
    taken = [name for name in (_SOURCE, _GRAPH, _WEIGHTS, *_EXPORTS.values()) if (out / name).exists()]
    if taken and not is_emitted(out):
        raise EmitError(f"{out / taken[0]} is there and was not written by fxprune; give another folder")


def source_obstacle(graph_module: fx.GraphModule) -> str | None:
    """Return why :func:`emit` cannot write ``graph_module`` as source; None if nothing speaks against it."""
    from fxprune.emission.codegen import python_source
    from fxprune.emission.state_layout import state_layout

    try:
        python_source(graph_module.graph, state_layout(graph_module), type(graph_module).__name__)
    except EmitError as error:
        return str(error)
    return None


def _export(model: nn.Module, examples: tuple[Any, ...], out: Path, formats: Sequence[Format]) -> None:
    inputs = tuple(x.cpu() if isinstance(x, torch.Tensor) else x for x in examples)
    inputs = tuple(torch.cat([x, x]) if isinstance(x, torch.Tensor) and len(x) == 1 else x for x in inputs)
    batch = torch.export.Dim.DYNAMIC
    shapes = tuple({0: batch} if isinstance(x, torch.Tensor) and x.dim() else None for x in inputs)
    try:
        program = torch.export.export(model, inputs, dynamic_shapes=shapes)
        if "pt2" in formats:
            torch.export.save(program, out / _EXPORTS["pt2"])
        if "onnx" in formats:
            exported = torch.onnx.export(program, dynamo=True, verbose=False)
            assert exported is not None
            exported.save(str(out / _EXPORTS["onnx"]))
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
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from fxprune.emission.constants import examples_from_data
    from fxprune.emission.graph_data import graph_from_data

    require_arguments(load_emitted, locals())
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
        graph_module.meta[ASSUMPTIONS] = tuple(Assumption(**entry) for entry in data.get("assumptions", ()))
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise LoadError(f"{root / _GRAPH} is damaged: its examples or assumptions: {first_line(error)}") from error
    if isinstance(data.get("trace"), str):
        graph_module.meta[TRACE] = data["trace"]
    if inputs is not None:
        keep_example_inputs(graph_module, inputs)
        propagate_shapes(graph_module, inputs)
    return graph_module.eval()
