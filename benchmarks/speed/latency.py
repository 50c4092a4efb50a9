"""Latency and memory at equal MACs: layers removed by fxprune against channels removed by Torch-Pruning.

    pip install -e '.[bench]'
    python -m benchmarks.speed.latency resnet56 --targets 0.5 0.35
    python -m benchmarks.speed.latency torchvision:resnet50 --targets 0.5 --size 224 --batches 1 8 64

Weights are random (the time does not depend on them). Which layers go is SteeredL1's choice, on these weights, or in
a training: ``--pruned 0.5=DIR`` takes the folder that ``fxprune prune`` wrote. Torch-Pruning removes the same share
of channels everywhere, whatever comes nearest to the MACs that are left then; with "rounded" in multiples of 8, as it
advises for speed. In CIFAR networks it prunes inside the blocks only: the padding of their shortcuts breaks what it
makes of the rest.
Batch norms are folded in all networks, and all are emitted (ReLUs and sums in place); what was emitted then runs in
turns, in one process: medians. Writes results/latency_NETWORK.json.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from tabulate import tabulate
from torch import fx, nn
from torch.profiler import ProfilerActivity, profile

import fxprune
from benchmarks import RESULTS, networks
from benchmarks.provenance import provenance
from benchmarks.speed.emitted import emitted_model
from fxprune.choosing.targets import Targets
from fxprune.costs.latency.measured_latency import median_times
from fxprune.costs.macs import total_macs, total_params
from fxprune.emission.emit import load_emitted
from fxprune.files import write_json
from fxprune.passes import FoldBatchNorm, RemoveLayers, Simplify
from fxprune.pipelines.chains import AFTER_TRAINING, Layers, insert_scales
from fxprune.pruning.steering import SteeredL1
from fxprune.sources.models import load_model
from fxprune.training.cifar_resnet import CifarResNet

OURS = "fxprune"
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


def main() -> None:
    """Build the networks, measure them in turns, write the result and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="one of benchmarks/networks.py, or torchvision:NAME")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.5], help="shares of MACs to leave")
    parser.add_argument("--pruned", nargs="*", default=[], metavar="TARGET=DIR", help="folders of fxprune prune")
    parser.add_argument("--layers", default="all", help="as for fxprune prune")
    parser.add_argument("--target-params", type=float, help="share of parameters to leave, where layers are steered")
    parser.add_argument("--size", type=int, default=32, help="of the images, in pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64, 256])
    parser.add_argument("--modes", nargs="+", choices=["eager", "compile"], default=["eager", "compile"])
    parser.add_argument("--layouts", nargs="+", choices=list(LAYOUTS), default=list(LAYOUTS))
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--smoke", action="store_true", help="one batch size, eager, two turns; writes nothing")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.batches, arguments.modes, arguments.layouts, arguments.turns = [1], ["eager"], ["contiguous"], 2
    folders = dict(pair.split("=", 1) for pair in arguments.pruned)

    example = torch.randn(2, 3, arguments.size, arguments.size)
    result: dict[str, Any] = {}
    for target in arguments.targets:
        graphs = {"unpruned": plain(build(arguments.network), example)}
        folder = folders.get(str(target))
        if folder is not None:
            graphs[OURS] = plain(load_emitted(Path(folder)), example)
        else:
            choice = Targets(macs=target, params=arguments.target_params)
            graphs[OURS] = without_layers(build(arguments.network), example, choice, arguments.layers)
        left = total_macs(graphs[OURS]) / total_macs(graphs["unpruned"])
        for name, multiple in (("torch-pruning", None), ("torch-pruning, rounded", 8)):
            graphs[name] = plain(without_channels(arguments.network, example, left, multiple), example)
        costs = {name: {"macs": total_macs(one), "params": total_params(one)} for name, one in graphs.items()}
        models = {name: emitted_model(graph).to(arguments.device) for name, graph in graphs.items()}
        rows = []
        for layout, batch_size in itertools.product(arguments.layouts, arguments.batches):
            images = torch.randn(batch_size, 3, arguments.size, arguments.size, device=arguments.device)
            images = images.to(memory_format=LAYOUTS[layout])
            for model in models.values():
                model.to(memory_format=LAYOUTS[layout])
            memory = {
                name: [peak_mb(model, images, train) for train in (False, True)] for name, model in models.items()
            }
            for mode in arguments.modes:
                runs: dict[str, Callable[[torch.Tensor], Any]] = dict(models)
                if mode == "compile":
                    torch._dynamo.reset()
                    runs = {name: torch.compile(model) for name, model in models.items()}
                times = median_times(runs, images, turns=arguments.turns)
                rows.append({"batch": batch_size, "layout": layout, "mode": mode, "ms": times, "peak_mb": memory})
                print(table(f"{target} {layout} {mode} batch {batch_size}", rows[-1]), flush=True)
        source = "steered, random weights" if folder is None else f"trained: {Path(folder).name}"
        result[str(target)] = {"costs": costs, "layers": source, "rows": rows}
    name = arguments.network.rpartition(":")[2]
    record = {**provenance("torch-pruning"), "image_size": arguments.size, "targets": result}
    if not arguments.smoke:
        write_json(RESULTS / f"latency_{name}.json", record)


def build(name: str) -> nn.Module:
    """Return the network with random weights, in eval mode."""
    torch.manual_seed(0)
    network: nn.Module = load_model(name).model if ":" in name else getattr(networks, name)()
    return network.eval()


def plain(model: nn.Module, example: torch.Tensor) -> fx.GraphModule:
    """Return ``model`` traced, with its batch norms folded."""
    return fxprune.Pipeline([FoldBatchNorm(), Simplify()])(fxprune.trace(model, example)).graph_module


def without_layers(model: nn.Module, example: torch.Tensor, targets: Targets, layers: Layers) -> fx.GraphModule:
    """Return ``model`` without as many of its layers as the targets ask for: those that SteeredL1 closes."""
    sparse = insert_scales(fxprune.trace(model, example), layers).graph_module
    shrink = SteeredL1(sparse, targets=targets, meet_after=1)
    shrink.step()
    return fxprune.Pipeline([RemoveLayers(threshold=0.0), *AFTER_TRAINING])(sparse).graph_module


def without_channels(name: str, example: torch.Tensor, target: float, multiple: int | None) -> nn.Module:
    """Return the network pruned by Torch-Pruning with the ratio that comes nearest to the target."""
    total = total_macs(fxprune.trace(build(name), example))
    low, high = 0.0, 0.95
    best: tuple[float, nn.Module] | None = None
    for _ in range(8):
        ratio = (low + high) / 2
        model = build(name)
        keep = [module for module in model.modules() if isinstance(module, nn.Linear)]
        if isinstance(model, CifarResNet):
            keep += [module for path, module in model.named_modules() if path == "conv1" or path.endswith("conv2")]
        importance = tp.importance.MagnitudeImportance()
        options = {"pruning_ratio": ratio, "ignored_layers": keep, "round_to": multiple}
        tp.pruner.MagnitudePruner(model, example, importance=importance, **options).step()
        left = total_macs(fxprune.trace(model, example, check=False)) / total
        if best is None or abs(left - target) < best[0]:
            best = abs(left - target), model
        too_much = left <= target or left > 0.99  # nothing goes where no channel would be left of some layer
        low, high = (low, ratio) if too_much else (ratio, high)
    assert best is not None
    return best[1]


def peak_mb(model: nn.Module, images: torch.Tensor, train: bool) -> float:
    """Return the most memory, in MiB, that a forward pass holds beside weights and input.

    With ``train`` it keeps what the backward pass will need: all of that is still there when the last layer runs.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(train)

    def step() -> Any:
        with torch.set_grad_enabled(train):
            return model(images)

    step()
    if images.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return round((torch.cuda.max_memory_allocated() - before) / 2**20, 2)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return round(peak / 2**20, 2)


def table(title: str, row: dict[str, Any]) -> str:
    """Return a row of the result with ratios to fxprune's network."""
    ours = row["ms"][OURS]
    lines = [
        [name, f"{ms:.2f}", f"{ms / ours:.2f}", *(f"{mb:.1f}" for mb in row["peak_mb"][name])]
        for name, ms in row["ms"].items()
    ]
    return tabulate(lines, headers=[title, "ms", "over fxprune's", "peak MiB", "in training"])


if __name__ == "__main__":
    main()
