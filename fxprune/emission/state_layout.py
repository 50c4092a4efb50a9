"""What an emitted model holds: its layers, the tensors that nodes read directly, and which of them are the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import fx, nn

from fxprune.emission.blocks import home
from fxprune.emission.layer_spec import LayerSpec, layer_spec
from fxprune.emission.learned import Learned, learned
from fxprune.errors import EmitError
from fxprune.ir.node_targets import attribute
from fxprune.ir.nodes import place


@dataclass(frozen=True)
class TensorSpec:
    """A parameter, or a buffer, of a module that is no layer."""

    shape: tuple[int, ...]
    dtype: str
    parameter: bool
    trainable: bool


@dataclass(frozen=True)
class StateLayout:
    """All by dotted path. ``ties`` maps a module or tensor to the earlier name of the same object.

    ``stateful`` are the layers that hold tensors. ``scales`` are numbers that the source reads from buffers, by the
    names of nodes; the graph has the numbers themselves.
    """

    layers: dict[str, LayerSpec]
    tensors: dict[str, TensorSpec]
    ties: dict[str, str]
    stateful: frozenset[str] = frozenset()
    scales: Mapping[str, Learned] = field(default_factory=lambda: MappingProxyType({}))


def state_layout(graph_module: fx.GraphModule) -> StateLayout:
    """Describe what the nodes of ``graph_module`` use, in the order of the module tree.

    Raises EmitError, naming module or node, for what source cannot declare.
    """
    ties: dict[str, str] = {}
    first: dict[int, str] = {}
    layers: dict[str, LayerSpec] = {}
    for path, module in _outermost_called(graph_module):
        if id(module) in first:
            ties[path] = first[id(module)]
            continue
        first[id(module)] = path
        layers[path] = layer_spec(path, module)
    tensors: dict[str, TensorSpec] = {}
    for node in graph_module.graph.nodes:
        target = str(node.target)
        if node.op != "get_attr" or target in ("training", *tensors) or _inside(target, (*layers, *ties)):
            continue
        value = attribute(graph_module, target)
        if not isinstance(value, torch.Tensor):
            raise EmitError(f"{place(node)} reads {target}, a {type(value).__name__}; only tensors can be emitted")
        if value.is_sparse or value.is_quantized or value.is_nested:
            raise EmitError(f"{place(node)} reads {target}, which is no dense tensor; make it one before tracing")
        is_parameter = isinstance(value, nn.Parameter)
        tensors[target] = TensorSpec(tuple(value.shape), str(value.dtype), is_parameter, value.requires_grad)
    for name, tensor in _held(graph_module, layers, tensors):
        known = first.setdefault(id(tensor), name)
        if known != name:
            ties[name] = known
    stateful = {path for path in layers if any(_own_tensors(graph_module.get_submodule(path)))}
    taken = {
        name for kind in ("parameters", "buffers", "modules") for name, _ in getattr(graph_module, f"named_{kind}")()
    }
    scales = learned(graph_module.graph.nodes, partial(home, layers=layers), taken)
    return StateLayout(layers, tensors, ties, frozenset(stateful | ties.keys()), scales)


def _outermost_called(graph_module: fx.GraphModule) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module that a node calls, but those inside others, under every name that a node has for it."""
    called = {str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"}
    for path, module in graph_module.named_modules(remove_duplicate=False):
        if path in called and not any(path.startswith(f"{other}.") for other in called):
            yield path, module


def _inside(target: str, paths: tuple[str, ...]) -> bool:
    return any(target.startswith(f"{path}.") for path in paths)


def _held(
    graph_module: fx.GraphModule, layers: dict[str, LayerSpec], tensors: dict[str, Any]
) -> Iterator[tuple[str, torch.Tensor]]:
    for path in layers:
        for name, tensor in _own_tensors(graph_module.get_submodule(path)):
            yield f"{path}.{name}", tensor
    for target in tensors:
        yield target, attribute(graph_module, target)


def _own_tensors(layer: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from layer.named_parameters(remove_duplicate=False)
    yield from layer.named_buffers(remove_duplicate=False)
