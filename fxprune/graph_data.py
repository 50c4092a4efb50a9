"""A graph as JSON, and back, without executing code from the file.

Only layers that torch.nn exports, torch's own tensor functions and methods, and arithmetic operators can be
named in such a file; anything else is refused when it is read.
"""

from __future__ import annotations

import functools
import importlib
import keyword
import math
import operator
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from fxprune.codegen import outermost_layers
from fxprune.errors import EmitError, LoadError
from fxprune.graph import ORIGIN, PASSES, PATH, attribute, set_parameter, set_submodule
from fxprune.layer_spec import LayerSpec, build_layer

SCHEMA = 1
_OPS = ("placeholder", "get_attr", "call_module", "call_function", "call_method", "output")
# These leave the tensor world, from where torch imports modules by name or runs what it is given.
_FORBIDDEN_METHODS = {
    *("untyped_storage", "storage", "storage_type", "type", "numpy", "apply_", "map_", "map2_", "set_", "backward"),
    *("register_hook", "register_post_accumulate_grad_hook", "module_load", "share_memory_", "data_ptr"),
}
_ATTRIBUTES = {"shape", "dtype", "device", "ndim", "T", "mT", "H", "mH", "real", "imag", "data"}
_FACTORIES = ("zeros", "ones", "full", "empty", "arange", "linspace", "eye", "tensor")
_STOCHASTIC = ("torchvision.ops.stochastic_depth.stochastic_depth",)
_OPERATORS = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "neg", "getitem"),
    *("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "not_", "invert"),
)


@functools.cache
def _allowed_functions() -> dict[str, Callable[..., Any]]:
    """Return every function that a graph file may call, by name."""
    from torch.overrides import get_overridable_functions

    tensor_functions = {
        id(f) for home, fs in get_overridable_functions().items() if home is not torch.Tensor for f in fs
    }
    allowed: dict[str, Callable[..., Any]] = {f"operator.{n}": getattr(operator, n) for n in _OPERATORS}
    for prefix, home in (("F", functional), ("torch", torch)):
        for name in dir(home):
            if not name.startswith("_") and id(getattr(home, name)) in tensor_functions:
                allowed[f"{prefix}.{name}"] = getattr(home, name)
    allowed |= {f"torch.{name}": getattr(torch, name) for name in _FACTORIES}
    allowed |= {
        f"math.{name}": getattr(math, name) for name in ("sqrt", "ceil", "floor", "prod", "log", "log2", "exp")
    }
    allowed["torch._assert"] = torch._assert
    return allowed


@functools.cache
def _function_names() -> dict[int, str]:
    return {id(function): name for name, function in reversed(list(_allowed_functions().items()))}


def graph_to_data(graph_module: fx.GraphModule) -> dict[str, Any]:
    """Return the graph, its layers and the shapes of its tensors as plain JSON data."""
    tensors = {}
    for node in graph_module.graph.nodes:
        if node.op == "get_attr" and node.target != "training":
            value = attribute(graph_module, str(node.target))
            tensors[str(node.target)] = {
                "shape": list(value.shape),
                "dtype": str(value.dtype),
                "parameter": isinstance(value, nn.Parameter),
            }
    return {
        "schema": SCHEMA,
        "layers": {path: asdict(spec) for path, spec in outermost_layers(graph_module).items()},
        "tensors": tensors,
        "nodes": [_node_to_data(node) for node in graph_module.graph.nodes],
    }


def _node_to_data(node: fx.Node) -> dict[str, Any]:
    target: Any = node.target
    if node.op == "call_function":
        target = _name_of_function(node)
    return {
        "name": node.name,
        "op": node.op,
        "target": target,
        "args": [_encode(a) for a in node.args],
        "kwargs": {name: _encode(v) for name, v in node.kwargs.items()},
        "path": node.meta.get(PATH, ""),
        "origin": list(node.meta.get(ORIGIN, ())),
        "passes": list(node.meta.get(PASSES, ())),
    }


def _name_of_function(node: fx.Node) -> str:
    if node.target is getattr:
        return "getattr"
    name = _function_names().get(id(node.target))
    full = f"{getattr(node.target, '__module__', '')}.{getattr(node.target, '__name__', '')}"
    return name or full


def _encode(value: Any) -> Any:
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else {"float": repr(value)}
    if isinstance(value, tuple):
        return {"tuple": [_encode(v) for v in value]}
    if isinstance(value, list):
        return [_encode(v) for v in value]
    if isinstance(value, dict):
        return {"dict": {str(k): _encode(v) for k, v in value.items()}}
    if isinstance(value, slice):
        return {"slice": [_encode(v) for v in (value.start, value.stop, value.step)]}
    if value is Ellipsis:
        return {"ellipsis": True}
    if isinstance(value, (torch.dtype, torch.memory_format)):
        return {"torch": str(value)}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    raise EmitError(f"the constant {value!r} of type {type(value).__name__} cannot be written as data")


def graph_from_data(data: dict[str, Any]) -> fx.GraphModule:
    """Rebuild a GraphModule with uninitialised weights; raises LoadError for anything but a graph of ours."""
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else None
        raise LoadError(f"graph.json has schema {found}, this fxprune reads {SCHEMA}")
    try:
        return _rebuild(data)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, EmitError) as error:
        raise LoadError(f"graph.json is damaged: {type(error).__name__}: {error}") from error


def _rebuild(data: dict[str, Any]) -> fx.GraphModule:
    root = fx.GraphModule(nn.Module(), fx.Graph(), class_name="Model")
    for path, fields in data["layers"].items():  # paths are checked where nodes name them
        spec = LayerSpec(**{**fields, "arguments": {k: _as_tuple(v) for k, v in fields["arguments"].items()}})
        set_submodule(root, path, build_layer(spec))
    for path, tensor in data["tensors"].items():
        value = torch.empty(tensor["shape"], dtype=_torch_constant(tensor["dtype"]))
        if tensor["parameter"]:
            set_parameter(root, path, nn.Parameter(value, requires_grad=value.is_floating_point()))
        else:
            owner, _, name = path.rpartition(".")
            if owner:
                set_submodule(root, owner, nn.Module()) if not _exists(root, owner) else None
            root.get_submodule(owner).register_buffer(name, value)
    nodes: dict[str, fx.Node] = {}
    graph = fx.Graph()
    for entry in data["nodes"]:
        _require_harmless_names(entry)
        target = entry["target"]
        if entry["op"] == "call_function":
            target = _function(target, entry["args"])
        elif entry["op"] == "call_method" and (
            target.startswith("_") or target in _FORBIDDEN_METHODS or not hasattr(torch.Tensor, target)
        ):
            raise LoadError(f"graph.json calls {target!r}, which is no tensor method")
        args = tuple(_decode(a, nodes) for a in entry["args"])
        kwargs = {name: _decode(v, nodes) for name, v in entry["kwargs"].items()}
        node = graph.create_node(entry["op"], target, args, kwargs, name=entry["name"])
        node.meta = {PATH: entry["path"], ORIGIN: tuple(entry["origin"]), PASSES: tuple(entry["passes"])}
        nodes[entry["name"]] = node
    graph.lint()
    return fx.GraphModule(root, graph, class_name="Model")


def _require_harmless_names(entry: dict[str, Any]) -> None:
    """Refuse names that would be code: torch.fx and the emitter write them into the source that they execute."""
    names = [entry["name"], *entry["kwargs"]]
    if entry["op"] == "placeholder":
        names.append(entry["target"])
    paths = [entry["path"]]
    if entry["op"] in ("call_module", "get_attr"):
        paths.append(entry["target"])
    bad = [name for name in names if not str(name).isidentifier() or keyword.iskeyword(str(name))]
    bad += [path for path in paths if not str(path).isprintable() or any(c in str(path) for c in '"\\')]
    if bad or entry["op"] not in _OPS:
        raise LoadError(f"graph.json has a node with the forbidden name or kind {(bad or [entry['op']])[0]!r}")


def _exists(root: nn.Module, path: str) -> bool:
    return any(name == path for name, _ in root.named_modules())


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(v) for v in value) if isinstance(value, list) else value


def _function(name: str, args: list[Any]) -> Callable[..., Any]:
    if name == "getattr":
        if len(args) < 2 or args[1] not in _ATTRIBUTES:
            raise LoadError(f"graph.json reads an attribute that is not one of {sorted(_ATTRIBUTES)}")
        return getattr
    if name in _STOCHASTIC:
        module, _, attribute_name = name.rpartition(".")
        function: Callable[..., Any] = getattr(importlib.import_module(module), attribute_name)
        return function
    allowed = _allowed_functions()
    if name not in allowed:
        raise LoadError(f"graph.json calls {name!r}, which is not one of torch's tensor functions")
    return allowed[name]


def _torch_constant(name: str) -> Any:
    value = getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(value, (torch.dtype, torch.memory_format)):
        raise LoadError(f"graph.json names {name!r}, which is no dtype")
    return value


def _decode(value: Any, nodes: dict[str, fx.Node]) -> Any:
    if isinstance(value, list):
        return [_decode(v, nodes) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "node":
        return nodes[content]
    if kind == "tuple":
        return tuple(_decode(v, nodes) for v in content)
    if kind == "dict":
        return {k: _decode(v, nodes) for k, v in content.items()}
    if kind == "slice":
        return slice(*(_decode(v, nodes) for v in content))
    if kind == "torch":
        return _torch_constant(content)
    simple: dict[str, Callable[[Any], Any]] = {
        "float": float,
        "device": torch.device,
        "ellipsis": lambda _: Ellipsis,
    }
    return simple[kind](content)
