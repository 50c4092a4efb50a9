"""A network recorded as CUDA graphs: small layers take less time on a GPU than it takes to launch them one by one."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from fxprune.errors import FxpruneError, first_line


class CudaGraphs:
    """Calls ``network`` by replaying what it did in its first call, forward and backward.

    A larger batch than that is recorded anew, a smaller one runs as it would without. The network's train or eval
    mode is recorded too. What is returned, and what is added to gradients, is overwritten by the next call. Recorded
    by :func:`torch.cuda.make_graphed_callables`, whose constraints hold: which operations run must not depend on
    values.

    Args:
        network: on a GPU; parameters may change between calls, in place, but not which of them are trained.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._shape = torch.Size([0])
        self._replay: Any = None

    def __call__(self, images: torch.Tensor) -> Any:
        """Return what the network returns for images (N, C, H, W); raises FxpruneError if it cannot be recorded."""
        if len(images) > self._shape[0]:
            self._replay = None
            gc.collect()  # a recording refers to itself; its memory is free before more is taken
            self._shape, self._replay = images.shape, _record(self._network, images)
        return self._replay(images) if images.shape == self._shape else self._network(images)


def separate_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give each parameter a gradient of its own: replaying, those of a sum of two parameters are one tensor."""
    seen: set[int] = set()
    for parameter in parameters:
        if parameter.grad is not None:
            if parameter.grad.data_ptr() in seen:
                parameter.grad = parameter.grad.clone()
            seen.add(parameter.grad.data_ptr())


def _record(network: nn.Module, images: torch.Tensor) -> Callable[[torch.Tensor], Any]:
    """Return what replays ``network``; its buffers, and the random state, are as they were before."""
    module = nn.Sequential(network)  # the forward method of what is recorded is replaced: not the network's own
    module.training = network.training
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    # Under autocast, casts of weights that an earlier run kept would not be recorded; it drops them where it ends.
    dtype = torch.get_autocast_dtype("cuda")
    uncached = (
        torch.autocast("cuda", dtype, cache_enabled=False) if torch.is_autocast_enabled("cuda") else nullcontext()
    )
    try:
        with torch.cuda.device(images.device), uncached, _kernels_measured(), torch.random.fork_rng([images.device]):
            recorded = torch.cuda.make_graphed_callables(module, (images.clone(),), allow_unused_input=True)
    except torch.OutOfMemoryError:
        raise
    # the last two: trained buffers, outputs that are no tensors
    except (RuntimeError, AssertionError, AttributeError) as error:
        raise FxpruneError(
            f"the network cannot be recorded as CUDA graphs ({first_line(error)}); leave cuda_graphs out"
        ) from error
    for buffer, before in buffers:  # recording ran the network: batch norms have counted
        buffer.copy_(before)
    return recorded


@contextmanager
def _kernels_measured() -> Iterator[None]:
    """Inside, the kernels of each conv are chosen by measuring them, since all shapes are fixed."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.deterministic
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
