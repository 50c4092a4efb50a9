"""Read .pt2 files, which torch.export wrote, to look at their graphs.

torch.export.load unpickles what it does not know, and evaluates the text of symbolic sizes: such a file can run any
code. There is no way to read it without.
"""

from __future__ import annotations

import inspect
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from fxprune.errors import LoadError, first_line
from fxprune.facts.shapes import propagate_shapes
from fxprune.ir.nodes import PATH, innermost_module, keep_example_inputs

_PARAMETERS = inspect.signature(torch.export.ExportedProgram.module).parameters
_NO_GUARDS: dict[str, Any] = {"check_guards": False} if "check_guards" in _PARAMETERS else {}  # not in torch 2.6


def load_exported(path: Path, *, trust: bool) -> fx.GraphModule:
    """Read a .pt2 file as a graph of functions under torch's public names, with shapes and module paths.

    Raises LoadError unless ``trust``, and if the file is no such file, cut short, or not one that this torch reads.
    """
    if not path.is_file():
        raise LoadError(f"there is no file {path}")
    if not zipfile.is_zipfile(path):
        raise LoadError(f"{path} is no .pt2 file, or cut short")
    if not trust:
        raise LoadError(f"{path} can run code when it is read; give --trust if you know where it is from")
    try:
        program = torch.export.load(path)
        graph_module = program.module(**_NO_GUARDS)
        inputs, options = program.example_inputs or ((), {})
    except Exception as error:
        raise LoadError(f"torch cannot read {path}: {first_line(error)}") from error
    assert isinstance(graph_module, fx.GraphModule)
    for node in reversed(list(graph_module.graph.nodes)):
        if node.op == "get_attr" and not node.users:  # a norm's counter
            graph_module.graph.erase_node(node)
            continue
        node.meta[PATH] = innermost_module(node)
    graph_module.recompile()
    if inputs and not options:
        keep_example_inputs(graph_module, inputs)
        propagate_shapes(graph_module, inputs)
    for node in graph_module.graph.nodes:
        node.target = _public(node.target)
    return graph_module


def _public(target: Any) -> Any:
    """Return torch's public function for an operator of its core library, which takes the same arguments."""
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return target
    name = target._schema.name.rpartition("::")[2]
    return getattr(functional, name, None) or getattr(torch, name, None) or target
