"""Multiply the scales of channels into the weights that read them.

conv(x; W * g[columns])   ->   conv(x; W'),    W' = W * g[columns]
(x * g) @ y               ->   (x * c) @ y,    c: a constant; nothing where all of g is 1
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx, nn

from fxprune.facts.shapes import note_shape
from fxprune.gates.channel_gate import ChannelScale, ScaledAxis, ScaledColumns
from fxprune.ir.node_targets import attribute, free_target
from fxprune.ir.nodes import called_module, input_at, only_user
from fxprune.rewriting.contract import Contract, Log, Pass
from fxprune.rewriting.rewriter import Rewriter
from fxprune.structures.channels.reading import factor_at, scales_of
from fxprune.weights.exact import exact, keeping_exact, make_parameter
from fxprune.weights.slicing import with_tensors


@dataclass(frozen=True)
class FuseChannelGate(Pass):
    """Multiply the scales of channels into the weights that read them."""

    name: ClassVar[str] = "fuse-channel-gate"
    contract: ClassVar[Contract] = Contract.VALUES
    changes_shapes: ClassVar[bool] = False

    def may_apply(self, graph_module: fx.GraphModule) -> bool:
        """Say whether there is a gate of channels."""
        return any(isinstance(one, ChannelScale) for one in graph_module.modules())

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        """Fuse all gates, and take them out."""
        rewriter = Rewriter(graph_module, log, self.name)
        modules = {node: called_module(node) for node in graph_module.graph.find_nodes(op="call_module")}
        fused: dict[int, nn.Module] = {}
        weights: dict[tuple[int, int, bytes], nn.Parameter] = {}  # tied ones stay tied
        for node, module in modules.items():
            if isinstance(module, ScaledColumns):
                layer = fused.get(id(module)) or _plain(node, module, weights)
                fused[id(module)] = layer
                rewriter.log.rewrote(node, "the scales of its channels are in its columns")
                rewriter.set_layer(node, layer)
                node.args = node.args[:1]
            elif isinstance(module, ScaledAxis):
                _fuse_axis(node, module, rewriter)
        for node, module in modules.items():
            if isinstance(module, ChannelScale) and not node.users:
                rewriter.log.rewrote(node, "is in the weights")
                rewriter.erase([node])


def _plain(node: fx.Node, module: ScaledColumns, known: dict[tuple[int, int, bytes], nn.Parameter]) -> nn.Module:
    """Return the layer with its columns times the scales that ``node`` reads."""
    weight, factor = module.layer.weight, factor_at(node)
    assert isinstance(weight, nn.Parameter)
    if (factor == 1).all():
        return module.layer
    key = (id(weight), module.axis, factor.tobytes())
    shape = [1] * weight.dim()
    shape[module.axis] = -1
    known[key] = known[key] if key in known else scaled_tensor(weight, torch.from_numpy(factor).view(shape))
    return with_tensors(module.layer, {"weight": known[key]})


def _fuse_axis(node: fx.Node, module: ScaledAxis, rewriter: Rewriter) -> None:
    operand, factor = input_at(node), factor_at(node)
    rewriter.log.rewrote(node, "the scales of its channels are constants")
    if (factor == 1).all():
        rewriter.replace(node, operand)
        return
    shape = [1] * len(operand.meta["tensor_meta"].shape)
    shape[module.axis] = -1
    graph_module = rewriter.graph_module
    scale = torch.from_numpy(factor).view(shape)
    owner = only_user(operand)
    if operand.op == "get_attr" and owner is node:
        weight = attribute(graph_module, str(operand.target))
        if _is_read_elsewhere(operand, graph_module):
            operand.target = free_target(graph_module, f"{operand.target}_scaled")
        rewriter.set_layer(operand, scaled_tensor(weight, scale))
        rewriter.replace(node, operand)
        return
    buffer = scale.to(scales_of(node)[0].device, operand.meta["tensor_meta"].dtype)
    target = rewriter.put(free_target(graph_module, f"{operand.name}_scale"), buffer)
    read = rewriter.insert("get_attr", target, (), before=node, of=[node])
    note_shape(read, buffer)
    rewriter.replace(node, rewriter.insert("call_function", operator.mul, (operand, read), before=node, of=[node]))


def _is_read_elsewhere(weight: fx.Node, graph_module: fx.GraphModule) -> bool:
    """Say whether another node reads what ``weight`` reads, or calls the layer that it is of."""
    layer = graph_module.get_submodule(str(weight.target).rpartition(".")[0])
    reads = weight.graph.find_nodes(op="get_attr")
    return any(one is not weight and one.target == weight.target for one in reads) or any(
        called_module(one) is layer for one in weight.graph.find_nodes(op="call_module")
    )


@keeping_exact
def scaled_tensor(tensor: nn.Parameter, scale: torch.Tensor) -> nn.Parameter:
    """Return a parameter times ``scale``, in float64 and of its rank."""
    return make_parameter(exact(tensor) * scale.to(tensor.device), tensor, tensor.requires_grad)
