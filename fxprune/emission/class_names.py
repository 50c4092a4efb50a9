"""The names of the traced model's own classes, by the paths of its modules: emitted classes are named after them."""

from __future__ import annotations

from typing import Any

from torch import fx

from fxprune.ir.node_targets import is_identifier

CLASSES = "fxprune_classes"  # of a graph that was read from a file: the names that it tells
_TORCHS = ("torch.nn.", "torch.ao.nn.", "torch.fx.")


def class_names(graph_module: fx.GraphModule) -> dict[str, str]:
    """Return the names of the classes of the modules whose forwards made the nodes, torch's own left out."""
    found: dict[str, str] = dict(graph_module.meta.get(CLASSES, {}))
    for node in graph_module.graph.nodes:
        for path, kind in (node.meta.get("nn_module_stack") or {}).values():
            if path and path not in found:
                found[str(path)] = _name(kind)
    return {path: name for path, name in found.items() if is_class_name(name)}


def is_class_name(name: Any) -> bool:
    """Say whether emitted source can call a class ``name``."""
    return isinstance(name, str) and is_identifier(name) and name.isascii() and not name.startswith("__")


def _name(kind: Any) -> str:
    full = f"{kind.__module__}.{kind.__qualname__}" if isinstance(kind, type) else str(kind)
    return "" if full.startswith(_TORCHS) else full.rpartition(".")[2]
