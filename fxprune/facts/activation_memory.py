"""How much memory a forward pass holds at each of its nodes, beside weights and inputs."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import torch
from torch import fx
from torch.fx.passes.shape_prop import TensorMetadata

from fxprune.facts.costs import batch_size
from fxprune.facts.in_place import overwritten
from fxprune.facts.shapes import META, propagate_shapes
from fxprune.graph import example_inputs_of
from fxprune.nests import map_tensors


def activation_bytes(graph_module: fx.GraphModule) -> dict[fx.Node, int]:
    """Return, for each node, the bytes that are held while it runs, its own value among them, for the traced batch.

    As in the emitted model, in eval mode: a value is free after its last read, a view has no memory of its own, and
    ReLUs and sums overwrite an input where they can. Weights, buffers, the inputs, the scratch memory of kernels and
    what opaque modules hold inside do not count.
    """
    device = next((tensor.device for tensor in graph_module.parameters()), torch.device("cpu"))
    inputs = map_tensors(example_inputs_of(graph_module), lambda tensor: tensor.to(device))
    storages = propagate_shapes(graph_module, inputs).storages
    sources = overwritten(graph_module.graph)
    nodes = list(graph_module.graph.nodes)
    own: dict[Hashable, Hashable] = {}  # the storage that an overwriting node's would be -> the one that it has
    sizes: dict[Hashable, int] = {}
    first: dict[Hashable, int] = {}
    last: dict[Hashable, int] = {}
    for position, node in enumerate(nodes):
        if node.op == "output":
            keys = []
        elif node in sources:
            (key,), (of_source,) = storages(node), storages(sources[node])
            own[key] = own.get(of_source, of_source)
            keys = [own[key]]
        else:
            keys = [own.get(key, key) for key in storages(node)]
        for key, size in zip(keys, _sizes(node.meta[META]), strict=False):
            if key not in first:
                first[key] = position
                sizes[key] = 0 if node.op in ("placeholder", "get_attr") else size
        for user in (node, *node.all_input_nodes):
            for key in keys if user is node else storages(user):
                last[own.get(key, key)] = position
    changes = [0] * (len(nodes) + 1)
    for key, size in sizes.items():
        changes[first[key]] += size
        changes[last[key] + 1] -= size
    held, found = 0, {}
    for node, change in zip(nodes, changes, strict=False):
        held += change
        found[node] = held
    return found


def peak_activation_bytes(graph_module: fx.GraphModule) -> int:
    """Return the most bytes that :func:`activation_bytes` finds at a node, for one sample."""
    return int(max(activation_bytes(graph_module).values()) // batch_size(graph_module))


def _sizes(value: Any) -> list[int]:
    """Return the bytes of each tensor in a value, given by torch.fx's metadata, in the order of its storages."""
    if isinstance(value, TensorMetadata):
        return [math.prod(value.shape) * value.dtype.itemsize]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return [size for part in parts for size in _sizes(part)]
