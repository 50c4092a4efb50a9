"""Write a graph as the source of one plain nn.Module: layers under their own names, a readable forward."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import fx

from fxprune.emission.expressions import Expressions, access_tensor, literal
from fxprune.emission.init_code import init_lines
from fxprune.emission.layer_spec import LayerSpec
from fxprune.emission.records import Record
from fxprune.emission.state_layout import StateLayout
from fxprune.emission.variables import Variables
from fxprune.errors import EmitError
from fxprune.facts.overwriting import is_sum, overwritten
from fxprune.ir.autocast import ENTER_AUTOCAST, EXIT_AUTOCAST
from fxprune.ir.by_mode import CodeByMode, graph_in_mode, has_modes
from fxprune.ir.nodes import called_module, module_path, place
from fxprune.ir.written_calls import Written

_CONTAINER = '''class _Layers(nn.Module):
    """Layers under names that nn.ModuleDict keeps for itself."""

    def __init__(self, layers):
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def __getitem__(self, name):
        return self.get_submodule(name)


'''


_WRITTEN = '''def _written(function, position, *arguments):
    """Call function, which writes into the argument at position, with a copy of that, and return the copy."""
    changed = list(arguments)
    changed[position] = arguments[position].clone()
    function(*changed)
    return changed[position]


'''


_IN_TRAINING = "_forward_in_training"
_HIDING = {"forward": "_compute", _IN_TRAINING: "_compute_in_training"}


def python_source(graph: fx.Graph, layout: StateLayout, name: str, *, in_place: bool = True) -> str:
    """Return the text of ``model.py``: one class ``Model`` whose state-dict keys are those of the graph of ``name``.

    ReLUs and sums are ``in_place`` where they can be (see :func:`fxprune.facts.overwriting.overwritten`).
    Raises EmitError, naming the node, if plain PyTorch cannot express the graph.
    """
    if type(graph._codegen) not in (fx.graph.CodeGen, CodeByMode):
        raise EmitError(
            "the graph takes nested inputs apart by torch.fx's pytree code, which source cannot say; "
            "give the model a forward that takes its tensors one by one"
        )
    graphs = [graph_in_mode(graph, training) for training in (False, True)] if has_modes(graph) else [graph]
    overwriting = _overwritten_in_all(graphs) if in_place else [{} for _ in graphs]
    methods = [
        _method(one, own, name)
        for one, own, name in zip(graphs, overwriting, ("forward", _IN_TRAINING), strict=False)
    ]
    forward = _by_mode(graphs, methods)
    init = init_lines(
        replace(layout, layers=_relus_in_place(layout.layers, [node for own in overwriting for node in own]))
    )
    helper = _CONTAINER if any("_Layers(" in line for line in init) else ""
    helper += _WRITTEN if any(isinstance(node.target, Written) for node in graph.nodes) else ""
    body = "\n".join(
        [
            "class Model(nn.Module):",
            f'    """{name}, with its layers under the names that they had there."""',
            "",
            "    def __init__(self):",
            "        super().__init__()",
            *(f"        {line}" for line in init),
            "",
            *(f"    {line}".rstrip() for line in forward),
        ]
    )
    found = _records([method.expressions for method in methods])
    records = [found[name] for name in sorted(found)]
    imports = {"from torch import nn", *(record.imports for record in records)}
    imports.update(*(method.expressions.imports for method in methods))
    if "torch." in body:
        imports.add("import torch")
    header = "\n".join(sorted(imports, key=lambda line: (line.startswith("from torch"), line)))
    classes = "".join(f"{record.source()}\n\n\n" for record in records)
    return f'"""{name}, written by fxprune as plain PyTorch."""\n\n{header}\n\n\n{classes}{helper}{body}\n'


class _Method(NamedTuple):
    """The lines of a method, with those that it calls, and what was written in it."""

    lines: list[str]
    expressions: Expressions


def _method(graph: fx.Graph, overwriting: Mapping[fx.Node, fx.Node], name: str) -> _Method:
    """Return the method ``name`` that computes ``graph``."""
    expressions = Expressions(Variables(graph, overwriting))
    lines = _forward(graph, expressions, name)
    hidden = expressions.needed & {_input_name(node) for node in graph.nodes if node.op == "placeholder"}
    if hidden:
        expressions = Expressions(Variables(graph, overwriting))
        lines = _forward(graph, expressions, name, hidden)
    return _Method(lines, expressions)


def _by_mode(graphs: Sequence[fx.Graph], methods: Sequence[_Method]) -> list[str]:
    """Return the lines of ``forward``, which begins with that of train mode if it has one of its own."""
    (signature, *body), *others = methods[0].lines, *(method.lines for method in methods[1:])
    inputs = ", ".join(str(node.target) for node in graphs[0].nodes if node.op == "placeholder")
    switch = ["    if self.training:", f"        return self.{_IN_TRAINING}({inputs})"] if others else []
    return [signature, *switch, *body, *(line for lines in others for line in ("", *lines))]


def _records(expressions: Sequence[Expressions]) -> dict[str, Record]:
    found: dict[str, Record] = {}
    for one in expressions:
        for name, record in one.records.items():
            if found.setdefault(name, record) != record:
                raise EmitError(f"two classes of the model are called {name}; rename one")
    return found


def _overwritten_in_all(graphs: Sequence[fx.Graph]) -> list[dict[fx.Node, fx.Node]]:
    """Return what :func:`overwritten` finds in each graph of one model; of layers if it finds all of their calls."""
    found = [overwritten(graph) for graph in graphs]
    kept = {called_module(n) for graph, own in zip(graphs, found, strict=True) for n in graph.nodes if n not in own}
    return [{n: source for n, source in own.items() if called_module(n) not in kept - {None}} for own in found]


def _relus_in_place(layers: Mapping[str, LayerSpec], nodes: Collection[fx.Node]) -> dict[str, LayerSpec]:
    """Return how to build ``layers``, given by path, when those that ``nodes`` call overwrite their input."""
    chosen = {str(node.target) for node in nodes if node.op == "call_module"}
    return {
        path: replace(spec, arguments={**spec.arguments, "inplace": True}) if path in chosen else spec
        for path, spec in layers.items()
    }


def _forward(graph: fx.Graph, expressions: Expressions, name: str, hidden: Collection[str] = ()) -> list[str]:
    """Return the lines of method ``name``, and of one that it calls where inputs have names that the source needs."""
    names = expressions.names
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    for node in inputs:
        names.input(node, f"{_input_name(node)}_" if _input_name(node) in hidden else _input_name(node))
    lines = _body(graph, expressions)
    signature = ", ".join(["self", *(_parameter(node, _input_name(node)) for node in inputs)])
    if not hidden:
        return [f"def {name}({signature}):", *lines]
    passed = ", ".join(str(node.target) for node in inputs)
    own = ", ".join(["self", *(_parameter(node, names.of(node)) for node in inputs)])
    return [
        f"def {name}({signature}):",
        f"    return self.{_HIDING[name]}({passed})  # there, no input hides a name that the source needs",
        "",
        f"def {_HIDING[name]}({own}):",
        *lines,
    ]


def _input_name(node: fx.Node) -> str:
    return str(node.target).lstrip("*")


def _parameter(node: fx.Node, name: str) -> str:
    stars = "*" * str(node.target).count("*")
    return f"{stars}{name}={literal(node.args[0])}" if node.args else f"{stars}{name}"


def _body(graph: fx.Graph, expressions: Expressions) -> list[str]:
    lines: list[str] = []
    section = None
    open_blocks: list[fx.Node] = []
    for node in graph.nodes:
        indent = "    " * (1 + len(open_blocks))
        if node.target is ENTER_AUTOCAST:
            lines.append(f"{indent}with {expressions.autocast(node)}:")
            open_blocks.append(node)
            continue
        if node.target is EXIT_AUTOCAST:
            if not open_blocks or open_blocks.pop() is not node.args[0]:
                raise EmitError(f"{place(node)}: it ends an autocast that is not the innermost; it cannot be emitted")
            lines += [f"{indent}pass"] * lines[-1].endswith(":")
            continue
        if node.op == "placeholder":
            continue
        if node.op == "get_attr":
            expressions.names.alias(node, access_tensor(str(node.target)))
            continue
        if node.op == "output":
            lines.append(f"{indent}return {expressions.value(node.args[0])}")
            continue
        part = _section(node)
        if part and part != section:
            lines += [""] * bool(lines) + [f"{indent}# {part}"]
            section = part
        dead = expressions.names.let_go(node)
        lines += [f"{indent}del {', '.join(dead)}"] * bool(dead)
        if node in expressions.names.overwriting and is_sum(node):
            lines.append(f"{indent}{_sum_in_place(node, expressions)}")
            continue
        text = expressions.node(node)
        name = f"{expressions.names.assign(node)} = " if node.users else ""
        lines.append(f"{indent}{name}{text}")
    return lines


def _sum_in_place(node: fx.Node, expressions: Expressions) -> str:
    source = expressions.names.overwriting[node]
    (other,) = (one for one in node.args if one is not source)
    text = f"{expressions.names.of(source)} += {expressions.value(other)}"
    expressions.names.take_over(node, source)
    return text


def _section(node: fx.Node) -> str:
    """Return the block that a node belongs to: its module path without the layer's own name."""
    path = module_path(node)
    return path.rpartition(".")[0] if node.op == "call_module" else path
