"""The layers of which a peer lets more output channels go than fxprune, and why fxprune keeps them.

    python -m benchmarks.zoo.peer_layers --only 'timm:resnet*'      # of the models that the peer gets right
    python -m benchmarks.zoo.peer_layers --only 'torchvision:*' --peer torch-kirigami

One line a layer: what the peer finds, what fxprune finds, and fxprune's most frequent reason. The count of a peer is
that of its row in results/zoo/. Layers are compared by their paths, of those that a call of the model runs.
"""

from __future__ import annotations

import argparse
import importlib
import warnings
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Any

import torch
from torch import nn

import fxprune
from benchmarks import RESULTS
from benchmarks.zoo.models import build, randomize, smallest_inputs
from benchmarks.zoo.peer_judging import classifiers, limited, widths
from benchmarks.zoo.row import read_rows
from benchmarks.zoo.run import PEERS
from fxprune import passes
from fxprune.ir.nodes import graphs_of
from fxprune.structures.channels.groups import Channels


def free_outputs(model: nn.Module, inputs: tuple[Any, ...]) -> dict[str, tuple[int, str]]:
    """Return how many output channels of each layer can go with fxprune, and the most frequent reason of the rest."""
    traced = fxprune.trace(model, inputs)
    plain = fxprune.Pipeline([passes.SplitAttention(), passes.FreezeWeights()])(traced).graph_module
    found: dict[str, tuple[int, str]] = {}
    for _, graph in graphs_of(plain):
        channels = Channels(graph)
        for path, classes in channels.outputs.items():
            why = Counter(
                f"{reason.why} (at {reason.node})"
                for reason in map(channels.reasons.get, classes.tolist())
                if reason is not None
            )
            found[path] = len(classes) - why.total(), "".join(most for most, _ in why.most_common(1))
    return found


def compared(spec: str, peer: str) -> Iterator[tuple[str, int, int, str]]:
    """Yield layers of which the peer lets more go: path, the peer's count, fxprune's count and reason."""
    model = build(spec)
    _, inputs = smallest_inputs(spec, model)
    randomize(model, inputs)
    ours, layers = free_outputs(model, inputs), widths(model, inputs)
    make = importlib.import_module(PEERS[peer]).PEER
    with limited(make.seconds):
        theirs = make(model, inputs, classifiers(spec, model, inputs)).free_outputs()
    for path in layers:
        mine, why = ours.get(path, (0, "not seen"))
        if theirs.get(path, 0) > mine:
            yield path, theirs[path], mine, why


def main() -> None:
    """Print the layers of the models that the peer gets right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="PATTERN", default="*", help="of model names, as timm:resnet*")
    parser.add_argument("--peer", choices=list(PEERS), default="torch-pruning")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = read_rows(RESULTS / "zoo" / f"{arguments.peer}.jsonl")
    for spec in [name for name, row in rows.items() if row["status"] == "ok" and fnmatch(name, arguments.only)]:
        print(spec, flush=True)
        for path, theirs, mine, why in compared(spec, arguments.peer):
            print(f"    {path}: {theirs}, and {mine} with fxprune: {why}", flush=True)


if __name__ == "__main__":
    main()
