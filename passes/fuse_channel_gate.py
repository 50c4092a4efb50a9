"""Multiply the scales of channels into the weights that read them.

conv(x; W * g[columns])   ->   conv(x; W'),    W' = W * g[columns]
conv(x * g; W)            ->   conv(x; W')
(x * g) @ y               ->   (x * c) @ y,    c: a constant; nothing where all of g is 1
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx, nn

from fxprune.facts.module_uses import CallSites
from fxprune.facts.shapes import note_shape, shape
from fxprune.gates.channel_gate import ChannelScale, ScaledAxis, ScaledColumns
from fxprune.ir.node_targets import attribute, free_target
from fxprune.ir.nodes import called_module, input_at, only_user
from fxprune.ops.call import Call
from fxprune.rewriting.contract import Contract, Log, Pass
from fxprune.rewriting.rewriter import Rewriter
from fxprune.structures.channels.reading import factor_at, scales_of
from fxprune.weights.exact import exact, keeping_exact, make_parameter
from fxprune.weights.slicing import with_tensors


@dataclass(frozen=True)
class FuseChannelGate(Pass):
    """Multiply the scales of channels into the weights that read them."""

    name: ClassVar[str] = "fuse-channel-gate"
    after: ClassVar[tuple[str, ...]] = ("fuse-resconv", "split-resconv")  # what these make reads the scales then
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
    if (factor == 1).all():
        rewriter.log.rewrote(node, "the scales of its channels are all 1")
        rewriter.replace(node, operand)
        return
    reader = only_user(node)
    layer = None if reader is None else _with_scaled_columns(reader, node, module.axis, torch.from_numpy(factor))
    if reader is not None and layer is not None:
        rewriter.log.rewrote(node, f"the scales of its channels are in the columns of {reader.target}")
        rewriter.set_layer(reader, layer)
        rewriter.replace(node, operand)
        return
    rewriter.log.rewrote(node, "the scales of its channels are constants")
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


def _with_scaled_columns(reader: fx.Node, x: fx.Node, axis: int, factor: torch.Tensor) -> nn.Module | None:
    """Return the layer that ``reader`` calls on ``x`` with its columns times ``factor``, of the channels on ``axis``.

    None if that is no plain conv or linear layer, or others read ``x`` or call it.
    """
    call, sites = Call(reader), CallSites(x.graph.owning_module)  # type: ignore[arg-type]  # it has one
    layer, rank = call.module, len(shape(x) or ())
    if layer is None or call.exact is None or call.input is not x:
        return None
    if sites.calls(layer) != 1 or sites.shared_parameter(layer) is not None:
        return None
    weight = layer._parameters.get("weight")
    if call.kind == "linear" and weight is not None and axis == rank - 1:
        scale = factor
    elif call.kind in ("conv", "transposed conv") and weight is not None and axis == 1 and rank == weight.dim():
        ones = [1] * (rank - 2)
        if call.kind == "transposed conv":
            scale = factor.view(-1, 1, *ones)
        else:
            rows = factor.view(layer.groups, 1, -1).expand(-1, weight.shape[0] // layer.groups, -1)
            scale = rows.reshape(weight.shape[0], weight.shape[1], *ones)
    else:
        return None
    return with_tensors(layer, {"weight": scaled_tensor(weight, scale)})


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
