"""Give back to a graph the train flag that tracing baked into it.

F.dropout(x, 0.5, False)   ->   F.dropout(x, 0.5, self.training)

The model is traced in train mode too, and the two graphs are compared.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from inspect import getattr_static
from typing import Any

import torch
from torch import fx, nn

from fxprune.errors import FxpruneWarning, TraceError
from fxprune.graph import innermost_module
from fxprune.module_tree import every_module

_CONSTANT = "_tensor_constant"  # how fx names tensors that forward makes
# All that this forward does with the flag is to hand it on to this recorded function, as its last argument.
_STOCHASTIC_DEPTH = ("torchvision.ops.stochastic_depth", "StochasticDepth", "stochastic_depth")


class FlagReads:
    """While entered, notes whether any module's ``training`` is read; only for what reads it is there a second trace.

    Reads of torchvision's StochasticDepth are told apart: for them no second trace is needed. A class that has a
    ``training`` of its own, or keeps it elsewhere, counts as having read it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.seen = False
        self.seen_in_stochastic_depth = False
        self.readers: set[nn.Module] = set()

    def __get__(self, module: nn.Module | None, kind: type) -> Any:
        if module is None:
            return self
        if (type(module).__module__, type(module).__qualname__) == _STOCHASTIC_DEPTH[:2]:
            self.seen_in_stochastic_depth = True
        else:
            self.seen = True
        self.readers.add(module)
        if "training" not in vars(module):
            raise AttributeError("training")  # Python asks __getattr__ then
        return vars(module)["training"]

    def __set__(self, module: nn.Module, value: bool) -> None:
        vars(module)["training"] = value

    def __enter__(self) -> FlagReads:
        nn.Module.training = self  # type: ignore[assignment]
        modules = every_module(self._model)
        self.seen = any(getattr_static(kind, "training") is not self for kind in set(map(type, modules))) or any(
            "training" not in module.__dict__ for module in modules
        )
        return self

    def __exit__(self, *_: object) -> None:
        del nn.Module.training


def follow_training_flag(
    graph: fx.Graph, model: nn.Module, retrace: Callable[[], fx.Graph], flags: Mapping[str, bool]
) -> None:
    """Replace flags that were baked from ``self.training`` by reads of it.

    Args:
        graph: the graph of ``model`` in eval mode; it is changed in place.
        model: the model, in eval mode; it is put in train mode for a moment.
        retrace: traces ``model`` again.
        flags: the train flag that each module of the user's model has, by path.
    """
    own = [(module, module.training) for module in model.modules()]
    for module, _ in own:
        module.training = True
    try:
        in_training = retrace()
    except TraceError as error:
        _warn_of_train_mode(model, error.reason)
        return
    finally:
        for module, training in own:
            module.training = training
    nodes, twins = list(graph.nodes), list(in_training.nodes)
    if [(n.op, _comparable_target(n)) for n in nodes] != [(n.op, _comparable_target(n)) for n in twins]:
        _warn_of_train_mode(model, "its train-mode graph has other nodes")
        return
    baked = (
        (getattr(model, str(node.target), None), getattr(model, str(twin.target), None))
        for node, twin in zip(nodes, twins, strict=True)
        if _comparable_target(node) == _CONSTANT
    )
    if any(a is not None and b is not None and not _same_tensor(a, b) for a, b in baked):
        _warn_of_train_mode(model, "a tensor that forward makes is another one")
        return
    originals = dict(zip(twins, nodes, strict=True))
    flag: fx.Node | None = None
    for node, twin in zip(nodes, twins, strict=True):
        for name in [*range(len(node.args)), *node.kwargs]:
            ours, theirs = _argument(node, name), fx.map_arg(_argument(twin, name), originals.__getitem__)
            if ours is False and theirs is True:
                if flags[""] and not flags.get(innermost_module(node), True):
                    continue  # its module was in eval mode inside a model in train mode
                if not flags[""] and flags.get(innermost_module(node), False):
                    _warn(
                        f"{innermost_module(node)} is in train mode inside {type(model).__name__}, which is in eval "
                        "mode; in the graph it follows the model, so that it computes what it does in eval mode"
                    )
                flag = flag or _read_flag(graph)
                node.update_arg(name, flag) if isinstance(name, int) else node.update_kwarg(name, flag)
            elif str(ours) != str(theirs):
                _warn_of_train_mode(model, f"{node.name} takes other arguments in train mode")


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
        return graph.get_attr("training")


def _comparable_target(node: fx.Node) -> Any:
    """Return the target, but for constants, which fx numbers anew in every trace."""
    return _CONSTANT if str(node.target).startswith(_CONSTANT) else node.target


def _same_tensor(a: torch.Tensor, b: torch.Tensor) -> bool:
    is_alike = (a.device, a.dtype, a.is_meta) == (b.device, b.dtype, False)
    return is_alike and torch.equal(a, b)


def _argument(node: fx.Node, name: int | str) -> Any:
    return node.args[name] if isinstance(name, int) else node.kwargs[name]


def _warn_of_train_mode(model: nn.Module, reason: str) -> None:
    _warn(
        f"{type(model).__name__} computes something else in train mode ({reason}); "
        "the graph is the eval-mode one, also while it trains"
    )


def _warn(message: str) -> None:
    warnings.warn(message, FxpruneWarning, stacklevel=2)
