"""Copies of modules; copies of graphs that cost little: layers are shared."""

from __future__ import annotations

import copy
import copyreg
from collections import OrderedDict
from typing import Any

import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode

from fxprune.errors import FxpruneError, first_line
from fxprune.ir.lazy_graph_module import LazyGraphModule
from fxprune.ir.module_tree import TENSORS, empty_module, every_module, is_opaque, is_region
from fxprune.ir.nodes import PRESERVED, graphs_of
from fxprune.ir.pytrees import PLAIN
from fxprune.ir.wrappers import holds_wrappers, inside, original_of


def copy_graph_module(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Return a GraphModule with its own graph and containers that shares every leaf module and tensor.

    Submodules that the graph does not use come along.
    """
    return copy_graphs(graph_module)[0][1]


def copy_graphs(graph_module: fx.GraphModule) -> list[tuple[str, fx.GraphModule]]:
    """Return what ``graphs_of(copy_graph_module(graph_module))`` returns."""
    containers, has_opaque = _copy_containers(graph_module)
    tracer = graph_module.graph._tracer_cls
    duplicate = LazyGraphModule(containers, fx.Graph(tracer_cls=tracer), class_name=type(graph_module).__name__)
    for table in ("_modules", *TENSORS):
        duplicate.__dict__[table] = containers.__dict__[table]
    duplicate.graph = copy_graph(graph_module.graph)
    duplicate.meta.update(graph_module.meta)
    for attr, value in graph_module.meta.get(PRESERVED, {}).items():
        setattr(duplicate, attr, value)
    return graphs_of(duplicate) if has_opaque else [("", duplicate)]


_INSIDES = ("_graph_namespace", "_insert", "_find_nodes_lookup_table", "_len", "_codegen")  # of torch's Graph, 2.6 on
_INSIDES_KNOWN = all(hasattr(fx.Graph(), name) for name in _INSIDES) and all(
    hasattr(fx.Graph()._graph_namespace, name) for name in ("_obj_to_name", "_used_names", "_base_count")
)


def copy_graph(graph: fx.Graph) -> fx.Graph:
    """Return what ``copy.deepcopy(graph)`` returns, in a third of the time: a pass copies every graph it sees.

    Nodes are put into the new graph without the checks that they passed in the old one.
    """
    if not _INSIDES_KNOWN:
        return copy.deepcopy(graph)
    duplicate: Any = fx.Graph(tracer_cls=graph._tracer_cls)
    namespace, insert, table = duplicate._graph_namespace, duplicate._insert, duplicate._find_nodes_lookup_table.table
    copies: dict[fx.Node, fx.Node] = {}
    names: dict[fx.Node, str] = {}
    counts: dict[str, int] = {}
    of, map_arg, make = copies.__getitem__, fx.map_arg, fx.Node
    for node in graph.nodes:
        name, op, target, kwargs = node.name, node.op, node.target, node.kwargs
        new = copies[node] = make(
            duplicate, name, op, target, map_arg(node.args, of), map_arg(kwargs, of) if kwargs else {}, node.type
        )
        new.meta.update(node.meta)
        insert(new)
        table[op, target if op == "call_function" else None][new] = None
        names[new] = name
        base, _, number = name.rpartition("_")  # what the next node of this name gets is told from the last one's
        if number.isdecimal() and number.isascii():
            counts[base] = int(number)
        else:
            counts.setdefault(name, 0)
    namespace._obj_to_name, namespace._used_names = names, set(names.values())
    namespace._base_count.update(counts)  # a defaultdict in torch 2.6
    duplicate._len = len(copies)
    duplicate._codegen = copy.deepcopy(graph._codegen)
    return duplicate  # type: ignore[no-any-return]


def _copy_containers(graph_module: fx.GraphModule) -> tuple[nn.Module, bool]:
    """Return a shallow copy of the module tree, and whether any leaf is opaque.

    The containers are new, the leaves (what nodes call or read) the same.
    """
    called = {str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"}
    opaque: list[nn.Module] = []
    copies: dict[int, Any] = {}

    def duplicate(module: nn.Module, prefix: str) -> nn.Module:
        fresh = empty_module()
        state, own = fresh.__dict__, module.__dict__
        state["training"] = module.training
        for table in TENSORS:
            if own[table]:
                state[table].update(own[table])
        children = state["_modules"]
        for name, child in module._modules.items():
            path = prefix + name
            if path not in called or child is None:
                child = None if child is None else duplicate(child, f"{path}.")
            elif is_opaque(child):
                opaque.append(child)
                child = _copy_opaque(child, path, copies)
            children[name] = child
        return fresh

    return duplicate(graph_module, ""), bool(opaque)


def _copy_opaque(module: nn.Module, path: str, memo: dict[int, Any]) -> nn.Module:
    """Return a copy of an opaque module: its state is its own, but weights, buffers and layers in regions are shared.

    So no graph sees what calls of another one leave in Python objects. What torch.jit compiled holds none.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return module
    for one in every_module(module):
        memo |= {id(tensor): tensor for tensor in (*one._parameters.values(), *one._buffers.values())}
        if is_region(one) and id(one) not in memo:
            memo |= {id(inner): inner for inner in every_module(one) if inner is not one}
            memo[id(one)] = copy_graph_module(one)
    try:
        return copy_module(module, memo=memo)
    except Exception as error:
        raise not_copied(path, error) from error


def not_copied(path: str, error: Exception) -> FxpruneError:
    """Return what is raised where the opaque module at ``path`` has come to hold what cannot be copied."""
    return FxpruneError(
        f"the opaque module {path} cannot be copied: {first_line(error)}; keep that outside of the module, or "
        "give its class a __deepcopy__"
    )


class _ComputedTensorsToo(TorchFunctionMode):
    """Lets ``copy.deepcopy`` copy tensors that are not leaves, by value."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            return memo.setdefault(id(tensor), tensor.detach().clone())
        return func(*args, **(kwargs or {}))


def copy_module(module: nn.Module, *, share_weights: bool = False, memo: dict[int, Any] | None = None) -> nn.Module:
    """Return a deep copy of ``module``; with ``share_weights`` its parameters and buffers are those of ``module``.

    Tensors that it computed and keeps (the weight of an old-style ``torch.nn.utils.weight_norm``, say) are copied by
    value, which plain deep-copying refuses: they are computed again in every forward. ``memo`` is that of
    ``copy.deepcopy``: by id, what there are copies of already; it gets those that are made.

    In the place of wrappers the copy has what is inside them, and of compiled methods what was compiled: those of the
    copy itself.
    """
    if memo is None:
        memo = {} if share_weights else _copies_of_viewed(module)
    if share_weights:
        for one in every_module(module):
            for tensor in (*one._parameters.values(), *one._buffers.values()):
                memo[id(tensor)] = tensor
    known = memo.copy()
    try:
        return _deepcopy_module(module, memo)
    except RuntimeError:  # computed tensors in its containers: to look for them takes twice the time
        memo.clear()
        memo.update(known)
        with _ComputedTensorsToo():
            return _deepcopy_module(module, memo)


def _copies_of_viewed(module: nn.Module) -> dict[int, Any]:
    """Return a memo with copies of the parameters whose memory other tensors of ``module`` have too, under any name.

    Deep-copying a parameter gives it memory of its own: what is written to a view of it would not reach the copy.
    """
    tensors = [t for one in every_module(module) for t in (*one._parameters.values(), *one._buffers.values())]
    memories: dict[int, dict[int, torch.Tensor]] = {}
    for tensor in tensors:
        if tensor is None or type(tensor) not in (torch.Tensor, nn.Parameter):
            continue
        if tensor.layout is torch.strided:
            memories.setdefault(tensor.untyped_storage()._cdata, {})[id(tensor)] = tensor
    memo: dict[int, Any] = {}
    for sharing in memories.values():
        for key, tensor in sharing.items() if len(sharing) > 1 else ():
            if type(tensor) is nn.Parameter and not vars(tensor):
                memo[key] = nn.Parameter(copy.deepcopy(tensor.detach(), memo), tensor.requires_grad)
    return memo


def unwrapped(model: nn.Module) -> nn.Module:
    """Return ``model`` without wrappers, at the root or below; where there is none below, what it is without copying.

    Raises:
        TraceError: a wrapper cannot be looked through (names it, and says what to do).
    """
    if not holds_wrappers(model):
        return model
    root = inside(model)
    return copy_module(root, share_weights=True) if holds_wrappers(root) else root


_TABLES = frozenset(vars(nn.Module()))  # torch's own, which modules do not share


def _deepcopy_module(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Do what ``copy.deepcopy`` does, several times as fast: most of what a module holds is empty, or a number."""
    if id(module) in memo:
        return memo[id(module)]  # type: ignore[no-any-return]
    wrapped = inside(module)
    if wrapped is not module:
        memo[id(module)] = duplicate = _deepcopy_module(wrapped, memo)
        return duplicate
    kind = type(module)
    how = () if hasattr(kind, "__deepcopy__") else module.__reduce_ex__(4)
    if len(how) < 3 or how[:2] != (copyreg.__newobj__, (kind,)) or type(how[2]) is not dict:  # type: ignore[attr-defined]
        for one in every_module(module):
            memo |= {id(v): v.detach().clone() for v in vars(one).values() if _is_computed(v)}
            if inside(one) is not one:
                _deepcopy_module(one, memo)
        return copy.deepcopy(module, memo)
    duplicate = memo[id(module)] = kind.__new__(kind)
    state: dict[str, Any] = {}
    for name, value in how[2].items():  # what the module's own __getstate__ leaves of it
        sort = type(value)
        if sort in PLAIN or (sort is tuple and PLAIN.issuperset(map(type, value))):
            pass
        elif name == "_modules":
            value = sort(
                (key, None if child is None else _deepcopy_module(child, memo)) for key, child in value.items()
            )
        elif name in _TABLES and sort in (dict, OrderedDict, set) and not value:
            value = sort()
        elif name in ("_parameters", "_buffers") and sort is dict:
            value = {
                key: memo[id(tensor)] if id(tensor) in memo else copy.deepcopy(tensor, memo)
                for key, tensor in value.items()
            }
        elif _is_computed(value):
            value = memo.setdefault(id(value), value.detach().clone())
        elif (original := original_of(value)) is not value:
            if getattr(original, "__self__", None) is module and original.__func__ is getattr(kind, name, None):
                continue  # a method of its class: the copy has it too
            value = copy.deepcopy(original, memo)
        else:
            value = copy.deepcopy(value, memo)
        state[name] = value
    duplicate.__setstate__(state)  # type: ignore[no-untyped-call]
    return duplicate


def _is_computed(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not value.is_leaf
