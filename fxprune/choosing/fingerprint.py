"""What binds a plan to an architecture, and what was measured to weights and images too.

The first is a short line for each layer of a network that has a kernel or a matrix.

    layer1.0.conv1 Conv2d 64x64x3x3

Norms and biases are left out, so that folding norms changes nothing, and a layer inside a gate counts as itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

import torch
from torch import fx, nn

from fxprune.gates.base import Gated
from fxprune.ir.module_tree import is_opaque
from fxprune.ir.node_targets import attribute
from fxprune.ir.nodes import called_module, graphs_of


def fingerprint(graph_module: fx.GraphModule) -> tuple[str, ...]:
    """Return the lines of a graph and of its regions, in graph order: path, type, and shape of each weight."""
    graphs = graphs_of(graph_module)
    lines = (line for region, graph in graphs for node in graph.graph.nodes for line in _lines(graph, node, region))
    return tuple(dict.fromkeys(lines))


def _lines(graph_module: fx.GraphModule, node: fx.Node, region: str) -> Iterator[str]:
    path = f"{region}.{node.target}" if region else str(node.target)
    if node.op == "get_attr":
        tensor = attribute(graph_module, str(node.target))
        if isinstance(tensor, nn.Parameter) and tensor.dim() > 1:
            yield f"{path} Parameter {_shape(tensor)}"
    module = called_module(node)
    if module is None or is_opaque(module):
        return
    for layer in module._modules.values() if isinstance(module, Gated) else (module,):
        for name, part in layer.named_modules() if layer is not None else ():
            for key, tensor in part._parameters.items():
                if tensor is not None and tensor.dim() > 1:
                    owner = f"{path}.{name}" if name else path
                    yield f"{owner if key == 'weight' else f'{owner}.{key}'} {type(part).__name__} {_shape(tensor)}"


def _shape(tensor: nn.Parameter) -> str:
    return "x".join(map(str, tensor.shape))


def weights_of(graph_module: fx.GraphModule) -> str:
    """Return a checksum of the parameters and buffers of a graph, in the order of their names."""
    state = sorted(graph_module.state_dict().items())
    return digest_of(one for _, one in state if isinstance(one, torch.Tensor))


def digest_of(tensors: Iterable[torch.Tensor | None]) -> str:
    """Return a checksum of the values of ``tensors``, in this order."""
    found = hashlib.sha256()
    for one in tensors:
        if one is not None:
            found.update(one.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def first_difference(noted: Sequence[str], now: Sequence[str]) -> str | None:
    """Return where two fingerprints part, in words; None if they are one."""
    for number, (one, other) in enumerate(zip_longest(noted, now), start=1):
        if one != other:
            return f"its layer {number} is {one or 'missing'}, and here it is {other or 'missing'}"
    return None
