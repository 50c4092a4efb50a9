"""One graph for both modes: what differs between training and evaluation meets in ``by_mode`` nodes.

    r = conv(x); m = mask(r); b = by_mode(training, r * m, r); y = x + b       (stochastic depth)

A node that only one mode computes is marked with it; all others are computed in both, so that a layer has one call,
one gate and one fate. What runs is a graph a mode: :func:`graph_in_mode`, where by_mode is what it chooses. The
``forward`` of a GraphModule has both, and follows its train flag.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from torch import fx
from torch.fx.graph import CodeGen, PythonCode

Mode = Literal["train", "eval"]
MODE = "fxprune_mode"  # on a node that one mode alone computes: which
TRAIN_INPUTS = "fxprune_train_inputs"  # of a whole graph: the example inputs of train mode, where it has its own


def by_mode(training: bool, in_training: Any, in_eval: Any) -> Any:
    """Return what the mode chooses; graphs that run never compute both."""
    return in_training if training else in_eval


def chosen(node: fx.Node, training: bool) -> Any:
    """Return the argument that ``node``, a by_mode, stands for in one mode: a node, a constant or a nest of them."""
    return node.args[1 if training else 2]


def is_by_mode(node: Any) -> bool:
    """Say whether ``node`` is a choice by mode."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target is by_mode


def has_modes(graph: fx.Graph) -> bool:
    """Say whether the modes of ``graph`` may differ by more than flags that its nodes take."""
    return type(graph._codegen) is CodeByMode


def modes_of(graph: fx.Graph) -> dict[fx.Node, Mode]:
    """Return the mode of every node that one mode alone computes: it is marked, or reads what is."""
    found: dict[fx.Node, Mode] = {}
    if not has_modes(graph):
        return found
    for node in graph.nodes:
        mode = node.meta.get(MODE)
        if mode is None and not is_by_mode(node) and node.op != "output":
            mode = next((found[source] for source in node.all_input_nodes if source in found), None)
        if mode is not None:
            found[node] = mode
    return found


def only_in(graph: fx.Graph, mode: Mode) -> set[fx.Node]:
    """Return the nodes that are computed in ``mode`` alone."""
    return {node for node, own in modes_of(graph).items() if own == mode}


def graph_in_mode(graph: fx.Graph, training: bool) -> fx.Graph:
    """Return what ``graph`` computes in one mode, as a graph of its own with the same names and metadata."""
    return _view(graph, training)[0] if has_modes(graph) else graph


def _view(graph: fx.Graph, training: bool) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """Return the graph of one mode, and for each of its nodes the one that it stands for."""
    others = only_in(graph, "eval" if training else "train")
    view = fx.Graph(graph.owning_module, graph._tracer_cls)
    copies: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if is_by_mode(node):
            copies[node] = fx.map_arg(chosen(node, training), copies.__getitem__)
        elif node.op == "placeholder" or node not in others:
            copies[node] = view.node_copy(node, copies.__getitem__)
    for node in reversed(view.nodes):
        if node.op == "get_attr" and node.target == "training" and not node.users:
            view.erase_node(node)
    return view, {new: old for old, new in copies.items() if isinstance(new, fx.Node) and not is_by_mode(old)}


class CodeByMode(CodeGen):
    """Writes a forward that holds the code of both modes."""

    def _gen_python_code(self, nodes: Any, root_module: str, namespace: Any, **options: Any) -> PythonCode:
        names = {True: "_in_training", False: "_in_eval"}
        made: dict[bool, PythonCode] = {}
        for training, name in names.items():
            view, originals = _view(nodes.graph, training)
            for node in view.nodes:
                node._repr_fn = lambda one, of=originals: namespace.create_name(one.name, of[one])
            code = CodeGen()._gen_python_code(view.nodes, root_module, namespace, **options)
            made[training] = replace(code, src=code.src.replace("def forward(", f"def {name}(", 1))
        inputs = [node for node in nodes if node.op == "placeholder"]
        taken = ", ".join([root_module, *(_parameter(node) for node in inputs)])
        given = ", ".join([root_module, *(str(node.target) for node in inputs)])
        source = "".join(one.src.rstrip() + "\n" for one in made.values())
        source += (
            f"\ndef forward({taken}):\n    return {names[True]}({given}) if {root_module}.training "
            f"else {names[False]}({given})\n"
        )
        return replace(made[False], src=source, globals=made[True].globals | made[False].globals, _lineno_map={})


def _parameter(node: fx.Node) -> str:
    return f"{node.target} = {node.args[0]!r}" if node.args else str(node.target)
