"""Graphs whose code is generated only where it is run."""

from __future__ import annotations

import copy
import weakref
from functools import cache
from typing import Any

from torch import fx, nn
from torch.fx._lazy_graph_module import _LazyGraphModule
from torch.fx.graph_module import _copy_attr

from fxprune.ir.applied import LAYER
from fxprune.ir.module_tree import TENSORS, empty_module
from fxprune.ir.pickled import from_pickle, to_pickle


class _CodeOnDemand:
    """An attribute, ``forward`` say, of a graph whose code is not generated yet: looking it up generates it."""

    def __init__(self, name: str = "forward", only: Any = None) -> None:
        self._name = name
        self._only = None if only is None else weakref.ref(only)  # of its class, which is looked at too

    def __get__(self, graph_module: Any, kind: type) -> Any:
        if graph_module is not None:
            getattr(graph_module, "real_recompile", graph_module.recompile)()
            return getattr(graph_module, self._name)
        only = None if self._only is None else self._only()
        if only is None:
            return self
        only.recompile()
        return vars(kind)[self._name]


class LazyGraphModule(_LazyGraphModule):
    """A GraphModule whose code is generated when it is first called or read: most stages of a pipeline never are.

    In torch's own the first call goes through ``__call__`` twice, and so through hooks, and torch.compile refuses it.
    """

    _lazy_forward = _CodeOnDemand()  # the name by which torch knows the placeholder
    forward = _lazy_forward

    def __reduce__(self) -> tuple[Any, ...]:
        """Let pickle, and so torch.save, keep the graph itself: see :mod:`fxprune.ir.pickled`."""
        return from_pickle, (LazyGraphModule, to_pickle(self))


def plain_graph_module(like: fx.GraphModule) -> fx.GraphModule:
    """Return torch's own GraphModule with the graph and the modules of ``like``; its code is generated on demand."""
    made = fx.GraphModule.__new__(fx.GraphModule)
    made.__dict__.update({name: copy.copy(value) for name, value in _empty_graph_module().items()})
    for table in ("_modules", *TENSORS):
        made.__dict__[table] = like.__dict__[table]
    made.training, made.__dict__["_graph"] = like.training, like.graph
    like.graph.owning_module = made
    kind: Any = type(made)  # a class that it has for itself
    kind.__name__ = type(like).__name__
    kind.forward, kind._code = _CodeOnDemand("forward", made), _CodeOnDemand("_code")
    kind.__reduce__ = _reduce_with_code
    return made


@cache
def _empty_graph_module() -> dict[str, Any]:
    """Return what torch's GraphModule of an empty graph holds, but for graph and code: making one generates code."""
    held = vars(fx.GraphModule(nn.Module(), fx.Graph()))
    return {name: value for name, value in held.items() if name not in ("_graph", "_code")}


def _reduce_with_code(plain: fx.GraphModule) -> Any:
    plain.recompile()
    return fx.GraphModule.__reduce__(plain)


def graph_module_of(root: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """Return the GraphModule of ``graph``, traced from ``root``: it holds what the graph uses of it."""
    made = LazyGraphModule(nn.Module(), fx.Graph(tracer_cls=graph._tracer_cls), class_name=type(root).__name__)
    made.training = root.training
    for node in graph.nodes:
        if LAYER in node.meta:
            made._modules[str(node.target)] = node.meta.pop(LAYER)
        elif node.op == "call_module":
            _install(root, made, str(node.target))
        elif node.op == "get_attr":
            _copy_attr(root, made, str(node.target))
    made.graph = graph
    return made


def _install(root: nn.Module, made: nn.Module, target: str) -> None:
    """Put the module at ``target`` below ``root`` there below ``made``, which gets the containers on the way."""
    *parents, last = target.split(".")
    for atom in parents:
        child = root._modules[atom]
        assert child is not None
        container = made._modules.get(atom)
        if container is child:
            return  # a module around it is installed
        if container is None:
            container = made._modules[atom] = empty_module()
        root, made = child, container
    made._modules[last] = root._modules[last]
