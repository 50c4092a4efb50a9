"""A network recorded as CUDA graphs: small layers take less time on a GPU than it takes to launch them one by one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from fxprune.errors import FxpruneError, first_line


class CudaGraphs:
    """Calls ``network`` by replaying what it did in its first call, forward and backward.

    Images of another shape than those of the first call run as they would without. What is returned is overwritten by
    the next call. Recorded by :func:`torch.cuda.make_graphed_callables`, whose constraints hold: which operations run
    must not depend on values.

    Args:
        network: on a GPU; parameters may change between calls, in place, but not which of them are trained.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._shape: torch.Size | None = None
        self._replay: Any = None

    def __call__(self, images: torch.Tensor) -> Any:
        """Return what the network returns; raises FxpruneError if it cannot be recorded."""
        if self._shape is None:
            self._shape, self._replay = images.shape, _record(self._network, images)
        return self._replay(images) if images.shape == self._shape else self._network(images)


def _record(network: nn.Module, images: torch.Tensor) -> Callable[[torch.Tensor], Any]:
    """Return what replays ``network``; its buffers, and the random state, are as they were before."""
    module = nn.Sequential(network)  # the forward method of what is recorded is replaced: not the network's own
    module.training = network.training
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    cudnn = torch.backends.cudnn
    same = {"deterministic": cudnn.deterministic, "allow_tf32": cudnn.allow_tf32}
    # Under autocast, casts of weights that an earlier run kept would not be recorded; it drops them where it ends.
    dtype = torch.get_autocast_dtype("cuda")
    uncached = (
        torch.autocast("cuda", dtype, cache_enabled=False) if torch.is_autocast_enabled("cuda") else nullcontext()
    )
    # All shapes are fixed: each conv's kernels may be chosen by measuring them.
    measured = cudnn.flags(enabled=cudnn.enabled, benchmark=not cudnn.deterministic, **same)
    try:
        with uncached, measured, torch.random.fork_rng([images.device]):
            recorded = torch.cuda.make_graphed_callables(module, (images.clone(),), allow_unused_input=True)
    except RuntimeError as error:
        raise FxpruneError(
            f"the network cannot be recorded as CUDA graphs ({first_line(error)}); leave cuda_graphs out"
        ) from error
    for buffer, before in buffers:  # recording ran the network: batch norms have counted
        buffer.copy_(before)
    return recorded
