"""A graph as JSON, and back, without executing code from the file.

Only layers that torch.nn exports, and what :mod:`fxprune.emission.vocabulary` holds, can be named in such a file;
anything else is refused when it is read.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import torch
from torch import fx, nn

from fxprune.emission.class_names import CLASSES, is_class_name
from fxprune.emission.constants import decode, encode, metadata_from_data
from fxprune.emission.layer_spec import LayerSpec, build_layer
from fxprune.emission.records import Record, record_of
from fxprune.emission.seal import SCHEMA, require_bounded
from fxprune.emission.state_layout import StateLayout
from fxprune.emission.vocabulary import function_named, name_of, refused_attribute, refused_method
from fxprune.errors import EmitError, LoadError, first_line
from fxprune.facts.shapes import META
from fxprune.ir.by_mode import MODE, CodeByMode, by_mode, is_by_mode
from fxprune.ir.folded_factors import FACTOR
from fxprune.ir.lazy_graph_module import LazyGraphModule
from fxprune.ir.node_targets import attribute, set_attribute, set_buffer
from fxprune.ir.nodes import ORIGIN, PASSES, PATH, place
from fxprune.ir.written_calls import Written

_TABLES = frozenset(("", *vars(nn.Module())))
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
            **({"factor": node.meta[FACTOR]} if FACTOR in node.meta else {}),
        }
    except EmitError as error:
        raise EmitError(f"{place(node)}: {error}") from error


def tell_values(data: dict[str, Any], graph: fx.Graph) -> None:
    """Write into ``data``, made from ``graph``, what is known of its values: shapes, dtypes, sizes.

    Nothing is written of a value that data cannot say.
    """
    for entry, node in zip(data["nodes"], graph.nodes, strict=True):
        with suppress(EmitError):
            entry["value"] = encode(node.meta[META])


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
    """Rebuild a GraphModule whose weights are on the meta device, where they take no memory.

    Nothing in ``data`` is run: what it says of values is taken for granted. :func:`give_weights` makes it whole.
    Raises LoadError for anything but a graph of ours.
    """
    require_bounded(data)
    try:
        with torch.device("meta"):
            return _rebuild(data)
    except LoadError:
        raise
    except Exception as error:  # whatever a damaged file may cause
        raise LoadError(f"graph.json is damaged: {type(error).__name__}: {first_line(error)}") from error


def give_weights(graph_module: fx.GraphModule, data: Any, state: dict[str, torch.Tensor]) -> None:
    """Let ``graph_module``, made from ``data``, hold ``state``, if it fits; raises LoadError if they do not.

    Numbers that the source alone reads from the file, the graph has itself.
    """
    own = graph_module.state_dict()
    apart = set(data.get("scales", ())) - own.keys()
    state = {name: tensor for name, tensor in state.items() if name not in apart}
    odd = sorted(own.keys() ^ state.keys())
    odd += [name for name in own if not odd and _form(own[name]) != _form(state[name])]
    if odd:
        there = f"of {_form(state[odd[0]])}" if odd[0] in state else "missing"
        wanted = f"of {_form(own[odd[0]])}" if odd[0] in own else "unknown"
        raise LoadError(f"weights.safetensors does not fit graph.json: {odd[0]} is {there} there and {wanted} here")
    graph_module.load_state_dict(state, assign=True)
    for name, known in data["ties"].items():
        set_attribute(graph_module, name, attribute(graph_module, known))
    left = [name for name, tensor in graph_module.named_buffers() if tensor.is_meta]
    if left:
        raise LoadError(f"weights.safetensors does not fit graph.json: {left[0]} is missing there")


def _form(tensor: torch.Tensor) -> str:
    return f"shape {tuple(tensor.shape)} and {tensor.dtype}"


def _rebuild(data: dict[str, Any]) -> fx.GraphModule:
    root = nn.Module()
    for path in (*data["layers"], *data["tensors"], *data["ties"]):
        _require_place(path)
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
        same = _held(root, known)
        if same is None:
            raise LoadError(f"graph.json ties {name!r} to {known!r}, which is not there")
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
            if not isinstance(_held(root, target), torch.Tensor):
                raise LoadError(f"graph.json reads {target!r}, which is no tensor")
        elif entry["op"] == "call_module":
            if not isinstance(_held(root, target), nn.Module):
                raise LoadError(f"graph.json calls {target!r}, which is no layer")
        elif entry["op"] == "call_method" and (refused := refused_method(target, args)):
            raise LoadError(f"graph.json calls {target!r}, {refused}")
        node = graph.create_node(entry["op"], target, args, kwargs, name=entry["name"])
        node.meta = {PATH: entry["path"], ORIGIN: tuple(entry["origin"]), PASSES: tuple(entry["passes"])}
        if entry.get("mode") in ("train", "eval"):
            node.meta[MODE] = entry["mode"]
        if "factor" in entry:
            node.meta[FACTOR] = float(entry["factor"])
        if "value" in entry:
            node.meta[META] = metadata_from_data(entry["value"])
        nodes[entry["name"]] = node
    if any(is_by_mode(node) or MODE in node.meta for node in graph.nodes):
        graph.set_codegen(CodeByMode())
    graph.lint()
    made = LazyGraphModule(root, graph, class_name="Model")
    made.meta[CLASSES] = {path: name for path, name in data.get("classes", {}).items() if is_class_name(name)}
    made.real_recompile()  # now, while an error is one of the file
    return made


def _require_place(path: str) -> None:
    """Refuse a path with a name that every module keeps things of its own under."""
    if not _TABLES.isdisjoint(path.split(".")):
        raise LoadError(f"graph.json puts something at {path!r}, where modules keep what is their own")


def _held(root: nn.Module, path: str) -> nn.Module | torch.Tensor | None:
    """Return the module, parameter or buffer at ``path``; None if there is none."""
    *parents, name = path.split(".")
    owner: Any = root
    for atom in parents:
        owner = owner._modules.get(atom)
        if owner is None:
            return None
    found: list[Any] = [table.get(name) for table in (owner._modules, owner._parameters, owner._buffers)]
    return next((one for one in found if one is not None), None)


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
