"""Which calls are convolutions, as layers and as functions."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from fxprune.ir.nodes import called_module
from fxprune.ops.layer_classes import CONV_CLASSES, TRANSPOSED_CLASSES, Conv

CONV_FUNCTIONS: dict[Any, type[Conv]] = {
    functional.conv1d: nn.Conv1d,
    functional.conv2d: nn.Conv2d,
    functional.conv3d: nn.Conv3d,
    torch.conv1d: nn.Conv1d,
    torch.conv2d: nn.Conv2d,
    torch.conv3d: nn.Conv3d,
}
TRANSPOSED_CONV_FUNCTIONS = {
    functional.conv_transpose1d,
    functional.conv_transpose2d,
    functional.conv_transpose3d,
}


def is_conv(node: fx.Node) -> bool:
    """Say whether ``node`` is a convolution of any kind, transposed ones included."""
    if node.op == "call_function":
        return node.target in CONV_FUNCTIONS or node.target in TRANSPOSED_CONV_FUNCTIONS
    return isinstance(called_module(node), (*CONV_CLASSES, *TRANSPOSED_CLASSES))
