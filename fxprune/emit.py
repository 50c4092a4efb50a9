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
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import fx, nn

from fxprune.codegen import python_source
from fxprune.errors import EmitError, LoadError
from fxprune.facts.shapes import propagate_shapes
from fxprune.graph import EXAMPLE_INPUTS, example_inputs_of
from fxprune.graph_data import graph_from_data, graph_to_data
from fxprune.verify import TOLERANCE, difference, run_float64

Format = Literal["pt2", "onnx"]
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
    source = python_source(graph_module, title) + _LOADER
    state = _portable_state(graph_module)
    data = graph_to_data(graph_module)
    examples = graph_module.meta.get(EXAMPLE_INPUTS)
    data["example_shapes"] = [
        {"shape": list(x.shape), "dtype": str(x.dtype)} if isinstance(x, torch.Tensor) else None
        for x in examples or ()
    ]
    model = _build(source, state, title)
    if examples is not None:
        _require_equal(graph_module, model, examples)
    out.mkdir(parents=True, exist_ok=True)
    _write(out / _SOURCE, source.encode())
    _write(out / _GRAPH, (json.dumps(data, indent=1) + "\n").encode())
    unfinished = out / f"{_WEIGHTS}.new"
    save_file(state, unfinished)
    shutil.copymode(out / _SOURCE, unfinished)  # safetensors writes files that only their owner may read
    os.replace(unfinished, out / _WEIGHTS)
    if formats:
        _export(model, example_inputs_of(graph_module), out, formats)
    return out


def _write(path: Path, content: bytes) -> None:
    unfinished = path.with_name(path.name + ".new")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


def _portable_state(graph_module: fx.GraphModule) -> dict[str, torch.Tensor]:
    """Return the state dict on the CPU, every entry with memory of its own, unused and unsaved buffers included."""
    state = {**dict(graph_module.named_buffers()), **graph_module.state_dict()}
    return {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}


def _build(source: str, state: dict[str, torch.Tensor], title: str) -> nn.Module:
    """Execute the source that was just written from the graph, and give the model its weights."""
    namespace: dict[str, Any] = {"__name__": "fxprune_emitted"}
    try:
        exec(compile(source, "model.py", "exec"), namespace)
        model: nn.Module = namespace["Model"]()
        for name in [n for n in state if n not in model.state_dict()]:
            if name in dict(model.named_buffers()):
                del state[name]  # a buffer that its layer computes itself
        model.load_state_dict(state)
    except Exception as error:
        raise EmitError(f"{title}: the source does not build: {str(error).splitlines()[0]}") from error
    return model.eval()


def _require_equal(graph_module: fx.GraphModule, model: nn.Module, examples: Sequence[Any]) -> None:
    expected, _ = run_float64(graph_module, examples)
    inputs = [x.cpu() if isinstance(x, torch.Tensor) else x for x in examples]
    written, _ = run_float64(fx.symbolic_trace(model), inputs)
    absolute, relative = difference([t.cpu() for t in expected], written)
    if not relative <= TOLERANCE:
        raise EmitError(f"the emitted source computes something else (by {absolute:.2g}); please report it")


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
        raise EmitError(f"torch cannot export the model: {str(error).strip().splitlines()[0]}") from error


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
        raise LoadError(f"{root} is not a whole emitted folder: {str(error).splitlines()[0]}") from error
    graph_module = graph_from_data(data)
    try:
        graph_module.load_state_dict(state)
    except RuntimeError as error:
        raise LoadError(f"{root / _WEIGHTS} does not fit {_GRAPH}: {str(error).splitlines()[-1].strip()}") from error
    shapes = data.get("example_shapes") or []
    if shapes and all(shapes):
        generator = torch.Generator().manual_seed(0)
        inputs = tuple(_example(entry, generator) for entry in shapes)
        graph_module.meta[EXAMPLE_INPUTS] = inputs
        propagate_shapes(graph_module, inputs)
    return graph_module.eval()


def _example(entry: dict[str, Any], generator: torch.Generator) -> torch.Tensor:
    dtype = getattr(torch, str(entry["dtype"]).removeprefix("torch."))
    if not dtype.is_floating_point:
        return torch.zeros(entry["shape"], dtype=dtype)
    return torch.randn(entry["shape"], generator=generator).to(dtype)
