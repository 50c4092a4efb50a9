"""Plain networks, which have no shortcuts, trained from scratch with and without ResConv.

    python -m benchmarks.accuracy.plain plain20 --data imagefolder:DIR --epochs 20

Both arms start from the same weights and share the schedule. In one every conv is a ResConv in the paper's form
(scale and shortcut both trained, from 1 and 1), also those that change their input's shape; it is fused afterwards to
the plain architecture, and must compute the same. Xu et al., arXiv 2011.14356. Each arm goes on from its checkpoint
after a kill (``--arm plain`` or ``--arm resconv`` runs one alone). Writes results/plain_NETWORK.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fxprune
from benchmarks import RESULTS, networks
from benchmarks.accuracy.training_arguments import add_training_arguments, settings_from
from benchmarks.provenance import provenance
from fxprune.costs.macs import total_macs, total_params
from fxprune.files import write_json
from fxprune.passes import FoldBatchNorm, FuseResConv, InsertResConv, Simplify
from fxprune.training.data import ImageData, load_data, sample_inputs
from fxprune.training.evaluation import evaluate
from fxprune.training.metrics import epochs
from fxprune.training.recipe import Session, train
from fxprune.training.settings import Settings

IMAGE_SIZE = 32
FOLD = [FoldBatchNorm(), Simplify()]


def main() -> None:
    """Train the arms that are not done yet, compare them, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=["plain20", "plain56"])
    parser.add_argument("--arm", choices=["plain", "resconv"], help="train only this one")
    add_training_arguments(parser, epochs=20, lr=0.1)
    arguments = parser.parse_args()

    settings = settings_from(arguments, weight_decay=1e-4)
    data = load_data(arguments.data, IMAGE_SIZE, in_memory=arguments.in_memory)
    arms = {}
    for arm in ("plain", "resconv"):
        if arguments.arm in (None, arm):
            folder = arguments.runs / f"{arguments.network}-seed{settings.seed}-{arm}"
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "report.json").exists():
                write_json(folder / "report.json", run(arguments.network, arm, data, settings, folder))
            arms[arm] = json.loads((folder / "report.json").read_text())
    if arguments.arm is None:
        record = {
            **provenance(),
            **arms,
            "settings": settings.shared(),
        }
        write_json(RESULTS / f"plain_{arguments.network}.json", record)
        print(json.dumps(record, indent=2))


def run(name: str, arm: str, data: ImageData, settings: Settings, folder: Path) -> dict[str, Any]:
    """Train one arm; return its accuracy, and for "resconv" what fusing makes of it."""
    torch.manual_seed(settings.seed)
    network: nn.Module = getattr(networks, name)()
    examples = sample_inputs(data)
    trained = fxprune.trace(network, examples)
    if arm == "resconv":
        insert = InsertResConv(shortcut=1.0, parametrization="free", include_reshaping=True)
        trained = insert(trained).graph_module
    session = Session(folder / "checkpoint.pt", folder / "metrics.jsonl")
    rows = train(trained, data, settings, print, session=session)
    trained.cpu().to(memory_format=torch.contiguous_format).eval()
    top1 = evaluate(trained, data.held_out, workers=settings.workers)  # in float32, as the fused one
    report: dict[str, Any] = {"top1": top1, "path": epochs(rows)}
    if arm == "resconv":
        result = fxprune.Pipeline([FuseResConv(), *FOLD])(trained)
        unpruned = fxprune.Pipeline(FOLD)(fxprune.trace(network.eval(), examples)).graph_module
        report |= {
            "top1_fused": evaluate(result.graph_module, data.held_out, workers=settings.workers),
            "max_relative_difference": result.max_relative,
            "macs": [total_macs(unpruned), total_macs(result.graph_module)],
            "params": [total_params(unpruned), total_params(result.graph_module)],
            "layers": [len(graph.graph.nodes) for graph in (unpruned, result.graph_module)],
        }
    return report


if __name__ == "__main__":
    main()
