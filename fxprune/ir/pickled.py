"""What a pickle of a graph holds, and the graph made from it: the same nodes and notes, over the same modules.

torch.fx pickles the source of ``forward`` and traces that again where it is read: ``self.training`` becomes what it
was then, sizes that Python asks for cannot be traced, and every note is lost.
"""

from __future__ import annotations

import pickle
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from fxprune.errors import FxpruneError, LoadError
from fxprune.ir.nodes import place
from fxprune.ir.written_calls import Written

_VERSION = 1
_OWN = vars(fx.GraphModule(nn.Module(), fx.Graph())).keys() - vars(nn.Module()).keys() - {"meta"}
_NOTES = ("tensor_meta", "stack_trace")  # of torch's own, beside those of fxprune


@dataclass(frozen=True)
class _Value:
    """Stands for what the node at ``index`` computes."""

    index: int


@dataclass(frozen=True)
class _Named:
    """A function or a constant of torch by its name; ``position``: see :class:`Written`."""

    name: str
    position: int | None = None

    def found(self) -> Any:
        """Return what has the name; raises LoadError if there is none."""
        try:
            value = pkgutil.resolve_name(self.name)
        except (ImportError, AttributeError, ValueError) as error:
            raise LoadError(f"the graph that is read uses {self.name}, which is not there: {error}") from error
        return value if self.position is None else Written(value, self.position)


def to_pickle(graph_module: fx.GraphModule) -> dict[str, Any]:
    """Return what pickle may write in the place of ``graph_module``.

    Raises FxpruneError, naming the node, if it calls a function that cannot be imported by a name.
    """
    graph = graph_module.graph
    places = {node: _Value(index) for index, node in enumerate(graph.nodes)}

    def leaf(part: Any) -> Any:
        return places[part] if isinstance(part, fx.Node) else _constant(part)

    return {
        "version": _VERSION,
        "torch": torch.__version__,
        "name": type(graph_module).__name__,
        "attributes": {name: value for name, value in vars(graph_module).items() if name not in _OWN},
        "nodes": [
            (
                node.name,
                node.op,
                _named(node) if node.op == "call_function" else node.target,
                *(_mapped(part, leaf) for part in (node.args, node.kwargs)),
                _notes(node),
            )
            for node in graph.nodes
        ],
        "codegen": None if type(graph._codegen) is fx.graph.CodeGen else graph._codegen,
    }


def _named(node: fx.Node) -> Any:
    """Return what names the function that ``node`` calls, or itself where pickle can name it."""
    target: Any = node.target
    function, position = (target.function, target.position) if isinstance(target, Written) else (target, None)
    name = fx.node._get_qualified_name(function)
    try:
        if pkgutil.resolve_name(name) is function:
            return _Named(name, position)
    except (ImportError, AttributeError, ValueError):
        pass
    if not _can_be_pickled(function):
        raise FxpruneError(
            f"the graph cannot be saved: {place(node)} calls {name}, which cannot be imported by that name; "
            "define it at the top of a module"
        )
    return target


def _notes(node: fx.Node) -> dict[str, Any]:
    known = {key: value for key, value in node.meta.items() if key.startswith("fxprune_") or key in _NOTES}
    notes = {key: value if type(value) is str else _mapped(value, _constant) for key, value in known.items()}
    return {key: value for key, value in notes.items() if type(value) is str or _can_be_pickled(value)}


def _constant(value: Any) -> Any:
    """Return ``value``; a memory format, which torch.save cannot write, by its name."""
    return _Named(str(value)) if isinstance(value, torch.memory_format) else value


def _mapped(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """Return a nest of tuples, lists, dicts and slices with what ``leaf`` makes of all else in it."""
    if isinstance(value, torch.Size):
        return value
    if isinstance(value, tuple):
        parts = [_mapped(part, leaf) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list):
        return [_mapped(part, leaf) for part in value]
    if isinstance(value, dict):
        return {key: _mapped(part, leaf) for key, part in value.items()}
    if isinstance(value, slice):
        return slice(*(_mapped(part, leaf) for part in (value.start, value.stop, value.step)))
    return leaf(value)


def _can_be_pickled(value: Any) -> bool:
    try:
        pickle.dumps(value, protocol=2)  # that of torch.save
    except Exception:
        return False
    return True


def from_pickle(kind: type[fx.GraphModule], content: dict[str, Any]) -> fx.GraphModule:
    """Return the graph that :func:`to_pickle` was given, as a ``kind`` of GraphModule.

    Raises LoadError if another version of fxprune wrote it.
    """
    if content.get("version") != _VERSION:
        raise LoadError(
            f"the graph that is read has version {content.get('version')}, this fxprune reads {_VERSION}; "
            "read it with the version that wrote it, and emit it"
        )
    graph = fx.Graph()
    nodes: list[fx.Node] = []

    def leaf(part: Any) -> Any:
        if isinstance(part, _Value):
            return nodes[part.index]
        return part.found() if isinstance(part, _Named) else part

    for name, op, target, args, kwargs, notes in content["nodes"]:
        node = graph.create_node(op, leaf(target), _mapped(args, leaf), _mapped(kwargs, leaf), name=name)
        node.meta.update({key: _mapped(value, leaf) for key, value in notes.items()})
        nodes.append(node)
    if content["codegen"] is not None:
        graph.set_codegen(content["codegen"])
    graph_module = kind(nn.Module(), fx.Graph(), class_name=content["name"])
    vars(graph_module).update(content["attributes"])
    graph_module.graph = graph
    return graph_module
