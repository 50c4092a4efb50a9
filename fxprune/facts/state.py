"""Which values of a graph may change after they were computed: those that share memory with an updated buffer."""

from __future__ import annotations

import torch
from torch import fx

from fxprune.facts.effects import is_in_place
from fxprune.node_targets import attribute


def updated_reads(graph_module: fx.GraphModule) -> set[fx.Node]:
    """Return the reads of every tensor that an in-place op of the graph may write to, under whatever names."""
    reads = graph_module.graph.find_nodes(op="get_attr", sort=False)
    if not reads:
        return set()
    storages: set[int] = set()
    for node in graph_module.graph.nodes:
        if is_in_place(node):
            written = [node.args[0] if node.args else node.kwargs.get("input"), node.kwargs.get("out")]
            storages |= {_storage(graph_module, read) for read in _reads_behind(written)}
    return {read for read in reads if _storage(graph_module, read) in storages - {0}}


def updated_values(graph_module: fx.GraphModule) -> set[fx.Node]:
    """Return every value that is, or may be a view of, a tensor which an in-place op of the graph writes to.

    What is read from such a value depends on when it is read: no pass may let a later node read it instead of a
    copy. Which op returns a view is not taken for known: all that is computed from such a tensor counts.
    """
    found = updated_reads(graph_module)
    if found:
        for node in graph_module.graph.nodes:
            if not found.isdisjoint(node.all_input_nodes):
                found.add(node)
    return found


def _reads_behind(written: list[object]) -> set[fx.Node]:
    """Return the reads of tensors that a written-to value may be a view of."""
    waiting = [source for source in written if isinstance(source, fx.Node)]
    seen: set[fx.Node] = set()
    while waiting:
        source = waiting.pop()
        if source not in seen:
            seen.add(source)
            waiting += source.all_input_nodes
    return {source for source in seen if source.op == "get_attr"}


def _storage(graph_module: fx.GraphModule, read: fx.Node) -> int:
    value = attribute(graph_module, str(read.target))
    return value.untyped_storage()._cdata if isinstance(value, torch.Tensor) else 0
