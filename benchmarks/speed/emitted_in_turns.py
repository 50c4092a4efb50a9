"""Two emitted networks in turns, in a process that has neither fxprune nor what made them: what each takes.

    python -m benchmarks.speed.emitted_in_turns UNPRUNED PRUNED --inputs inputs.pt --threads 1

prints JSON: the median milliseconds of each, the median of the ratios of neighbouring turns and the distance between
their quartiles. With one thread times are those that the thread ran: what other processes take is left out. Where a
benchmark starts it glibc keeps its memory, as in a process that has run for long: with its defaults a fresh one gives
pages back and gets new ones at every call of a large batch. Inputs are given: ResNet-18 takes 15 ms more, of 175, of
64 random inputs than of images, in its max pool: a processor foresees less which number is larger.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

WARM = 5
KEEPS_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "1073741824", "MALLOC_MMAP_THRESHOLD_": "33554432"}
"""What glibc is told so that it does not give memory back between calls."""


def main() -> None:
    """Time the two networks that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs=2, type=Path, help="folders that fxprune wrote, unpruned first")
    parser.add_argument("--inputs", required=True, type=Path, help="file of the tensor that they read")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10, help="how long to go on, 15 turns at least")
    arguments = parser.parse_args()
    sys.modules["fxprune"] = None  # type: ignore[assignment]  # importing it is an error from here on
    torch.set_num_threads(arguments.threads)
    clock = time.thread_time if arguments.threads == 1 else time.perf_counter
    networks = [loaded(folder) for folder in arguments.folders]
    images = torch.load(arguments.inputs, weights_only=True)
    until = time.monotonic() + arguments.seconds
    turns: list[list[float]] = []
    with torch.inference_mode():
        while len(turns) < WARM + 15 or time.monotonic() < until:
            turns.append([])
            for network in networks:
                network(images)  # what ran in between is out of the caches
                start = clock()
                network(images)
                turns[-1].append((clock() - start) * 1e3)
    unpruned, pruned = zip(*turns[WARM:], strict=True)
    ratios = [after / before for before, after in zip(unpruned, pruned, strict=True)]
    low, high = np.quantile(ratios, (0.25, 0.75))
    told = {"unpruned": median(unpruned), "pruned": median(pruned), "ratio": median(ratios), "spread": high - low}
    print(json.dumps({**told, "turns": len(ratios)}))


def loaded(folder: Path) -> nn.Module:
    """Return the network that ``folder`` holds."""
    spec = importlib.util.spec_from_file_location(f"emitted_{folder.name}", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    network: nn.Module = module.load()
    return network.eval()


def in_turns(
    unpruned: Path, pruned: Path, inputs: torch.Tensor, *, threads: int = 1, seconds: float = 10
) -> dict[str, Any]:
    """Return what the command says of two folders, run in a process of its own."""
    command = [sys.executable, "-m", __name__, str(unpruned), str(pruned)]
    command += ["--threads", str(threads), "--seconds", str(seconds)]
    environment = {**os.environ, **KEEPS_MEMORY}
    with TemporaryDirectory() as folder:
        file = Path(folder) / "inputs.pt"
        torch.save(inputs, file)
        command += ["--inputs", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600, env=environment)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
