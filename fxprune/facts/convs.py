"""One view of every convolution call, whether it is an nn.Conv module or F.conv with a parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from fxprune.graph import CallSites, attribute, called_module, has_hooks
from fxprune.resconv import Conv

CONV_CLASSES: tuple[type[Conv], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORM_CLASSES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_FUNCTIONS: dict[Any, type[Conv]] = {
    functional.conv1d: nn.Conv1d,
    functional.conv2d: nn.Conv2d,
    functional.conv3d: nn.Conv3d,
    torch.conv1d: nn.Conv1d,
    torch.conv2d: nn.Conv2d,
    torch.conv3d: nn.Conv3d,
}
_SIGNATURE = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED_CLASSES = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_TRANSPOSED_FUNCTIONS = {
    functional.conv_transpose1d,
    functional.conv_transpose2d,
    functional.conv_transpose3d,
}


@dataclass(frozen=True)
class ConvCall:
    """A convolution in a graph: the node, what it reads, and its weights as an nn.Conv module.

    ``module`` is the called module itself, or, for F.conv, a new nn.Conv that holds the same parameters.
    """

    node: fx.Node
    input: fx.Node
    module: Conv
    functional: bool


def is_conv(node: fx.Node) -> bool:
    """Say whether ``node`` is a convolution of any kind, transposed ones included."""
    if node.op == "call_function":
        return node.target in _FUNCTIONS or node.target in _TRANSPOSED_FUNCTIONS
    return isinstance(called_module(node), (*CONV_CLASSES, *_TRANSPOSED_CLASSES))


def conv_call(node: fx.Node, sites: CallSites) -> ConvCall | str:
    """Return ``node`` as a ConvCall whose weights belong to it alone, or the reason why it cannot be one."""
    if node.op == "call_function":
        return _functional_call(node, sites)
    module = called_module(node)
    if isinstance(module, _TRANSPOSED_CLASSES):
        return "is a transposed convolution"
    if not isinstance(module, CONV_CLASSES):
        return "is no convolution"
    if not node.args or not isinstance(node.args[0], fx.Node):
        return "its input is not a graph value"
    obstacle = own_module(module, CONV_CLASSES, sites)
    return obstacle or ConvCall(node, node.args[0], module, functional=False)


def own_module(module: nn.Module, classes: tuple[type[Any], ...], sites: CallSites) -> str | None:
    """Return why ``module`` may not be replaced by another that computes from the same weights; None if it may."""
    if hasattr(module, "parametrizations"):
        return "its weight is parametrized; torch.nn.utils.parametrize.remove_parametrizations makes it plain"
    if type(module) not in classes:
        return f"{type(module).__name__} is a subclass that may compute something else"
    if has_hooks(module):
        return "it has hooks, which would see other values"
    if sites.calls(module) != 1:
        return f"it is shared by {sites.calls(module)} call sites"
    tied = sites.shared_parameter(module)
    return f"its {tied} is tied to another layer's" if tied else None


def _functional_call(node: fx.Node, sites: CallSites) -> ConvCall | str:
    if node.target in _TRANSPOSED_FUNCTIONS:
        return "is a transposed convolution"
    arguments: dict[str, Any] = dict(zip(_SIGNATURE, node.args, strict=False)) | node.kwargs
    source, weight_node, bias_node = (arguments.get(name) for name in _SIGNATURE[:3])
    if not isinstance(source, fx.Node):
        return "its input is not a graph value"
    weight, bias = _parameter(weight_node), _parameter(bias_node)
    if weight is None or (bias is None and bias_node is not None):
        return "its weight is computed in forward"
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and sites.reads(tensor) != 1:
            return f"its {name} is shared by {sites.reads(tensor)} call sites"
    geometry = {name: arguments[name] for name in _SIGNATURE[3:] if name in arguments}
    if any(isinstance(value, fx.Node) for value in geometry.values()):
        return "its stride, padding or dilation is computed in forward"
    groups = int(geometry.get("groups", 1))
    kind: Any = _FUNCTIONS[node.target]
    in_channels, kernel_size = weight.shape[1] * groups, tuple(weight.shape[2:])
    module: Conv = kind(in_channels, weight.shape[0], kernel_size, bias=bias is not None, device="meta", **geometry)
    module.weight, module.bias = weight, bias
    owner = node.graph.owning_module
    module.train(owner.training if owner is not None else True)
    return ConvCall(node, source, module, functional=True)


def _parameter(node: Any) -> nn.Parameter | None:
    if not isinstance(node, fx.Node) or node.op != "get_attr" or node.graph.owning_module is None:
        return None
    value = attribute(node.graph.owning_module, str(node.target))
    return value if isinstance(value, nn.Parameter) else None
