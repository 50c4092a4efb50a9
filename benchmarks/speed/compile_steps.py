"""What compile.py measures of one network, in a process of its own: seconds a step, and peak memory.

    python -m benchmarks.speed.compile_steps time resnet110 --turns 25 --seconds 60      # prints a JSON row
    python -m benchmarks.speed.compile_steps memory resnet110

Times are of one thread, CPU seconds of the process and wall-clock seconds beside them. No garbage is collected from
before a way's first step to after its last, as timeit has it. The ways to compile take turns.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch_pruning as tp
from torch import fx, nn

import fxprune
from benchmarks.speed.compile_record import CIFAR, FLOOR, IMAGENET, OURS, PEER, VERIFIED
from fxprune.errors import first_line
from fxprune.passes import InsertBranchScale, InsertResConv, RemoveLayers
from fxprune.pipelines.chains import AFTER_TRAINING
from fxprune.rewriting.contract import PassResult
from fxprune.sources.models import load_model
from fxprune.structures.gated_layers import layers
from fxprune.training.cifar_resnet import CifarResNet

_INSERTIONS = (InsertResConv(), InsertBranchScale())
_REMOVAL = (RemoveLayers(threshold=0.0), *AFTER_TRAINING)
_Result = TypeVar("_Result")


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    """Return a network with random weights in eval mode, and one image (of 32 x 32, or 64 x 64 pixels)."""
    torch.manual_seed(0)
    if name in CIFAR:
        model = CifarResNet(depth=int(name.removeprefix("resnet"))).eval()
        for path, module in model.named_modules():
            if path.endswith("bn2"):
                nn.init.constant_(module.weight, 0.1)  # else 200 blocks overflow
        return model, torch.randn(1, 3, 32, 32)
    return load_model(f"torchvision:{name}").model.eval(), torch.randn(1, 3, 64, 64)


class Clock:
    """CPU and wall-clock seconds of named steps."""

    def __init__(self) -> None:
        self.cpu: dict[str, float] = {}
        self.wall: dict[str, float] = {}

    def measure(self, name: str, step: Callable[[], _Result]) -> _Result:
        """Run ``step`` and note under ``name`` what it took."""
        wall, cpu = time.perf_counter(), time.process_time()
        result = step()
        self.cpu[name], self.wall[name] = time.process_time() - cpu, time.perf_counter() - wall
        return result


@contextmanager
def no_collection() -> Iterator[None]:
    """Collect garbage now, and none inside."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def close_half(sparse: fx.GraphModule) -> None:
    """Make the scale of every second layer exactly zero, as training would."""
    for layer in layers(sparse)[1::2]:
        layer.module.close()


def compile_network(
    model: nn.Module, image: torch.Tensor, clock: Clock, *, share_weights: bool = True, rest: bool = False
) -> None:
    """Trace ``model``, insert scales, remove half of the layers, fuse, fold, simplify, strip; unverified, by steps.

    Weights are shared with the model, as symbolic_trace shares them and Torch-Pruning changes them in place. With
    ``rest``, diff and emission are measured too; they are no part of compiling.
    """
    trace = partial(fxprune.trace, model, image, check=False, share_weights=share_weights)
    stage = traced = clock.measure("trace", trace)
    results: list[PassResult] = []
    for one in (*_INSERTIONS, *_REMOVAL):
        if isinstance(one, RemoveLayers):
            close_half(stage)
        results.append(clock.measure(one.name, partial(one, stage)))
        stage = results[-1].graph_module
    clock.measure("strip", lambda: fxprune.strip(stage))
    if rest:
        clock.measure("diff", lambda: fxprune.diff(traced, stage, results=results))
        with tempfile.TemporaryDirectory() as folder:
            clock.measure("emit", lambda: fxprune.emit(stage, folder))


def compile_verified(model: nn.Module, image: torch.Tensor, clock: Clock) -> None:
    """Do the same with every check that fxprune has: of the trace, and of the contract of every pass."""
    traced = clock.measure("trace", lambda: fxprune.trace(model, image))
    sparse = clock.measure("insert", lambda: fxprune.Pipeline(_INSERTIONS)(traced)).graph_module
    close_half(sparse)
    pruned = clock.measure("remove", lambda: fxprune.Pipeline(_REMOVAL)(sparse)).graph_module
    clock.measure("strip", lambda: fxprune.strip(pruned))


def prune_with_peer(model: nn.Module, image: torch.Tensor, seconds: float) -> None:
    """Remove half of the channels with Torch-Pruning: dependency graph, pruner, step; the classifier stays.

    In CIFAR networks inside of the blocks only: the padding of their shortcuts breaks what it makes of the rest.
    Raises TimeoutError after ``seconds``.
    """
    keep = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
    if isinstance(model, CifarResNet):
        keep += [module for path, module in model.named_modules() if path == "conv1" or path.endswith("conv2")]
    importance = tp.importance.MagnitudeImportance()

    def stop(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds:g} s")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        tp.pruner.MagnitudePruner(model, image, importance=importance, pruning_ratio=0.5, ignored_layers=keep).step()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def measure_times(name: str, turns: int, seconds: float, peer_seconds: float) -> dict[str, Any]:
    """Return the row of a network: the times of every way, turn by turn, for about ``seconds``, two at least."""
    model, image = build(name)
    clock = Clock()
    compile_verified(*build("resnet20"), clock)  # once for what is loaded and cached at the first call
    times: dict[str, dict[str, list[float]]] = {}
    problem = ""
    start = time.perf_counter()
    for turn in range(turns):
        if turn >= 2 and time.perf_counter() - start > seconds:
            break
        clocks = {way: Clock() for way in (FLOOR, OURS, VERIFIED, PEER)}
        with no_collection():
            clocks[FLOOR].measure("trace", lambda: fx.symbolic_trace(model))
        with no_collection():
            compile_network(model, image, clocks[OURS], rest=True)
        with no_collection():
            compile_verified(model, image, clocks[VERIFIED])
        if not problem:
            pruned = copy.deepcopy(model)
            try:
                with no_collection():
                    clocks[PEER].measure("half", partial(prune_with_peer, pruned, image, peer_seconds))
            except Exception as error:
                problem = f"{type(error).__name__}: {first_line(error)}"
        for way, one in clocks.items():
            for unit, steps in (("cpu", one.cpu), ("wall", one.wall)):
                for step, value in steps.items():
                    times.setdefault(f"{way}: {unit}", {}).setdefault(step, []).append(round(value, 5))
    traced = fxprune.trace(model, image, check=False)
    weights = sum(p.numel() * p.element_size() for p in [*model.parameters(), *model.buffers()])
    return {
        "network": name,
        "nodes": len(traced.graph.nodes),
        "weights_mb": round(weights / 2**20, 1),
        "image": list(image.shape),
        "seconds": times,
        "peer_problem": problem,
    }


def measure_memory(name: str, *, share_weights: bool) -> dict[str, Any]:
    """Return the most resident memory while compiling, over that of the process before the network was built.

    The network itself is part of it, and so is the graph's copy of its weights, if it has one. Linux only: it reads
    VmHWM, the peak of the resident set.
    """
    clock = Clock()
    compile_network(*build("resnet20"), clock)
    gc.collect()
    before = status("VmRSS")
    model, image = build(name)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten: building is no part of it
    compile_network(model, image, clock, share_weights=share_weights)
    key = "peak_mb" if share_weights else "peak_with_copy_mb"
    return {"network": name, key: round((status("VmHWM") - before) / 1024, 1)}


def status(field: str) -> int:
    """Return a field of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def main() -> None:
    """Measure one network and print its row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["time", "memory", "memory-with-copy"])
    parser.add_argument("network", choices=[*CIFAR, *IMAGENET])
    parser.add_argument("--turns", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=60, help="no further turn after these")
    parser.add_argument(
        "--peer-seconds", type=float, default=90, help="the most that Torch-Pruning may take for a turn"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if arguments.what.startswith("memory"):
        row = measure_memory(arguments.network, share_weights=arguments.what == "memory")
    else:
        row = measure_times(arguments.network, arguments.turns, arguments.seconds, arguments.peer_seconds)
    print(json.dumps(row))


if __name__ == "__main__":
    main()
