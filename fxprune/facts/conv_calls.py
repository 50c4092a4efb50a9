"""One view of every convolution call, whether it is an nn.Conv module or F.conv with parameters of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from fxprune.facts.constants import Constants
from fxprune.facts.module_uses import CallSites
from fxprune.facts.own_layers import own_module
from fxprune.facts.shapes import shape
from fxprune.ir.node_targets import attribute
from fxprune.ir.nodes import called_module, uses
from fxprune.ops.call import Call
from fxprune.ops.layer_classes import CONV_CLASSES, TRANSPOSED_CLASSES, Conv

_GEOMETRY = ("stride", "padding", "dilation", "groups")


@dataclass(frozen=True)
class ConvCall:
    """A convolution in a graph: the node, what it reads, and its weights as an nn.Conv module.

    ``module`` is the called module itself, or, for F.conv, a new nn.Conv that holds the same parameters. Of
    those which the graph computes from others it holds only the shape: ``computed`` has their nodes, by name.
    """

    node: fx.Node
    input: fx.Node
    module: Conv
    functional: bool
    computed: dict[str, fx.Node] = field(default_factory=dict)


def conv_call(node: fx.Node, sites: CallSites, constants: Constants) -> ConvCall | str:
    """Return ``node`` as a ConvCall whose weights belong to it alone, or the reason why it cannot be one."""
    if node.op == "call_function":
        return _functional_call(node, sites, constants)
    module = called_module(node)
    if isinstance(module, TRANSPOSED_CLASSES):
        return "is a transposed convolution"
    if not isinstance(module, CONV_CLASSES):
        return "is no convolution"
    if not node.args or not isinstance(node.args[0], fx.Node):
        return "its input is not a graph value"
    obstacle = own_module(module, CONV_CLASSES, sites, frozen=True)
    return obstacle or ConvCall(node, node.args[0], module, functional=False)


def _functional_call(node: fx.Node, sites: CallSites, constants: Constants) -> ConvCall | str:
    call = Call(node)
    if call.op is None or call.kind not in ("conv", "transposed conv"):
        return "is no convolution"
    if call.kind == "transposed conv":
        return "is a transposed convolution"
    source = call.input
    if source is None:
        return "its input is not a graph value"
    held: dict[str, nn.Parameter] = {}
    computed: dict[str, fx.Node] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name in ("weight", "bias"):
        value = call.argument(name)
        if value is None:
            continue
        found = _weight(name, value, node, sites, constants)
        if isinstance(found, str):
            return found
        if isinstance(found, nn.Parameter):
            held[name], shapes[name] = found, tuple(found.shape)
        else:
            computed[name], shapes[name] = found, tuple(constants.value(found).shape)
    geometry = {name: call.argument(name) for name in _GEOMETRY}
    if any(isinstance(part, fx.Node) for value in geometry.values() for part in _parts(value)):
        return "its stride, padding or dilation is computed in forward"
    groups = int(geometry["groups"])
    kind: Any = CONV_CLASSES[call.op.axes - 1]
    out_channels, in_channels, *kernel = shapes["weight"]
    if shapes.get("bias", (out_channels,)) != (out_channels,) or shape(source) is None:
        return "its shape is unknown; trace with fxprune.trace(model, example_inputs)"
    for name in ("stride", "padding", "dilation"):
        if isinstance(geometry[name], (tuple, list)):
            numbers = tuple(geometry[name])
            geometry[name] = numbers * len(kernel) if len(numbers) == 1 else numbers
    module: Conv = kind(
        in_channels * groups, out_channels, tuple(kernel), bias="bias" in shapes, device="meta", **geometry
    )
    for name, parameter in held.items():
        setattr(module, name, parameter)
    owner = node.graph.owning_module
    module.train(owner.training if owner is not None else True)
    return ConvCall(node, source, module, functional=True, computed=computed)


def _parts(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]


def _weight(
    name: str, value: Any, conv: fx.Node, sites: CallSites, constants: Constants
) -> nn.Parameter | fx.Node | str:
    """Return the parameter that ``value`` reads, or the node that computes it for ``conv`` alone, or an obstacle."""
    if not isinstance(value, fx.Node):
        return f"its {name} is not a graph value"
    obstacle = constants.obstacle(value)
    if obstacle is not None:
        return f"its {name} is computed in forward: {obstacle}"
    if not isinstance(constants.value(value), torch.Tensor):
        return f"its {name} is not a tensor"
    owner = value.graph.owning_module
    assert owner is not None
    chain = constants.chain(value)
    own_users = {*chain, conv}
    tensors = {leaf: attribute(owner, str(leaf.target)) for leaf in constants.leaves(value)}
    if constants.value(value).is_complex():
        return f"its {name} holds complex numbers"
    if not any(isinstance(tensor, nn.Parameter) for tensor in tensors.values()):
        return f"its {name} is a buffer, which is not trained"
    for leaf, tensor in tensors.items():
        own = sum(uses(other) for other, read in tensors.items() if read is tensor)
        others = [user for user in leaf.users if user not in own_users]
        if others or (isinstance(tensor, nn.Parameter) and sites.reads(tensor) != own):
            return f"its {name} is shared by {sites.reads(tensor)} call sites"
    if any(user not in own_users for node in chain for user in node.users):
        return f"its {name} is read by others too"
    return tensors[value] if value.op == "get_attr" else value
