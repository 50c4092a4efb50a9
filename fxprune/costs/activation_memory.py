"""How much memory a forward pass holds at each of its nodes, beside weights and inputs."""

from __future__ import annotations

import math
from collections.abc import Hashable
from itertools import accumulate
from typing import Any

from torch import fx

from fxprune.costs.macs import batch_size
from fxprune.facts.overwriting import overwritten
from fxprune.facts.shapes import metadata_in, values_of
from fxprune.ir.by_mode import only_in
from fxprune.ir.nodes import example_inputs_of


def activation_bytes(graph_module: fx.GraphModule) -> dict[fx.Node, int]:
    """Return, for each node that eval mode computes, the bytes held while it runs, its own value too, for the batch.

    As in the emitted model, in eval mode: a value is free after its last read (there it may be kept until as much is
    needed again), a view has no memory of its own, and ReLUs and sums overwrite an input where they can. Weights,
    buffers, the inputs, the scratch memory of kernels and what opaque modules hold inside do not count.
    """
    storages = _storages(graph_module)
    in_training = only_in(graph_module.graph, "train")
    nodes = [node for node in graph_module.graph.nodes if node not in in_training]
    sizes: dict[Hashable, int] = {}
    first: dict[Hashable, int] = {}
    last: dict[Hashable, int] = {}
    for position, node in enumerate(nodes):
        for key, size in storages[node]:
            if key not in first:
                first[key] = position
                sizes[key] = 0 if node.op in ("placeholder", "get_attr") else size
        for read in (node, *node.all_input_nodes):
            last |= dict.fromkeys((key for key, _ in storages[read]), position)
    changes = [0] * (len(nodes) + 1)
    for key, size in sizes.items():
        changes[first[key]] += size
        changes[last[key] + 1] -= size
    return dict(zip(nodes, accumulate(changes), strict=False))


def _storages(graph_module: fx.GraphModule) -> dict[fx.Node, list[tuple[Hashable, int]]]:
    """Return a key for the memory of each tensor that a node returns, and the tensor's bytes."""
    values = values_of(graph_module, example_inputs_of(graph_module))
    sources = overwritten(graph_module.graph)
    in_training = only_in(graph_module.graph, "train")
    taken_over: dict[Hashable, Hashable] = {}
    found: dict[fx.Node, list[tuple[Hashable, int]]] = {}
    for node in graph_module.graph.nodes:
        if node.op == "output" or node in in_training:
            found[node] = []  # nothing of its own
            continue
        keys = values.storages(node)
        if node in sources:
            ((taken_over[keys[0]], _),) = found[sources[node]]
        found[node] = [
            (taken_over.get(key, key), size) for key, size in zip(keys, _sizes(values.metadata(node)), strict=False)
        ]
    return found


def peak_activation_bytes(graph_module: fx.GraphModule) -> int:
    """Return the most bytes that :func:`activation_bytes` finds at a node, for one sample."""
    return int(max(activation_bytes(graph_module).values()) // batch_size(graph_module))


def _sizes(value: Any) -> list[int]:
    """Return the bytes of each tensor in a value, given by torch.fx's metadata, in the order of its storages."""
    return [math.prod(one.shape) * one.dtype.itemsize for one in metadata_in(value)]
