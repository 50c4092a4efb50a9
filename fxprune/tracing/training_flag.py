"""Give back to a graph the train flag that tracing baked into it.

F.dropout(x, 0.5, False)   ->   F.dropout(x, 0.5, self.training)

The model is traced in train mode too, and the two graphs are compared. Where they differ by more than such flags they
are merged (:mod:`fxprune.tracing.merging`).
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import getattr_static
from typing import Any

import torch
from torch import fx, nn

from fxprune.errors import FxpruneWarning
from fxprune.ir.module_tree import every_module, every_path
from fxprune.ir.nodes import innermost_module
from fxprune.ir.trace_notes import Assumption, assertion_message
from fxprune.tracing.merging import same_tensor
from fxprune.tracing.patches import patched
from fxprune.tracing.symbolic import SymbolicTracer

_CONSTANT = "_tensor_constant"  # how fx names tensors that forward makes
# All that this forward does with the flag is to hand it on to this recorded function, as its last argument.
_STOCHASTIC_DEPTH = ("torchvision.ops.stochastic_depth", "StochasticDepth", "stochastic_depth")


class FlagReads:
    """While entered, notes whether any module's ``training`` is read; only for what reads it is there a second trace.

    Reads of torchvision's StochasticDepth are told apart: for them no second trace is needed. A class that has a
    ``training`` of its own, or keeps it elsewhere, counts as having read it.
    """

    def __init__(self, model: nn.Module, tracer: SymbolicTracer) -> None:
        self._model = model
        self._tracer = tracer
        self._installed = patched([(nn.Module, "training", self)])
        self.seen = False
        self.seen_in_stochastic_depth = False
        self.readers: set[nn.Module] = set()

    def __get__(self, module: nn.Module | None, kind: type) -> Any:
        if module is None:
            return self
        if not self._tracer.is_running:  # a node, to know its value: a layer follows its own flag
            self._note(module)
        if "training" not in vars(module):
            raise AttributeError("training")  # Python asks __getattr__ then
        return vars(module)["training"]

    def _note(self, module: nn.Module) -> None:
        self.readers.add(module)
        if (type(module).__module__, type(module).__qualname__) == _STOCHASTIC_DEPTH[:2]:
            self.seen_in_stochastic_depth = True
        else:
            self.seen = True

    def __set__(self, module: nn.Module, value: bool) -> None:
        vars(module)["training"] = value

    def __enter__(self) -> FlagReads:
        self._installed.__enter__()
        modules = every_module(self._model)
        self.seen = any(getattr_static(kind, "training") is not self for kind in set(map(type, modules))) or any(
            "training" not in module.__dict__ for module in modules
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._installed.__exit__(None, None, None)


def follow_training_flag(graph: fx.Graph, in_training: fx.Graph, model: nn.Module, flags: Mapping[str, bool]) -> bool:
    """Replace flags that were baked from ``self.training`` by reads of it, where the modes differ by nothing else.

    Args:
        graph: the graph of ``model`` in eval mode; it is changed in place.
        in_training: its graph in train mode.
        model: the module that both are traced from.
        flags: the train flag that each module of the user's model has, by path.

    Returns:
        Whether ``graph`` now computes what both do; if not it is as it was.
    """
    nodes, twins = list(graph.nodes), list(in_training.nodes)
    if [(n.op, _comparable_target(n)) for n in nodes] != [(n.op, _comparable_target(n)) for n in twins]:
        return False
    baked = (
        (getattr(model, str(node.target), None), getattr(model, str(twin.target), None))
        for node, twin in zip(nodes, twins, strict=True)
        if _comparable_target(node) == _CONSTANT
    )
    if any(a is not None and b is not None and not same_tensor(a, b) for a, b in baked):
        return False
    originals = dict(zip(twins, nodes, strict=True))
    found: list[tuple[fx.Node, int | str]] = []
    for node, twin in zip(nodes, twins, strict=True):
        for name in [*range(len(node.args)), *node.kwargs]:
            ours, theirs = _argument(node, name), fx.map_arg(_argument(twin, name), originals.__getitem__)
            if ours is False and theirs is True:
                found.append((node, name))
            elif str(ours) != str(theirs):
                return False
    flag = _read_flag(graph) if found else None
    for node, name in found:
        path = innermost_module(node)
        if not flags[""] and flags.get(path, False):
            _warn(
                f"{path} is in train mode inside {type(model).__name__}, which is in eval mode; in the graph it "
                "follows the model, so that it computes what it does in eval mode"
            )
        node.update_arg(name, flag) if isinstance(name, int) else node.update_kwarg(name, flag)
    return True


def refuse_train_mode(graph_module: fx.GraphModule, why: str, flags: Mapping[str, bool]) -> Assumption:
    """Let ``graph_module`` refuse to run in train mode, and warn if it is in it; return what it assumes so."""
    graph = graph_module.graph
    if flags[""]:
        _warn(
            f"{type(graph_module).__name__} fails on the example inputs in train mode ({why}), and its graph will; "
            "give inputs that both modes take, or train_inputs"
        )
    flag = _read_flag(graph)
    with graph.inserting_after(flag):
        is_eval = graph.call_function(operator.not_, (flag,))
    source, what = "in train mode", f"it was in eval mode, since in train mode the model fails on the example: {why}"
    with graph.inserting_after(is_eval):
        check = graph.call_function(torch._assert, (is_eval, assertion_message(source, what)))
    graph_module.recompile()
    return Assumption(source, what, check.name)


@contextmanager
def in_train_mode(model: nn.Module, flags: Mapping[str, bool]) -> Iterator[None]:
    """Put ``model`` in train mode inside; what the user keeps in eval mode in a model in train mode stays so."""
    modules = every_path(model)
    before = {path: module.training for path, module in modules.items()}
    for path, module in modules.items():
        module.training = flags.get(path, True) if flags[""] else True
    try:
        yield
    finally:
        for path, module in modules.items():
            module.training = before[path]


def follow_stochastic_depth(graph: fx.Graph, flags: Mapping[str, bool]) -> None:
    """Replace the flags of torchvision's stochastic_depth by reads of the graph's own."""
    flag: fx.Node | None = None
    for node in list(graph.nodes):
        home, name = getattr(node.target, "__module__", ""), getattr(node.target, "__name__", "")
        if (home, name) == _STOCHASTIC_DEPTH[::2] and len(node.args) == 4 and node.args[3] is False:
            if flags[""] and not flags.get(innermost_module(node), True):
                continue  # its module was in eval mode inside a model in train mode
            flag = flag or _read_flag(graph)
            node.update_arg(3, flag)


def _read_flag(graph: fx.Graph) -> fx.Node:
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    with graph.inserting_after(inputs[-1]) if inputs else graph.inserting_before():
        return graph.create_node("get_attr", "training")


def _comparable_target(node: fx.Node) -> Any:
    """Return the target, but for constants, which fx numbers anew in every trace."""
    return _CONSTANT if str(node.target).startswith(_CONSTANT) else node.target


def _argument(node: fx.Node, name: int | str) -> Any:
    return node.args[name] if isinstance(name, int) else node.kwargs[name]


def _warn(message: str) -> None:
    warnings.warn(message, FxpruneWarning, stacklevel=2)
