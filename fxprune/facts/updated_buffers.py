"""Which tensors of a graph forward writes to, under whatever names, and which values may change with them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import fx, nn

from fxprune.facts.effects import is_in_place, rescaled_weight, rescales
from fxprune.ir.module_tree import is_opaque
from fxprune.ir.node_targets import attribute
from fxprune.ir.nodes import called_modules
from fxprune.ops.call import Call
from fxprune.ops.table import row_of_target


def storage_of(tensor: object) -> int:
    """Return a key for the memory of ``tensor``, which all its views have; 0 for what is no tensor."""
    return tensor.untyped_storage()._cdata if isinstance(tensor, torch.Tensor) else 0


def updated_storages(graph_module: fx.GraphModule) -> frozenset[int]:
    """Return the memory of every parameter and buffer that forward may write to in eval mode, under whatever names.

    In-place ops write to what they are called on and to all that this may be a view of, an opaque module to all that
    it holds.
    """
    found: set[int] = set()
    graph = graph_module.graph
    for module in called_modules(graph_module).values():
        if is_opaque(module) or rescales(module):
            found |= {storage_of(tensor) for tensor in (*module.parameters(), *module.buffers())}
    for node in graph.nodes if _reads_of_tensors(graph_module) else ():
        for read in _reads_behind(written) if (written := _written(node)) else ():
            found.add(storage_of(attribute(graph_module, str(read.target))))
    return frozenset(found - {0})


def updated_tensor(module: nn.Module, storages: Collection[int]) -> str | None:
    """Return the name of a parameter or a buffer of ``module`` in one of ``storages``, if there is one."""
    if not storages:
        return None
    named = (*module.named_parameters(), *module.named_buffers())
    return next((name for name, tensor in named if storage_of(tensor) in storages), None)


def updated_reads(graph_module: fx.GraphModule) -> set[fx.Node]:
    """Return the reads of every tensor that forward may write to, under whatever names."""
    reads = _reads_of_tensors(graph_module)
    storages = updated_storages(graph_module) if reads else ()
    return {read for read, storage in reads.items() if storage in storages}


def _reads_of_tensors(graph_module: fx.GraphModule) -> dict[fx.Node, int]:
    """Return what reads a parameter or a buffer, with its memory; train flags are read too, and are none."""
    reads = graph_module.graph.find_nodes(op="get_attr", sort=False)
    storages = {read: storage_of(attribute(graph_module, str(read.target))) for read in reads}
    return {read: storage for read, storage in storages.items() if storage}


def updated_values(graph_module: fx.GraphModule) -> set[fx.Node]:
    """Return every value that is, or may be a view of, a tensor which forward writes to.

    What is read from such a value depends on when it is read: no pass may let a later node read it instead of a
    copy. What is not known to return new memory counts.
    """
    found = updated_reads(graph_module)
    if found:
        for node in graph_module.graph.nodes:
            if not found.isdisjoint(node.all_input_nodes) and not _returns_new_memory(node):
                found.add(node)
    return found


def writes_to_values(graph_module: fx.GraphModule) -> Iterator[fx.Node]:
    """Yield what writes into a value that is no parameter or buffer, nor a view of one: no functional graph does."""
    for node in graph_module.graph.nodes:
        if (written := _written(node)) and not _reads_behind(written):
            yield node


def _returns_new_memory(node: fx.Node) -> bool:
    op = Call(node).exact
    return op is not None and op.fresh and not is_in_place(node)


def _written(node: fx.Node) -> list[fx.Node]:
    """Return what ``node`` may write into, of the values that it is called on."""
    if is_in_place(node):
        return _nodes_in([Call(node).input, node.kwargs.get("out")])
    if node.op != "call_function":
        return []
    return [*_written_statistics(node), *_nodes_in([rescaled_weight(node)])]


def _written_statistics(node: fx.Node) -> list[fx.Node]:
    """Return the statistics that a functional norm updates in eval mode too."""
    op = row_of_target(node.target) if node.op == "call_function" else None
    if op is None or op.kind != "norm":
        return []
    call = Call(node)
    flags = [call.argument(name) for name in ("training", "use_input_stats")]
    if not any(_is_set(flag) for flag in flags):
        return []
    return _nodes_in([call.argument("running_mean"), call.argument("running_var")])


def _is_set(flag: Any) -> bool:
    """Say whether a flag is true in eval mode, or may be: one that follows the graph's own is not."""
    follows = isinstance(flag, fx.Node) and flag.op == "get_attr" and flag.target == "training"
    return flag is not None and flag is not False and not follows


def _nodes_in(values: list[Any]) -> list[fx.Node]:
    found: list[fx.Node] = []

    def visit(node: fx.Node) -> fx.Node:
        found.append(node)
        return node

    fx.map_arg(values, visit)
    return found


def _reads_behind(written: list[fx.Node]) -> set[fx.Node]:
    """Return the reads of tensors that a written-to value may be a view of."""
    waiting = list(written)
    seen: set[fx.Node] = set()
    while waiting:
        source = waiting.pop()
        if source not in seen:
            seen.add(source)
            waiting += [] if _returns_new_memory(source) else source.all_input_nodes
    return {source for source in seen if source.op == "get_attr"}
