"""How much faster training gets once what is closed leaves the computation: a CIFAR ResNet on one core.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.cutting --what branches channels all

Random images; nothing is learned but what closes. Of each kind of sites two trainings of the same network, one at its
start (all gates rest) and one after the target is met: in a loop with ``shrink.cut``, steps in turns, and in the
recipe of ``fxprune prune``, which computes without what is closed, epochs in turns. Seconds are of the process.
Writes results/cutting_NETWORK.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from rich.progress import Progress
from torch import fx
from torch.nn import functional
from torch.utils.data import TensorDataset

import fxprune
from benchmarks import RESULTS, networks
from benchmarks.provenance import provenance
from fxprune.files import write_json
from fxprune.pruning.own_loops import parameter_groups
from fxprune.pruning.steering import SteeredL1
from fxprune.training.data import ImageData
from fxprune.training.engine import make_accelerator
from fxprune.training.loop import Trainer
from fxprune.training.metrics import Metrics
from fxprune.training.settings import Settings

_BATCH, _IMAGES, _TARGET, _SOON, _NEVER = 64, 640, 0.5, 20, 10**6


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet20", help="of benchmarks/networks.py")
    parser.add_argument("--what", nargs="+", default=["branches", "channels", "all"])
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    rows = []
    for what in arguments.what:
        for way in (_own_loop, _recipe):
            first, last, left = way(arguments.network, what)
            turns = [(_seconds(first), _seconds(last)) for _ in range(arguments.turns)]
            before, after = (median(one) for one in zip(*turns, strict=True))
            rows.append({"what": what, "way": way.__name__[1:], "macs_left": left, "before": before, "after": after})
            print(f"{rows[-1]}, {before / after:.2f} times as fast", flush=True)
    write_json(
        RESULTS / f"cutting_{arguments.network}.json", {**provenance(), "network": arguments.network, "rows": rows}
    )


def _seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _steered(network: str, what: str, meet_after: int) -> tuple[fx.GraphModule, SteeredL1]:
    torch.manual_seed(0)
    traced = fxprune.trace(getattr(networks, network)(), torch.randn(16, 3, 32, 32))
    sparse = fxprune.insert_scales(traced, what=what, verify=False).graph_module.train()
    return sparse, SteeredL1(sparse, targets=fxprune.Targets(macs=_TARGET), meet_after=meet_after)


def _own_loop(network: str, what: str) -> tuple[Callable[[], Any], Callable[[], Any], float]:
    """Return a step at the start, one after the cut, and the share of the MACs that is left then."""
    images, labels = torch.randn(_BATCH, 3, 32, 32), torch.randint(0, 10, (_BATCH,))
    steps = []
    left = 1.0
    for meet_after in (_NEVER, _SOON):
        sparse, shrink = _steered(network, what, meet_after)
        optimizer: Any = torch.optim.SGD(parameter_groups(sparse, 5e-4), lr=0.01, momentum=0.9, nesterov=True)

        def step(sparse: Any = sparse, optimizer: Any = optimizer, shrink: Any = shrink) -> None:
            loss: Any = functional.cross_entropy(sparse(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            shrink.step()

        while meet_after == _SOON and not shrink.is_met:
            step()
        sparse, optimizer = shrink.cut(optimizer)
        step(sparse, optimizer, shrink)
        left = shrink.left
        steps.append(lambda step=step, given=(sparse, optimizer, shrink): [step(*given) for _ in range(3)])
    return steps[0], steps[1], left


def _recipe(network: str, what: str) -> tuple[Callable[[], Any], Callable[[], Any], float]:
    """Return an epoch of the recipe at the start, one after the target is met, and the share that is left then."""
    images, labels = torch.randn(_IMAGES, 3, 32, 32), torch.randint(0, 10, (_IMAGES,))
    train, held_out = TensorDataset(images, labels), TensorDataset(images[:_BATCH], labels[:_BATCH])
    data = ImageData(train, train, held_out, 10, (3, 32, 32))
    settings = Settings(epochs=1000, batch_size=_BATCH, lr=0.01, device="cpu")
    epochs = []
    left = 1.0
    for meet_after in (_NEVER, _SOON):
        sparse, shrink = _steered(network, what, meet_after)
        sparse.to(memory_format=torch.channels_last)
        trainer = Trainer(sparse, data, settings, Metrics(None, make_accelerator(settings)), shrink=shrink)

        def epoch(trainer: Trainer = trainer) -> None:
            with Progress(disable=True) as progress:
                trainer.run_epoch(progress, progress.add_task(""), lambda: None)

        epoch()
        while meet_after == _SOON and not shrink.is_met:
            epoch()
        left = shrink.left
        epochs.append(epoch)
    return epochs[0], epochs[1], left


if __name__ == "__main__":
    main()
