"""Evaluate weights that are computed from parameters and buffers alone, and make plain layers of their readers.

conv2d(x, standardize(w), b)               ->   nn.Conv2d with weight standardize(w)
nn.Conv2d with a parametrized weight f(w)  ->   nn.Conv2d with weight f(w)            (inside a ResConv too)
F.linear(x, w, b)                          ->   nn.Linear
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from fxprune.facts.constants import Constants
from fxprune.facts.module_uses import CallSites
from fxprune.gates.base import ungated
from fxprune.gates.gate import ScaledLayer
from fxprune.ir.module_tree import every_module, has_hooks
from fxprune.ir.node_targets import attribute, free_target, module_target, set_attribute, set_buffer
from fxprune.ir.nodes import called_module, erase_unread, graphs_of, inherit
from fxprune.ops.call import is_conv
from fxprune.ops.layer_classes import TRANSPOSED_CLASSES, WEIGHTED_CLASSES
from fxprune.rewriting.contract import Contract, Log, Pass
from fxprune.structures.computed_weights import computed_weights, plain_layer
from fxprune.structures.conv_calls import ConvCall, changes_by_call, conv_call
from fxprune.weights.exact import keeping_exact, make_parameter, rounded

_LAYERS = (*WEIGHTED_CLASSES, *TRANSPOSED_CLASSES)


@dataclass(frozen=True)
class FreezeWeights(Pass):
    """Evaluate weights that are computed from parameters alone, so that convs and linear layers become plain."""

    name: ClassVar[str] = "freeze-weights"
    # which reads weights that this makes plain
    after: ClassVar[tuple[str, ...]] = ("fuse-branch-scale",)
    contract: ClassVar[Contract] = Contract.VALUES
    changes_shapes: ClassVar[bool] = False

    def may_apply(self, graph_module: fx.GraphModule) -> bool:
        """Say whether any weight may be computed, or read by a function."""
        return any(map(_may_freeze, (node for _, graph in graphs_of(graph_module) for node in graph.graph.nodes)))

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        """Freeze every such weight."""
        self._freeze_layers(graph_module, log)
        self._freeze_values(graph_module, log)
        if log.rewritten:
            log.warn("weights that were computed from others are plain now; training goes on with them directly")
        sites, constants = CallSites(graph_module), Constants(graph_module)
        for node in list(graph_module.graph.nodes):
            if node.op == "call_function" and is_conv(node):
                call = conv_call(node, sites, constants)
                if isinstance(call, ConvCall):
                    self._call_module(graph_module, node, call.input, call.module, log)
                else:
                    log.decline(node, call)
            elif node.target is functional.linear:
                self._make_linear(graph_module, node, sites, log)

    def _freeze_layers(self, graph_module: fx.GraphModule, log: Log) -> None:
        """Replace every module that computes its weights, wherever it is called."""
        plain: dict[int, nn.Module] = {}
        for node in graph_module.graph.nodes:
            module = called_module(node)
            if module is None:
                continue
            layer = ungated(module)
            names = computed_weights(layer)
            if not names:
                continue
            if id(module) not in plain:
                kind = parametrize.type_before_parametrizations(layer)
                if changes_by_call(layer):
                    log.decline(node, f"its {' and '.join(names)} is another one in every call")
                    continue
                frozen = plain_layer(layer) if kind in _LAYERS else None
                if frozen is None or has_hooks(frozen):
                    log.decline(node, f"it is a {kind.__name__}" if frozen is None else "it has other hooks too")
                    continue
                plain[id(module)] = module.with_wrapped(frozen) if isinstance(module, ScaledLayer) else frozen
            log.rewrote(node, f"its {' and '.join(names)} is plain now")
            inherit(node, node, made_by=self.name)
            set_attribute(graph_module, str(node.target), plain[id(module)])

    def _freeze_values(self, graph_module: fx.GraphModule, log: Log) -> None:
        """Replace each tensor that the graph computes from parameters, and something else reads, by its value."""
        constants = Constants(graph_module)
        for node in reversed(list(graph_module.graph.nodes)):
            if node.op not in ("call_function", "call_method", "call_module") or not node.users:
                continue
            if constants.obstacle(node) is not None or not isinstance(constants.value(node), torch.Tensor):
                continue
            if all(constants.obstacle(user) is None for user in node.users) or not constants.leaves(node):
                continue
            self._freeze_value(graph_module, node, constants, log)

    def _freeze_value(self, graph_module: fx.GraphModule, node: fx.Node, constants: Constants, log: Log) -> None:
        leaves = constants.leaves(node)
        tensors = [attribute(graph_module, str(leaf.target)) for leaf in leaves]
        value = constants.value(node)
        target = free_target(graph_module, str(leaves[0].target))
        log.rewrote(node, f"is computed from {', '.join(str(leaf.target) for leaf in leaves)} alone")
        trains = any(tensor.requires_grad for tensor in tensors)
        if value.is_floating_point() and any(isinstance(tensor, nn.Parameter) for tensor in tensors):
            set_attribute(graph_module, target, _parameter(constants, node, trains))
        else:
            set_buffer(graph_module, target, _buffer(constants, node))
        with graph_module.graph.inserting_before(node):
            frozen = graph_module.graph.get_attr(target)
        inherit(frozen, *leaves, node, made_by=self.name)
        readers = [user for user in node.users if constants.obstacle(user) is not None]
        node.replace_all_uses_with(frozen, delete_user_cb=readers.__contains__, propagate_meta=False)
        erase_unread(node)

    def _make_linear(self, graph_module: fx.GraphModule, node: fx.Node, sites: CallSites, log: Log) -> None:
        arguments: dict[str, Any] = dict(zip(("input", "weight", "bias"), node.args, strict=False)) | node.kwargs
        source, weight, bias = arguments["input"], arguments["weight"], arguments.get("bias")
        read = {name: part for name, part in (("weight", weight), ("bias", bias)) if part is not None}
        tensors: dict[str, nn.Parameter] = {}
        for name, part in read.items():
            is_read = isinstance(part, fx.Node) and part.op == "get_attr"
            tensor = attribute(graph_module, str(part.target)) if is_read else None
            if not isinstance(tensor, nn.Parameter):
                return log.decline(node, f"its {name} is no parameter")
            if sites.reads(tensor) != 1:
                return log.decline(node, f"its {name} is shared by {sites.reads(tensor)} call sites")
            tensors[name] = tensor
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        rows = shapes["weight"][:1]
        if not isinstance(source, fx.Node) or len(shapes["weight"]) != 2 or shapes.get("bias", rows) != rows:
            return log.decline(node, "its weight is no matrix, or its bias has another length")
        layer = nn.Linear(shapes["weight"][1], rows[0], bias="bias" in tensors, device="meta")
        for name, tensor in tensors.items():
            setattr(layer, name, tensor)
        layer.train(graph_module.training)
        return self._call_module(graph_module, node, source, layer, log)

    def _call_module(
        self, graph_module: fx.GraphModule, node: fx.Node, source: fx.Node, layer: nn.Module, log: Log
    ) -> None:
        target = module_target(graph_module, node, source)
        log.rewrote(node, f"is now the layer {target}")
        set_attribute(graph_module, target, layer)
        with graph_module.graph.inserting_before(node):
            new = graph_module.graph.call_module(target, (source,))
        inherit(new, node, made_by=self.name)
        node.replace_all_uses_with(new, propagate_meta=False)
        erase_unread(node)


@keeping_exact
def _parameter(constants: Constants, node: fx.Node, trains: bool) -> nn.Parameter:
    return make_parameter(constants.wide_value(node), constants.value(node), trains)


@keeping_exact
def _buffer(constants: Constants, node: fx.Node) -> torch.Tensor:
    return rounded(constants.wide_value(node), constants.value(node))


def _may_freeze(node: fx.Node) -> bool:
    module = called_module(node)
    if module is not None:
        return any(map(computed_weights, every_module(module)))
    if node.op == "get_attr" and node.graph.owning_module is not None:
        return isinstance(attribute(node.graph.owning_module, str(node.target)), torch.Tensor)
    return node.target is functional.linear or (node.op == "call_function" and is_conv(node))
