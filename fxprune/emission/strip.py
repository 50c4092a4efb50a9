"""A graph as torch.save can write it, for what has no source: graphs with opaque modules.

torch.save(fxprune.strip(graph_module), "model.pt")
model = torch.load("model.pt", weights_only=False)      # needs the user's own classes, and not fxprune

torch.load makes the graph by tracing its code again. What that would lose is written otherwise,

    F.dropout(x, p, self.training)   ->   nn.Dropout(p)(x)

or refused: the graph that torch.load will make is made here, and compared node by node.
"""

from __future__ import annotations

import itertools
import operator
from functools import lru_cache
from typing import Any

import torch
from torch import fx, nn
from torch.fx.graph import magic_methods
from torch.fx.graph_module import reduce_graph_module
from torch.fx.passes.shape_prop import TensorMetadata
from torch.nn import functional
from torch.overrides import get_overridable_functions

from fxprune.errors import EmitError, first_line
from fxprune.facts.shapes import META
from fxprune.gates.base import Gated
from fxprune.ir.applied import Applied
from fxprune.ir.arguments import require_arguments
from fxprune.ir.copies import copy_graphs
from fxprune.ir.lazy_graph_module import plain_graph_module
from fxprune.ir.module_tree import every_module, every_path
from fxprune.ir.node_targets import attribute, free_target, set_attribute
from fxprune.ir.nodes import PRESERVED, place, require_graph
from fxprune.ir.written_calls import Written
from fxprune.ops.call import Call

_FLAG = "training"
_LAYERS: dict[Any, type[nn.Module]] = {
    functional.dropout: nn.Dropout,
    functional.dropout1d: nn.Dropout1d,
    functional.dropout2d: nn.Dropout2d,
    functional.dropout3d: nn.Dropout3d,
    functional.alpha_dropout: nn.AlphaDropout,
    functional.feature_alpha_dropout: nn.FeatureAlphaDropout,
}

_TRUTHS: dict[Any, Any] = {bool: operator.ne, operator.truth: operator.ne, operator.not_: operator.eq}  # ... 0


def strip(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Return a copy of ``graph_module`` that computes the same and holds nothing of fxprune's; layers are shared.

    It has no example inputs, origins or costs any more: do this last. Raises EmitError if scales are still in it, or
    if torch.load would make another graph of it (names the node).
    """
    require_arguments(strip, locals())
    graphs = copy_graphs(require_graph(graph_module, "strip"))
    outermost = graphs[0][1]
    for path, module in every_path(outermost).items():
        if isinstance(module, Applied):
            set_attribute(outermost, path, _plainly_applied(module))
        if isinstance(module, Gated):
            raise EmitError(f"{path} is still a {type(module).__name__}; apply fxprune.AFTER_TRAINING first")
    for _, graph in reversed(graphs):  # those inside others first
        plain = _plain(graph)
        for owner in every_module(outermost):
            owner._modules.update({name: plain for name, child in owner._modules.items() if child is graph})
    return plain


def _plainly_applied(applied: Applied) -> nn.Module:
    """Return a module of torch's own that does what ``applied`` does."""
    made = nn.Module()
    made.forward = applied.function.apply
    return made


def savable(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Return what :func:`strip` returns, or ``graph_module`` itself, which needs fxprune, where that is refused."""
    try:
        return strip(graph_module)
    except EmitError:
        return graph_module


def _plain(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Return ``graph_module`` as torch's own GraphModule, which torch.load reads as what it is."""
    for node in graph_module.graph.nodes:
        if node.op == "call_function":
            _write_otherwise(graph_module, node)
    for flag in graph_module.graph.find_nodes(op="get_attr", target=_FLAG):
        if not flag.users:
            graph_module.graph.erase_node(flag)
    places = {node.name: place(node) for node in graph_module.graph.nodes}
    for node in graph_module.graph.nodes:
        node.meta.clear()
    graph_module.graph._tracer_cls = None
    plain = plain_graph_module(graph_module)
    for name, value in graph_module.meta.get(PRESERVED, {}).items():
        setattr(plain, name, value)
    _require_survival(plain, places)
    return plain


def _write_otherwise(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """Put in the place of ``node``, a function's call, what computes the same and survives, where that is known."""
    graph, target = node.graph, node.target
    given = node.args[0].meta.get(META) if node.args and isinstance(node.args[0], fx.Node) else None
    new: Any
    with graph.inserting_before(node):
        if isinstance(target, Written):
            new = _written_in_place(node, target)
        elif (layer := _layer_of(node)) is not None:
            path = free_target(graph_module, node.name)
            set_attribute(graph_module, path, layer.train(graph_module.training))
            new = graph.call_module(path, (Call(node).input,))
        elif target is len and isinstance(given, TensorMetadata):
            new = graph.call_method("size", (*node.args, 0))
        elif target is int and type(given) is int:
            new = node.args[0]
        elif target in _TRUTHS and type(given) in (int, bool):
            new = graph.call_function(_TRUTHS[target], (node.args[0], 0))
        else:
            return
    node.replace_all_uses_with(new)
    graph.erase_node(node)


def _written_in_place(node: fx.Node, written: Written) -> fx.Node:
    """Return a copy of what ``node`` writes into, after the function has written into it."""
    arguments = list(node.args)
    copied = arguments[written.position] = node.graph.call_method("clone", (arguments[written.position],))
    node.graph.call_function(written.function, tuple(arguments))
    return copied


def _layer_of(node: fx.Node) -> nn.Module | None:
    """Return a layer that does what ``node`` does, if that calls a function which is told the train flag."""
    if all(one.target != _FLAG for one in node.all_input_nodes):
        return None
    call = Call(node)
    rate = call.argument("p")
    if node.target in _LAYERS and not isinstance(rate, fx.Node):
        return _LAYERS[node.target]() if rate is None else _LAYERS[node.target](rate)
    if call.op is not None and call.op.name == "stochastic_depth":
        from torchvision.ops import StochasticDepth

        layer: nn.Module = StochasticDepth(rate, call.argument("mode"))
        return layer
    return None


def _require_survival(graph_module: fx.GraphModule, places: dict[str, str]) -> None:
    """Raise EmitError if torch.load would make another graph than ``graph_module``, in either mode."""
    if all(_is_read_as_it_is(node) for node in graph_module.graph.nodes):
        return
    wanted, found = _calls(graph_module), []
    _, (body, imports) = graph_module.__reduce__()
    before, why = torch.is_grad_enabled(), ""
    try:
        with torch.random.fork_rng(devices=[]):
            read = reduce_graph_module({name: _copied(part) for name, part in body.items()}, imports)
        found = _calls(read)
    except Exception as error:
        why = f" ({first_line(error).rstrip('.')})"
    finally:
        torch.set_grad_enabled(before)
    ours, theirs = ([call for _, call in calls] for calls in (wanted, found))
    if ours == theirs:
        return
    names = [name for (name, call), other in zip(wanted, theirs, strict=False) if call != other]
    where = f"at {places.get(names[0], names[0])}" if names else "and cannot"
    raise EmitError(
        f"torch.load, without fxprune, would trace this graph again and make another of it, {where}{why}; save it as "
        "it is, torch.save(graph, FILE), which torch.load reads where fxprune is installed"
    )


def _is_read_as_it_is(node: fx.Node) -> bool:
    """Say whether ``node`` is one of those that torch.load is known to make again; most graphs have no others."""
    if node.op in ("placeholder", "call_module", "output"):
        return True
    if node.op == "get_attr":
        return node.target != _FLAG
    parts = node.args[0] if node.args and isinstance(node.args[0], (list, tuple)) else node.args[:1]
    if not any(isinstance(one, fx.Node) and one.op != "get_attr" for one in parts):
        return False  # nothing that stands for a value: it would be computed then
    if node.op == "call_method":
        return not hasattr(fx.Proxy, str(node.target))
    return node.target in _recorded_functions()


@lru_cache(maxsize=1)
def _recorded_functions() -> frozenset[Any]:
    """Return the functions that a trace takes down as they are, if their first argument stands for a value."""
    operators = [getattr(operator, name) for name in magic_methods if hasattr(operator, name)]
    return frozenset((getattr, *operators, *itertools.chain(*get_overridable_functions().values())))


def _copied(part: Any) -> Any:
    return part.copy() if isinstance(part, dict) else part


def _calls(graph_module: nn.Module) -> list[tuple[str, tuple[Any, ...]]]:
    """Return the name of each node of a graph, and what it does; reads of attributes stand where they are used."""
    names: dict[fx.Node, str] = {}
    calls: list[tuple[str, tuple[Any, ...]]] = []

    def text(arguments: Any) -> str:
        return str(fx.map_arg(arguments, lambda node: _Text(names[node])))

    assert isinstance(graph_module, fx.GraphModule)
    for node in graph_module.graph.nodes:
        if node.op == "get_attr":
            held = attribute(graph_module, str(node.target))
            names[node] = str(node.target) if node.target == _FLAG else f"{node.target} {id(held)}"
        elif node.target is getattr:
            names[node] = text(node.args)
        else:
            names[node] = f"%{len(calls)}"
            target = id(node.target) if node.op == "call_function" else node.target
            calls.append((node.name, (node.op, target, text(node.args), text(sorted(node.kwargs.items())))))
    return calls


class _Text(str):
    """Text whose representation is itself."""

    def __repr__(self) -> str:
        return str(self)
