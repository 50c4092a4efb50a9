"""Measured latency of several graphs side by side: interleaved, medians, never one after the other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import torch
from torch import fx

from fxprune.errors import FxpruneError
from fxprune.graph import evaluating, example_inputs_of


def compare_latency(graphs: Mapping[str, fx.GraphModule], batch_size: int, *, repeats: int = 15) -> dict[str, float]:
    """Return the median milliseconds of a forward pass of each graph, measured in turns.

    The input is the first example of the first graph's example input, ``batch_size`` times.
    """
    example, *others = example_inputs_of(next(iter(graphs.values())))
    if others or not isinstance(example, torch.Tensor):
        raise FxpruneError("latency is measured for models of one tensor input")
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for turn in range(repeats + 2):
        for name, graph in graphs.items():
            device = next((p.device for p in graph.parameters()), torch.device("cpu"))
            images = example[:1].to(device).repeat(batch_size, *[1] * (example.dim() - 1))
            with evaluating(graph):
                start = time.perf_counter()
                graph(images)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                spent = time.perf_counter() - start
            if turn >= 2:  # the first turns warm up
                times[name].append(spent * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}
