"""Does the emitted model run as fast as the same architecture written by hand, small from the start?

    pip install -e '.[bench]'
    python -m benchmarks.speed.inference             # ResNet-56 without half of its blocks, eager and torch.compile
    python -m benchmarks.speed.inference --smoke     # ResNet-20, eager, two turns; writes nothing

Every second residual branch that can be removed is, norms are folded, the model is emitted and loaded from its
folder. The one by hand has as many blocks, convs with biases and no norms, and gets the same weights. Both run in
turns, on one thread: CPU seconds, or, on a GPU, seconds; with two settings of the allocator. Writes
results/inference.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch._inductor.utils import run_and_get_code
from torch.nn import functional

import fxprune
from benchmarks import RESULTS
from benchmarks.provenance import provenance
from benchmarks.report.inference import ratios
from benchmarks.speed.emitted import emitted_model
from benchmarks.speed.emitted_in_turns import KEEPS_MEMORY
from fxprune.files import write_json
from fxprune.ir.nodes import called_module
from fxprune.passes import InsertBranchScale, RemoveLayers
from fxprune.pipelines.chains import AFTER_TRAINING
from fxprune.structures.gated_layers import layers
from fxprune.training.cifar_resnet import CifarResNet

# By default glibc gives memory back to the system once some MB lie free at the end of the heap, and what is asked
# for next is paid for by the page; whether that happens in a forward pass is a matter of luck.
ALLOCATORS = {
    "glibc": {},
    "glibc, keeps its memory": KEEPS_MEMORY,
}


class Block(nn.Module):
    """Two 3x3 convs with biases, and a shortcut without parameters."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.stride = 1 if in_channels == channels else 2
        self.new_channels = channels - in_channels
        self.conv1 = nn.Conv2d(in_channels, channels, 3, self.stride, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return relu(residual(x) + shortcut(x))."""
        y = self.conv2(functional.relu(self.conv1(x), inplace=True))
        if self.new_channels:
            before = self.new_channels // 2
            x = x[:, :, :: self.stride, :: self.stride]
            x = functional.pad(x, (0, 0, 0, 0, before, self.new_channels - before))
        y += x
        return functional.relu(y, inplace=True)


class ByHand(nn.Module):
    """A CIFAR ResNet without norms, with a number of blocks of its own in every stage."""

    def __init__(self, blocks: tuple[int, int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.layer1 = nn.Sequential(*(Block(16, 16) for _ in range(blocks[0])))
        self.layer2 = nn.Sequential(*(Block(16 if i == 0 else 32, 32) for i in range(blocks[1])))
        self.layer3 = nn.Sequential(*(Block(32 if i == 0 else 64, 64) for i in range(blocks[2])))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        x = functional.relu(self.conv1(x), inplace=True)
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: torch.Tensor = self.linear(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))
        return logits


def pruned(depth: int, image: torch.Tensor) -> fx.GraphModule:
    """Return a CIFAR ResNet of ``depth`` without every second residual branch that can go."""
    torch.manual_seed(0)
    sparse = InsertBranchScale()(fxprune.trace(CifarResNet(depth).eval(), image)).graph_module
    for layer in layers(sparse)[::2]:
        layer.module.close()
    return fxprune.Pipeline([RemoveLayers(threshold=0.0), *AFTER_TRAINING])(sparse).graph_module


def by_hand(model: nn.Module) -> ByHand:
    """Return the hand-written network with the architecture and the weights of ``model``."""
    convs = [name for name, _ in model.named_modules() if name.endswith("conv2")]
    found = [sum(name.startswith(f"layer{stage}.") for name in convs) for stage in (1, 2, 3)]
    hand = ByHand((found[0], found[1], found[2])).eval()
    hand.load_state_dict(dict(zip(hand.state_dict(), model.state_dict().values(), strict=True)))
    return hand


def operations(graph: fx.GraphModule) -> Counter[str]:
    """Return what a graph calls, counted."""
    calls: Counter[str] = Counter()
    for node in graph.graph.nodes:
        module = called_module(node)
        kind = type(module).__name__ if module is not None else getattr(node.target, "__name__", node.target)
        calls[f"{node.op} {kind}"] += node.op not in ("placeholder", "output")
    return calls


@torch.no_grad()
def code_of(model: Callable[..., Any], images: torch.Tensor) -> str:
    """Return the code that torch.compile made of ``model``: calls of kernels, without the numbers of values."""
    _, (code, *_) = run_and_get_code(model, images)
    calls = code[code.index("def call(") :]
    return re.sub(r"#.*", "", re.sub(r"\b(arg|buf)\d+(_\d+)?\b", r"\1", calls))


@torch.no_grad()
def turns_of(models: dict[str, Callable[..., Any]], images: torch.Tensor, turns: int) -> dict[str, dict[str, Any]]:
    """Return the seconds and the page faults of every call, in turns; a turn lasts 50 ms or longer for each model."""
    clock = time.perf_counter if images.is_cuda else time.process_time
    found: dict[str, dict[str, Any]] = {name: {"seconds": [], "page_faults": []} for name in models}
    calls = 1
    for turn in range(-2, turns):  # two to warm up
        for name in sorted(models, reverse=bool(turn % 2)):
            faults, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, clock()
            for _ in range(calls):
                models[name](images)
            if images.is_cuda:
                torch.cuda.synchronize(images.device)
            spent = clock() - start
            if turn >= 0:
                faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
                found[name]["seconds"].append(spent / calls)
                found[name]["page_faults"].append(faults / calls)
        if turn == -1:
            calls = max(1, round(0.05 / max(spent, 1e-4)))
    return found


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the emitted model calls and the one by hand does not, and a row for each mode and batch size."""
    torch.set_num_threads(1)
    image = torch.randn(1, 3, 32, 32)
    graph = pruned(arguments.depth, image)
    emitted = emitted_model(graph)
    hand = by_hand(emitted)
    torch.testing.assert_close(emitted(image), hand(image), rtol=1e-4, atol=1e-5)
    rows = []
    for mode in arguments.modes:
        for batch in arguments.batches:
            images = torch.randn(batch, 3, 32, 32, device=arguments.device)
            models: dict[str, Any] = {"emitted": emitted.to(arguments.device), "by hand": hand.to(arguments.device)}
            row: dict[str, Any] = {"mode": mode, "batch": batch}
            if mode == "compile":
                torch._dynamo.reset()
                models = {name: torch.compile(model) for name, model in models.items()}
                row["same_code"] = len({code_of(model, images) for model in models.values()}) == 1
            rows.append({**row, **turns_of(models, images, arguments.turns)})
    return {"extra_nodes": dict(operations(graph) - operations(fxprune.trace(hand, image))), "rows": rows}


def main() -> None:
    """Measure in a process for each allocator, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=56)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--modes", nargs="+", choices=["eager", "compile"], default=["eager", "compile"])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--child", action="store_true", help="measure in this process, print JSON")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.depth, arguments.batches, arguments.modes, arguments.turns = 20, [1], ["eager"], 2
    if arguments.child:
        print(json.dumps(measured(arguments)))
        return
    rows: list[dict[str, Any]] = []
    for allocator, settings in ALLOCATORS.items():
        command = [sys.executable, "-m", "benchmarks.speed.inference", *sys.argv[1:], "--child"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **settings})
        found = json.loads(done.stdout.splitlines()[-1])
        rows += [{"allocator": allocator, **row} for row in found["rows"]]
    print(f"nodes that the one by hand lacks: {found['extra_nodes'] or 'none'}\n{ratios(rows)}")
    if not arguments.smoke:
        record = {"network": f"resnet{arguments.depth}", "extra_nodes": found["extra_nodes"], "rows": rows}
        write_json(RESULTS / "inference.json", {**provenance(), "allocators": ALLOCATORS, **record})


if __name__ == "__main__":
    main()
