"""Write a graph as the source of plain nn.Modules: layers under their own names, blocks as classes."""

from __future__ import annotations

import builtins
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import fx

from fxprune.emission.block_code import Writer
from fxprune.emission.blocks import Block, block_tree, home
from fxprune.emission.calls import statement_lines, unmarked
from fxprune.emission.classes import returning
from fxprune.emission.expressions import Expressions, literal
from fxprune.emission.init_code import NAMED_CONTAINER, closing_lines
from fxprune.emission.layer_spec import LayerSpec
from fxprune.emission.methods import Method
from fxprune.emission.records import Record
from fxprune.emission.state_layout import StateLayout, TensorSpec
from fxprune.errors import EmitError
from fxprune.facts.overwriting import overwritten
from fxprune.ir.by_mode import CodeByMode, graph_in_mode, has_modes
from fxprune.ir.nodes import called_module
from fxprune.ir.written_calls import Written

_CONTAINER = f'''class {NAMED_CONTAINER}(nn.Module):
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


_RESERVED = {
    *(
        "Model",
        "OrderedDict",
        "dataclass",
        "namedtuple",
        "nn",
        "torch",
        "F",
        "math",
        "operator",
        "torchvision",
        "load",
    ),
    *("_written", NAMED_CONTAINER, *dir(builtins)),
}
_IN_TRAINING = "_forward_in_training"
_HIDING = {"forward": "_compute", _IN_TRAINING: "_compute_in_training"}


def python_source(
    graph: fx.Graph,
    layout: StateLayout,
    name: str,
    *,
    classes: Mapping[str, str] | None = None,
    in_place: bool = True,
) -> str:
    """Return the text of ``model.py``: a class ``Model`` whose state-dict keys are those of the graph of ``name``.

    ``classes`` are the names of the traced model's own classes by path; blocks are named after them. ReLUs and sums
    are ``in_place`` where they can be (see :func:`fxprune.facts.overwriting.overwritten`).
    Raises EmitError, naming the node, if plain PyTorch cannot express the graph.
    """
    if type(graph._codegen) not in (fx.graph.CodeGen, CodeByMode):
        raise EmitError(
            "the graph takes nested inputs apart by torch.fx's pytree code, which source cannot say; "
            "give the model a forward that takes its tensors one by one"
        )
    graphs = [graph_in_mode(graph, training) for training in (False, True)] if has_modes(graph) else [graph]
    overwriting = _overwritten_in_all(graphs) if in_place else [{} for _ in graphs]
    layers = _relus_in_place(layout.layers, [node for own in overwriting for node in own])
    homes = partial(home, layers=layers)
    trees = [block_tree(one, homes) for one in graphs]
    if len(graphs) > 1:
        barred = _differing(trees, overwriting)
        trees = [block_tree(one, homes, barred) for one in graphs]
    found = {node: source for own in overwriting for node, source in own.items()}
    scales = {one.path: TensorSpec((), str(one.value.dtype), False, False) for one in layout.scales.values()}
    writer = Writer(
        replace(layout, layers=layers, tensors=layout.tensors | scales),
        found,
        homes,
        classes or {},
        _RESERVED | _record_names(graph),
    )
    definitions = writer.blocks(trees)
    methods = [
        _method(tree, writer, one, own)
        for tree, one, own in zip(trees, graphs, ("forward", _IN_TRAINING), strict=False)
    ]
    init = [line for one in writer.statements(trees[0]) for line in statement_lines(one, {})] + closing_lines(layout)
    forward = _by_mode(graphs, methods)
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
    helper = _CONTAINER if f"{NAMED_CONTAINER}(" in definitions + body else ""
    helper += _WRITTEN if any(isinstance(node.target, Written) for node in graph.nodes) else ""
    return _module(name, writer.expressions, helper + definitions + body)


def _module(name: str, expressions: Sequence[Expressions], text: str) -> str:
    """Return the whole file, given its classes."""
    found = _records(expressions)
    records = [found[name] for name in sorted(found)]
    imports = {"from torch import nn", *(record.imports for record in records)}
    imports.update(*(one.imports for one in expressions))
    if "OrderedDict(" in text:
        imports.add("from collections import OrderedDict")
    if "torch." in text:
        imports.add("import torch")
    ours = sorted((line for line in imports if "torch" in line), key=lambda line: (line.startswith("from"), line))
    pythons = sorted(imports - set(ours), key=lambda line: (line.startswith("from"), line))
    header = "\n".join([*pythons, *[""] * bool(pythons), *ours])
    classes = "".join(f"{record.source()}\n\n\n" for record in records)
    return f'"""{name}, written by fxprune as plain PyTorch."""\n\n{header}\n\n\n{classes}{text}\n'


def _method(tree: Block, writer: Writer, graph: fx.Graph, name: str) -> list[str]:
    """Return the lines of the method ``name`` that computes ``graph``, and of one that it calls."""
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    lines, expressions = _forward(tree, writer, graph, name, ())
    hidden = expressions.needed & {_input_name(node) for node in inputs}
    return _forward(tree, writer, graph, name, hidden)[0] if hidden else lines


def _by_mode(graphs: Sequence[fx.Graph], methods: Sequence[list[str]]) -> list[str]:
    """Return the lines of ``forward``, which begins with that of train mode if it has one of its own."""
    (signature, *body), *others = methods
    inputs = ", ".join(str(node.target) for node in graphs[0].nodes if node.op == "placeholder")
    switch = ["    if self.training:", f"        return self.{_IN_TRAINING}({inputs})"] if others else []
    return [signature, *switch, *body, *(line for lines in others for line in ("", *lines))]


def _record_names(graph: fx.Graph) -> set[str]:
    """Return the names of the classes of values that the graph makes."""
    found = {node.target.__name__ for node in graph.nodes if isinstance(node.target, type)}
    waiting: list[Any] = [value for node in graph.nodes for value in (*node.args, *node.kwargs.values())]
    while waiting:
        value = waiting.pop()
        if isinstance(value, (tuple, list, dict)):
            waiting += value.values() if isinstance(value, dict) else value
        if hasattr(type(value), "_fields"):
            found.add(type(value).__name__)
    return found


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


def _differing(trees: Sequence[Block], overwriting: Sequence[Mapping[fx.Node, fx.Node]]) -> set[str]:
    """Return the paths of the blocks that are not the same in the graphs of both modes, though in both."""
    first, second = (
        {block.path: _described(block, own) for block in tree.blocks()}
        for tree, own in zip(trees, overwriting, strict=True)
    )
    return {path for path in first.keys() & second.keys() if first[path] != second[path]}


def _described(block: Block, overwriting: Mapping[fx.Node, fx.Node]) -> object:
    """Return all that a block says of itself; nodes of the two graphs have the same names."""
    nodes = [(n.name, n.op, n.target, repr(n.args), repr(n.kwargs), repr(overwriting.get(n))) for n in block.nodes()]
    return nodes, repr(block.inputs), repr(block.outputs), block.takes_list


def _forward(
    tree: Block, writer: Writer, graph: fx.Graph, name: str, hidden: Collection[str]
) -> tuple[list[str], Expressions]:
    """Return the lines of method ``name``, and of one that it calls where inputs have names that the source needs."""
    output = graph.output_node()
    items = writer.items(tree)
    expressions = writer.expressions_of(tree, items, output.all_input_nodes)
    names = expressions.names
    for node in tree.inputs:
        names.input(node, f"{_input_name(node)}_" if _input_name(node) in hidden else _input_name(node))
    lines = Method(tree, items, expressions, writer.homes).lines()
    lines.append(f"    return {expressions.value(output.args[0])}")
    texts = [constant.text for constant in expressions.constants]
    lines = returning([unmarked(line, texts) for line in lines])
    signature = ", ".join(["self", *(_parameter(node, _input_name(node)) for node in tree.inputs)])
    if not hidden:
        return [f"def {name}({signature}):", *lines], expressions
    passed = ", ".join(str(node.target) for node in tree.inputs)
    own = ", ".join(
        [
            "self",
            *(
                _parameter(node, f"{_input_name(node)}_" if _input_name(node) in hidden else _input_name(node))
                for node in tree.inputs
            ),
        ]
    )
    return [
        f"def {name}({signature}):",
        f"    return self.{_HIDING[name]}({passed})  # there, no input hides a name that the source needs",
        "",
        f"def {_HIDING[name]}({own}):",
        *lines,
    ], expressions


def _input_name(node: fx.Node) -> str:
    return str(node.target).lstrip("*")


def _parameter(node: fx.Node, name: str) -> str:
    stars = "*" * str(node.target).count("*")
    return f"{stars}{name}={literal(node.args[0])}" if node.args else f"{stars}{name}"
