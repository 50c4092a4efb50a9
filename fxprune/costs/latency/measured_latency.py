"""Measured latency of several graphs side by side: interleaved, medians, never one after the other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import fx

from fxprune.errors import FxpruneError
from fxprune.facts.kept_state import keeping_state
from fxprune.ir.module_tree import evaluating
from fxprune.ir.nodes import example_inputs_of


def compare_latency(graphs: Mapping[str, fx.GraphModule], batch_size: int, *, repeats: int = 15) -> dict[str, float]:
    """Return the median milliseconds of a forward pass of each graph, in eval mode, measured in turns.

    The input is the first example of the first graph's example input, ``batch_size`` times.
    """
    example, *others = example_inputs_of(next(iter(graphs.values())))  # where that graph's weights are
    if others or not isinstance(example, torch.Tensor):
        raise FxpruneError("latency is measured for models of one tensor input")
    images = example[:1].repeat(batch_size, *[1] * (example.dim() - 1))
    with ExitStack() as stack:
        for graph in graphs.values():
            stack.enter_context(keeping_state(graph))
            stack.enter_context(evaluating(graph))
        return median_times(graphs, images, turns=repeats)


@torch.no_grad()
def median_times(
    models: Mapping[str, Callable[[torch.Tensor], Any]], images: torch.Tensor, *, turns: int = 15
) -> dict[str, float]:
    """Return the median milliseconds that each of ``models`` takes for ``images``, called in turns."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(turns + 2):
        for name, model in models.items():
            start = time.perf_counter()
            model(images)
            if images.is_cuda:
                torch.cuda.synchronize(images.device)
            if turn >= 2:  # the first turns warm up
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}
