"""How long the analysis of channels takes, against Torch-Pruning's dependency graph, on a very deep network.

    pip install -e '.[bench]'
    python -m benchmarks.speed.channel_peers             # ResNet-1202; writes results/channel_peers.json
    python -m benchmarks.speed.channel_peers --smoke     # ResNet-20; writes nothing

Both say what can go together with what: fxprune's ``Channels`` of a traced graph, and Torch-Pruning's
``build_dependency``, which traces by autograd; then each lists its groups. fxprune's own tracing is timed too. CPU
seconds of one thread, the least of some turns; Torch-Pruning is stopped at ``--seconds``.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

import fxprune
from benchmarks import RESULTS
from benchmarks.provenance import provenance
from benchmarks.zoo.peer_judging import limited
from fxprune.files import write_json
from fxprune.structures.channels.groups import Channels
from fxprune.training.cifar_resnet import CifarResNet


def seconds_of(run: Callable[[], object]) -> float:
    """Return the CPU seconds of a call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def measured(depth: int, turns: int, seconds: float) -> dict[str, Any]:
    """Return the least seconds of each step; for Torch-Pruning None where it does not end in ``seconds``."""
    torch.set_num_threads(1)
    model, image = CifarResNet(depth).eval(), torch.randn(1, 3, 32, 32)
    traced = fxprune.trace(model, image)
    row: dict[str, Any] = {
        "network": f"resnet{depth}",
        "trace": seconds_of(lambda: fxprune.trace(model, image)),
        "channels": min(seconds_of(lambda: Channels(traced)) for _ in range(turns)),
        "groups": min(seconds_of(lambda: Channels(traced).groups) for _ in range(turns)),
    }
    for name, run in (("peer_graph", graph_of), ("peer_groups", groups_of)):
        try:
            with limited(seconds), warnings.catch_warnings(record=True) as told:
                row[name] = min(seconds_of(partial(run, model, image)) for _ in range(turns))
            row["peer_warnings"] = sorted({str(one.message) for one in told})
        except TimeoutError:
            row[name] = None
    return row


def graph_of(model: nn.Module, image: torch.Tensor) -> Any:
    """Return Torch-Pruning's dependency graph."""
    return tp.DependencyGraph().build_dependency(model, image)


def groups_of(model: Any, image: torch.Tensor) -> list[Any]:
    """Return the groups of a CIFAR ResNet whose classifier stays."""
    return list(graph_of(model, image).get_all_groups(ignored_layers=[model.linear]))


def told(row: dict[str, Any], seconds: float) -> str:
    """Return the times and their ratios in words."""
    lines = []
    for name, mine, theirs in (("graph", "channels", "peer_graph"), ("graph and groups", "groups", "peer_groups")):
        peer = f"> {seconds:g} s" if row[theirs] is None else f"{row[theirs]:.3f} s"
        ratio = row[mine] / (row[theirs] or seconds)
        lines.append(f"{row['network']}, {name}: {row[mine]:.3f} s, Torch-Pruning {peer}, ratio {ratio:.3f}")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=1202)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=300, help="the most that Torch-Pruning may take")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.depth, arguments.turns = 20, 2
    row = measured(arguments.depth, arguments.turns, arguments.seconds)
    print(told(row, arguments.seconds))
    if not arguments.smoke:
        record = {**provenance("torch-pruning"), "limit": arguments.seconds, **row}
        write_json(RESULTS / "channel_peers.json", record)


if __name__ == "__main__":
    main()
