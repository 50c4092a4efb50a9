"""Training in several processes: every parameter takes part in every backward pass.

torch's DistributedDataParallel waits in each step for the gradient of every parameter that wanted one when the
network was wrapped, and fails if one does not come. Layers that rest or are closed leave the computation, and with
them their parameters; so the graph's outputs are made to depend on all of them, without computing anything:

    outputs  ->  outputs, whose gradient goes on as it is, with no gradient for each parameter

In one process nothing is done: what is made before the processes know of each other takes no part.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fxprune.ir.processes import is_distributed
from fxprune.ir.pytrees import map_tensors, tensors_in


def keep_all_parameters_in_training(network: nn.Module) -> None:
    """Have every backward pass through ``network`` reach all of its parameters, if processes train together."""
    if is_distributed() and _with_all_parameters not in network._forward_hooks.values():
        network.register_forward_hook(_with_all_parameters)


def _with_all_parameters(network: nn.Module, inputs: Any, outputs: Any) -> Any:
    if not (network.training and torch.is_grad_enabled()):
        return None
    found = [tensor for tensor in tensors_in(outputs) if tensor.requires_grad]
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not found or not parameters:
        return None
    linked = dict(zip(map(id, found), _Link.apply(len(found), *found, *parameters), strict=True))
    return map_tensors(outputs, lambda tensor: linked.get(id(tensor), tensor))


class _Link(torch.autograd.Function):
    """The first of some tensors, as functions of them all."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.others = len(tensors) - count
        return tuple(tensor.clone() for tensor in tensors[:count])  # of views nothing could be changed in place

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        return (None, *gradients, *[None] * ctx.others)
