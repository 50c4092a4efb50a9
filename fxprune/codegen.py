"""Write a graph as the source of one plain nn.Module: layers under their own names, a readable forward."""

from __future__ import annotations

import importlib
import keyword
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from fxprune.errors import EmitError
from fxprune.graph import attribute, module_path, place
from fxprune.layer_spec import LayerSpec, layer_spec

_INFIX: dict[Any, str] = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.floordiv: "//",
    operator.mod: "%",
    operator.pow: "**",
    operator.matmul: "@",
    operator.eq: "==",
    operator.ne: "!=",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
    operator.and_: "&",
    operator.or_: "|",
}
_HOMES: tuple[tuple[str, Any], ...] = (
    ("F", functional),
    ("torch", torch),
    ("operator", operator),
    ("math", math),
)
_NAMES = ("x", "y", "z", "u", "v", "w")


@dataclass
class _Imports:
    """The import lines that the source needs beside torch's."""

    lines: set[str] = field(default_factory=set)

    def function(self, node: fx.Node) -> str:
        """Return the public name of the function that ``node`` calls."""
        name = str(getattr(node.target, "__name__", ""))
        for prefix, home in _HOMES:
            if name and getattr(home, name, None) is node.target:
                self.lines.add({"F": "from torch.nn import functional as F"}.get(prefix, f"import {prefix}"))
                return f"{prefix}.{name}"
        package = str(getattr(node.target, "__module__", ""))
        if package.split(".")[0] in ("", "__main__", "fxprune") or not _importable(package, name, node.target):
            raise EmitError(
                f"{place(node)} calls {name or node.target!r}, which no import reaches; it cannot be emitted"
            )
        self.lines.add(f"import {package}")
        return f"{package}.{name}"


def _importable(package: str, name: str, function: Any) -> bool:
    try:
        return getattr(importlib.import_module(package), name, None) is function
    except ImportError:
        return False


def python_source(graph_module: fx.GraphModule, title: str) -> str:
    """Return the text of ``model.py``: one class ``Model`` whose state-dict keys are the graph's.

    Raises EmitError, naming node or module, if plain PyTorch cannot express the graph.
    """
    imports = _Imports({"import torch", "from torch import nn"})
    layers = outermost_layers(graph_module)
    forward = _forward(graph_module.graph, imports)
    init = _init(graph_module, layers)
    helper = _CONTAINER if any("_Layers(" in line for line in init) else ""
    body = "\n".join(
        [
            "class Model(nn.Module):",
            f'    """{title}"""',
            "",
            "    def __init__(self):",
            "        super().__init__()",
            *(f"        {line}" for line in init),
            "",
            *(f"    {line}".rstrip() for line in forward),
        ]
    )
    used = imports.lines if "torch." in body else imports.lines - {"import torch"}
    header = "\n".join(sorted(used, key=lambda line: (line.startswith("from"), line)))
    return f'"""{title}"""\n\n{header}\n\n\n{helper}{body}\n'


_CONTAINER = '''class _Layers(nn.Module):
    """Layers under names that nn.ModuleDict keeps for itself."""

    def __init__(self, layers):
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def __getitem__(self, name):
        return self.get_submodule(name)


'''


def outermost_layers(graph_module: fx.GraphModule) -> dict[str, LayerSpec]:
    """Return how to build every called module, in the order of the module tree."""
    called = {str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"}
    outermost = {t for t in called if not any(t.startswith(f"{other}.") for other in called)}
    return {path: layer_spec(path, module) for path, module in graph_module.named_modules() if path in outermost}


def _init(graph_module: fx.GraphModule, layers: dict[str, LayerSpec]) -> list[str]:
    tree: dict[str, Any] = {}
    for path, spec in layers.items():
        _branch(tree, path.split(".")[:-1])[path.rpartition(".")[2]] = spec
    tensors: list[str] = []
    for node in graph_module.graph.nodes:
        target = str(node.target)
        if node.op != "get_attr" or target == "training" or any(target.startswith(f"{path}.") for path in layers):
            continue
        value = attribute(graph_module, target)
        if not isinstance(value, torch.Tensor):
            raise EmitError(f"{place(node)} reads {target}, a {type(value).__name__}; only tensors can be emitted")
        owner, _, name = target.rpartition(".")
        _branch(tree, owner.split(".") if owner else [])
        line = f"{_access(owner)}.{_register(name, value)}"
        if line not in tensors:
            tensors.append(line)
    lines = []
    for name, content in tree.items():
        text = _layer_text(content, "") if isinstance(content, LayerSpec) else _container_text(content, "")
        lines += (f"self.{name} = {text}" if _is_name(name) else f"self.add_module({_literal(name)}, {text})").split(
            "\n"
        )
    return lines + tensors + _ties(graph_module)


def _branch(tree: dict[str, Any], atoms: list[str]) -> dict[str, Any]:
    for atom in atoms:
        tree = tree.setdefault(atom, {})
    return tree


def _container_text(content: dict[str, Any], indent: str) -> str:
    if not content:
        return "nn.ModuleDict()"
    kind = "_Layers" if any(hasattr(nn.ModuleDict, name) for name in content) else "nn.ModuleDict"
    inner = indent + "    "
    rows = [
        f"{inner}{_literal(name)}: "
        + (_layer_text(part, inner) if isinstance(part, LayerSpec) else _container_text(part, inner))
        for name, part in content.items()
    ]
    return f"{kind}({{\n" + ",\n".join(rows) + f",\n{indent}}})"


def _layer_text(spec: LayerSpec, indent: str) -> str:
    arguments = [
        _literal(value) if name in spec.positional else f"{name}={_literal(value)}"
        for name, value in spec.arguments.items()
    ]
    text = f"nn.{spec.kind}({', '.join(arguments)})"
    if spec.dtype is not None:
        text += f".to({spec.dtype})"
    return f"{text}.requires_grad_(False)" if spec.frozen else text


def _register(name: str, value: torch.Tensor) -> str:
    dtype = "" if value.dtype == torch.float32 else f", dtype={value.dtype}"
    empty = f"torch.empty({tuple(value.shape)}{dtype})"
    if isinstance(value, nn.Parameter):
        trained = "" if value.requires_grad else ", requires_grad=False"
        return f"register_parameter({_literal(name)}, nn.Parameter({empty}{trained}))"
    return f"register_buffer({_literal(name)}, {empty})"


def _ties(graph_module: fx.GraphModule) -> list[str]:
    first: dict[int, str] = {}
    lines = []
    for name, parameter in graph_module.named_parameters(remove_duplicate=False):
        known = first.setdefault(id(parameter), name)
        if known != name:
            owner, _, last = name.rpartition(".")
            lines.append(f"setattr({_access(owner)}, {_literal(last)}, {_access_tensor(known)})")
    return lines


def _is_name(atom: str) -> bool:
    return atom.isidentifier() and not keyword.iskeyword(atom)


def _access_tensor(target: str) -> str:
    """Return the expression for a parameter or buffer below ``self``."""
    owner, _, name = target.rpartition(".")
    return f"{_access(owner)}.{name}" if _is_name(name) else f"getattr({_access(owner)}, {_literal(name)})"


def _access(target: str) -> str:
    """Return the expression for a dotted path of modules below ``self``."""
    text = "self"
    for depth, atom in enumerate(target.split(".") if target else []):
        if _is_name(atom):
            text += f".{atom}"
        else:
            text = f"getattr(self, {_literal(atom)})" if depth == 0 else f"{text}[{_literal(atom)}]"
    return text


def _forward(graph: fx.Graph, imports: _Imports) -> list[str]:
    names = _Variables(graph)
    inputs = []
    lines = []
    section = None
    for node in graph.nodes:
        if node.op == "placeholder":
            default = f"={_literal(node.args[0])}" if node.args else ""
            inputs.append(names.input(node) + default)
            continue
        if node.op == "get_attr":
            names.alias(node, _access_tensor(str(node.target)))
            continue
        if node.op == "output":
            lines.append(f"    return {_value(node.args[0], names.of)}")
            continue
        part = _section(node)
        if part and part != section:
            lines += [""] * bool(lines) + [f"    # {part}"]
            section = part
        text = _expression(node, names.of, imports)
        lines.append(f"    {names.assign(node)} = {text}")
    return [f"def forward({', '.join(['self', *inputs])}):", *lines]


def _section(node: fx.Node) -> str:
    """Return the block that a node belongs to: its module path without the layer's own name."""
    path = module_path(node)
    return path.rpartition(".")[0] if node.op == "call_module" else path


class _Variables:
    """Names for values: one is used again as soon as the value that had it is read for the last time."""

    def __init__(self, graph: fx.Graph) -> None:
        self._names: dict[fx.Node, str] = {}
        self._last_read: dict[fx.Node, fx.Node] = {}
        self._order = {node: index for index, node in enumerate(graph.nodes)}
        for node in graph.nodes:
            for read in node.all_input_nodes:
                self._last_read[read] = node
        self._live: dict[str, fx.Node] = {}

    def of(self, node: fx.Node) -> str:
        return self._names[node]

    def alias(self, node: fx.Node, expression: str) -> None:
        self._names[node] = expression

    def input(self, node: fx.Node) -> str:
        name = str(node.target).strip("*")
        self._names[node] = name
        self._live[name] = node
        return str(node.target)

    def assign(self, node: fx.Node) -> str:
        at = self._order[node]
        self._live = {
            name: value
            for name, value in self._live.items()
            if value in self._last_read and self._order[self._last_read[value]] > at
        }
        ended = [self._names[read] for read in node.all_input_nodes if self._last_read[read] is node]
        own = [name for name in ended if name.isidentifier() and name not in self._live]
        spare = (name for name in (*_NAMES, *(f"v{i}" for i in range(1, at + 2))) if name not in self._live)
        name = own[0] if own else next(spare)
        self._names[node] = name
        self._live[name] = node
        return name


def _expression(node: fx.Node, name_of: Callable[[fx.Node], str], imports: _Imports) -> str:
    arguments = [_value(argument, name_of) for argument in node.args]
    keywords = [f"{name}={_value(value, name_of)}" for name, value in node.kwargs.items()]
    call = f"({', '.join([*arguments, *keywords])})"
    if node.op == "call_module":
        return _access(str(node.target)) + call
    if node.op == "call_method":
        return f"{arguments[0]}.{node.target}({', '.join([*arguments[1:], *keywords])})"
    if node.target in _INFIX and len(arguments) == 2:
        arguments = [f"({text})" if text.startswith("-") else text for text in arguments]
        return f"{arguments[0]} {_INFIX[node.target]} {arguments[1]}"
    if node.target is operator.neg:
        return f"-{arguments[0]}"
    if node.target is operator.getitem:
        return f"{arguments[0]}[{_index(node.args[1], name_of)}]"
    if node.target is getattr and isinstance(node.args[1], str):
        return f"{arguments[0]}.{node.args[1]}"
    return imports.function(node) + call


def _index(index: Any, name_of: Callable[[fx.Node], str]) -> str:
    if isinstance(index, tuple) and index:
        return ", ".join(_index(part, name_of) for part in index) + ("," if len(index) == 1 else "")
    if isinstance(index, slice):
        start, stop, step = ("" if p is None else _value(p, name_of) for p in (index.start, index.stop, index.step))
        return f"{start}:{stop}" + (f":{step}" if step else "")
    return _value(index, name_of)


def _value(value: Any, name_of: Callable[[fx.Node], str]) -> str:
    if isinstance(value, fx.Node):
        return name_of(value)
    if isinstance(value, slice):
        return f"slice({', '.join(_value(p, name_of) for p in (value.start, value.stop, value.step))})"
    if isinstance(value, tuple):
        inner = ", ".join(_value(v, name_of) for v in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, list):
        return f"[{', '.join(_value(v, name_of) for v in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_literal(k)}: {_value(v, name_of)}' for k, v in value.items())}}}"
    return _literal(value)


def _literal(value: Any) -> str:
    """Return the source of a constant; raises EmitError for what has none."""
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if value is Ellipsis:
        return "..."
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    if value is None or isinstance(value, (bool, int, float, torch.dtype, torch.memory_format, torch.layout)):
        return repr(value)
    if isinstance(value, torch.device):
        return f'torch.device("{value}")'
    if isinstance(value, (tuple, list)):
        inner = ", ".join(_literal(v) for v in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner},)" if len(value) == 1 else f"({inner})"
    raise EmitError(f"the constant {value!r} of type {type(value).__name__} cannot be written as source")
