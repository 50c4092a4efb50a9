"""A head in k processes, a block and a thread each: process 0 scatters the inputs and gets the sum of the logits."""

from __future__ import annotations

import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn

from fxprune.choosing.partitions.base import sizes


def timed_processes(widths: tuple[int, ...], batch: int, blocks: int, turns: int) -> float:
    """Return the median milliseconds of a batch, from the inputs in process 0 to the logits in it."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_work, (widths, batch, blocks, turns, folder), nprocs=blocks)  # type: ignore[no-untyped-call]
        return float((Path(folder) / "ms").read_text())


def _work(rank: int, widths: tuple[int, ...], batch: int, blocks: int, turns: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=blocks)
    mine = [sizes(width, blocks)[rank] for width in widths[:-1]]
    layers = [part for ins, outs in pairwise([*mine, widths[-1]]) for part in (nn.Linear(ins, outs), nn.ReLU())]
    network = nn.Sequential(*layers[:-1])
    wide = max(sizes(widths[0], blocks))  # scatter takes parts of one size
    parts = [torch.randn(batch, wide) for _ in range(blocks)] if rank == 0 else None
    read = torch.empty(batch, wide)
    times = []
    with torch.inference_mode():
        for _ in range(turns + 1):
            dist.barrier()
            start = time.perf_counter()
            dist.scatter(read, parts)
            logits = network(read[:, : mine[0]])
            dist.reduce(logits, 0)
            times.append(1e3 * (time.perf_counter() - start))
    if rank == 0:
        (Path(folder) / "ms").write_text(f"{median(times[1:]):.4f}")
    dist.destroy_process_group()
