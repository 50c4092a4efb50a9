"""A graph as JSON, and back, without executing code from the file.

Only layers that torch.nn exports, and what :mod:`fxprune.emission.vocabulary` holds, can be named in such a file;
anything else is refused when it is read.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import fx, nn

from fxprune.by_mode import MODE, CodeByMode, by_mode, is_by_mode
from fxprune.emission.constants import decode, encode
from fxprune.emission.layer_spec import LayerSpec, build_layer
from fxprune.emission.records import Record, record_of
from fxprune.emission.state_layout import StateLayout
from fxprune.emission.vocabulary import function_named, name_of, refused_attribute, refused_method
from fxprune.errors import EmitError, LoadError, first_line
from fxprune.graph import ORIGIN, PASSES, PATH, place
from fxprune.node_targets import attribute, set_attribute, set_buffer
from fxprune.written import Written

SCHEMA = 2
_OPS = ("placeholder", "get_attr", "call_module", "call_function", "call_method", "output")


def graph_to_data(graph: fx.Graph, layout: StateLayout) -> dict[str, Any]:
    """Return the graph, its layers and its tensors as plain JSON data; raises EmitError, naming the node."""
    return {
        "schema": SCHEMA,
        "layers": {
            path: {**asdict(spec), "arguments": {name: encode(value) for name, value in spec.arguments.items()}}
            for path, spec in layout.layers.items()
        },
        "tensors": {path: asdict(tensor) for path, tensor in layout.tensors.items()},
        "ties": layout.ties,
        "nodes": [_node_to_data(node) for node in graph.nodes],
    }


def _node_to_data(node: fx.Node) -> dict[str, Any]:
    try:
        return {
            "name": node.name,
            "op": node.op,
            "target": _function_to_data(node.target) if node.op == "call_function" else node.target,
            "args": [encode(a) for a in node.args],
            "kwargs": {name: encode(v) for name, v in node.kwargs.items()},
            "path": node.meta.get(PATH, ""),
            "origin": list(node.meta.get(ORIGIN, ())),
            "passes": list(node.meta.get(PASSES, ())),
            **({"mode": node.meta[MODE]} if MODE in node.meta else {}),
        }
    except EmitError as error:
        raise EmitError(f"{place(node)}: {error}") from error


def _function_to_data(function: Any) -> Any:
    if function is getattr:
        return "getattr"
    if function is by_mode:
        return "by_mode"
    if isinstance(function, Written):
        return {"written": _function_to_data(function.function), "position": function.position}
    record = record_of(function)
    if record is not None:
        return {"record": asdict(record)}
    name = name_of(function)
    if name is None:
        raise EmitError(f"it calls {getattr(function, '__name__', function)!r}, which is no function of torch")
    return name


def graph_from_data(data: Any) -> fx.GraphModule:
    """Rebuild a GraphModule with uninitialised weights; raises LoadError for anything but a graph of ours."""
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else None
        newer = "; update fxprune" if isinstance(found, int) and found > SCHEMA else ""
        raise LoadError(f"graph.json has schema {found}, this fxprune reads {SCHEMA}{newer}")
    try:
        return _rebuild(data)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, EmitError) as error:
        raise LoadError(f"graph.json is damaged: {type(error).__name__}: {first_line(error)}") from error


def _rebuild(data: dict[str, Any]) -> fx.GraphModule:
    root = fx.GraphModule(nn.Module(), fx.Graph(), class_name="Model")
    for path, fields in data["layers"].items():  # paths are checked where nodes name them
        arguments = {name: decode(value) for name, value in fields["arguments"].items()}
        changed = {
            "arguments": arguments,
            "positional": tuple(fields["positional"]),
            "frozen": tuple(fields["frozen"]),
        }
        set_attribute(root, path, build_layer(LayerSpec(**{**fields, **changed})))
    for path, tensor in data["tensors"].items():
        value = torch.empty(tensor["shape"], dtype=decode({"torch": tensor["dtype"]}))
        if tensor["parameter"]:
            set_attribute(root, path, nn.Parameter(value, requires_grad=tensor["trainable"]))
        else:
            set_buffer(root, path, value)
    for name, known in data["ties"].items():
        same = attribute(root, known)
        if not isinstance(same, (nn.Module, torch.Tensor)):
            raise ValueError(f"{name} is tied to {known}, a {type(same).__name__}")
        set_attribute(root, name, same)
    records: dict[Record, type[Any]] = {}
    nodes: dict[str, fx.Node] = {}
    graph = fx.Graph()
    for entry in data["nodes"]:
        _require_harmless_names(entry)
        args = tuple(decode(a, nodes) for a in entry["args"])
        kwargs = {name: decode(v, nodes) for name, v in entry["kwargs"].items()}
        target = entry["target"]
        if entry["op"] == "call_function":
            target = _function_from_data(target, args, records)
        elif entry["op"] == "get_attr" and target != "training":
            if not isinstance(attribute(root, target), torch.Tensor):
                raise LoadError(f"graph.json reads {target!r}, which is no tensor")
        elif entry["op"] == "call_method" and (refused := refused_method(target, args)):
            raise LoadError(f"graph.json calls {target!r}, {refused}")
        node = graph.create_node(entry["op"], target, args, kwargs, name=entry["name"])
        node.meta = {PATH: entry["path"], ORIGIN: tuple(entry["origin"]), PASSES: tuple(entry["passes"])}
        if entry.get("mode") in ("train", "eval"):
            node.meta[MODE] = entry["mode"]
        nodes[entry["name"]] = node
    if any(is_by_mode(node) or MODE in node.meta for node in graph.nodes):
        graph.set_codegen(CodeByMode())
    graph.lint()
    return fx.GraphModule(root, graph, class_name="Model")


def _function_from_data(target: Any, args: tuple[Any, ...], records: dict[Record, type[Any]]) -> Callable[..., Any]:
    if isinstance(target, dict) and "written" in target:
        return Written(function_named(target["written"]), int(target["position"]))
    if isinstance(target, dict):
        fields = target["record"]
        record = Record(fields["kind"], fields["name"], tuple(fields["fields"]))
        return records.setdefault(record, record.make())
    if target == "getattr":
        name = args[1] if len(args) == 2 else None
        if refused := refused_attribute(name):
            raise LoadError(f"graph.json reads an attribute {name!r}, {refused}")
        return getattr
    return by_mode if target == "by_mode" else function_named(target)


def _require_harmless_names(entry: dict[str, Any]) -> None:
    """Refuse names that would be code: torch.fx and the emitter write them into the source that they execute."""
    names = [entry["name"], *entry["kwargs"]]
    if entry["op"] == "placeholder":
        target = str(entry["target"])
        names.append(target.removeprefix("*").removeprefix("*"))
    paths = [entry["path"]]
    if entry["op"] in ("call_module", "get_attr"):
        paths.append(entry["target"])
    bad = [name for name in names if not str(name).isidentifier() or keyword.iskeyword(str(name))]
    bad += [path for path in paths if not str(path).isprintable() or any(c in str(path) for c in '"\\')]
    if bad or entry["op"] not in _OPS:
        raise LoadError(f"graph.json has a node with the forbidden name or kind {(bad or [entry['op']])[0]!r}")
