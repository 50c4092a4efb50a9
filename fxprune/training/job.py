"""The main job: a trained network and images in, a folder with the pruned network and its report out.

The folder holds the emitted model (model.py, weights.safetensors, graph.json), report.json, diff.txt, and, while it
is being made, run.json and checkpoint.pt, from which the same command goes on after a kill.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

import fxprune
from fxprune import passes
from fxprune.diff import diff
from fxprune.emit import emit
from fxprune.errors import LoadError
from fxprune.facts.costs import total_macs, total_params
from fxprune.facts.layers import layers as layers_of
from fxprune.latency import compare_latency
from fxprune.pipeline import Pipeline
from fxprune.prune import AFTER_TRAINING, Layers, insert_scales
from fxprune.trace import trace
from fxprune.training.data import ImageData, sample_inputs
from fxprune.training.loop import evaluate
from fxprune.training.recipe import Say, Settings, train

REPORT_SCHEMA = 1
_EXAMPLES = 16


def open_folder(out: Path, run: Mapping[str, Any]) -> None:
    """Make ``out`` the folder of this run, or check that it already is.

    Raises LoadError if it holds anything else: another run, a finished one, or files of the user's.
    """
    record = out / "run.json"
    if out.exists() and not out.is_dir():
        raise LoadError(f"{out} is a file; give another folder with --out")
    if record.is_file():
        if (out / "report.json").is_file():
            raise LoadError(f"{out} holds a finished run; give another folder with --out")
        try:
            known = json.loads(record.read_text())
        except ValueError as error:
            raise LoadError(f"{record} is damaged; give another folder with --out") from error
        wanted = json.loads(json.dumps(run))
        changed = [key for key in {**known, **wanted} if known.get(key) != wanted.get(key)]
        if changed and not any(out.glob("*.pt")):
            write_json(record, wanted)  # nothing was trained yet: nothing is lost by starting anew
        elif changed:
            key = changed[0]
            raise LoadError(
                f"{out} holds an unfinished run with {key} {known.get(key)}, not {wanted.get(key)}; "
                "use the same options to go on, or another --out"
            )
        return
    if out.exists() and any(path.name != "run.json.new" for path in out.iterdir()):
        raise LoadError(f"{out} is not empty; give another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    write_json(record, dict(run))


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    unfinished = path.with_name(path.name + ".new")
    unfinished.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(unfinished, path)


def prune_on_data(
    model: nn.Module,
    data: ImageData,
    out: Path,
    settings: Settings,
    *,
    target_macs: float,
    say: Say,
    layers: Layers = "all",
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Prune ``model`` to ``target_macs`` of its MACs while it trains on ``data``; write ``out``, return the report.

    ``model`` is not changed. Raises FxpruneError if it has no eligible layers (lists why), TargetError if the
    target cannot be met, and what :func:`fxprune.training.recipe.train` raises.
    """
    start = time.monotonic()
    traced = trace(model, sample_inputs(data, _EXAMPLES))
    inserted = insert_scales(traced, layers)
    sparse = inserted.graph_module
    device = torch.device(settings.device)

    def accuracy(graph_module: fx.GraphModule) -> float:
        return evaluate(graph_module.to(device), data.held_out, workers=settings.workers, device=device)

    before = accuracy(traced)
    say(f"traced: {len(layers_of(sparse))} removable layers; held-out top-1 {before:.2%} before pruning")
    train(sparse, data, settings, say, target_macs=target_macs, checkpoint=out / "checkpoint.pt")
    trained = accuracy(sparse)
    sparse.cpu().to(memory_format=torch.contiguous_format).eval()
    removable = len(layers_of(sparse))
    result = Pipeline([passes.RemoveLayers(threshold=0.0), *AFTER_TRAINING])(sparse)
    pruned = result.graph_module
    say(str(result))
    report: dict[str, Any] = {
        "schema": REPORT_SCHEMA,
        **(extra or {}),
        "macs_before": total_macs(traced),
        "macs_after": total_macs(pruned),
        "params_before": total_params(traced),
        "params_after": total_params(pruned),
        "layers_removable": removable,
        "layers_removed": [site.path for site in result.steps[0].result.rewritten],
        "accuracy_before": before,
        "accuracy_before_removal": trained,
        "accuracy_after": accuracy(pruned),
        "max_relative_difference": max(inserted.max_relative or 0.0, result.max_relative or 0.0),
        "latency_ms": latencies(traced.to(device), pruned),
        "settings": {**asdict(settings), "target_macs": target_macs, "layers": layers},
        "versions": {
            "fxprune": fxprune.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count(), "device": settings.device},
        "seconds": round(time.monotonic() - start, 1),
    }
    emit(pruned.cpu(), out)
    (out / "diff.txt").write_text(str(diff(traced, pruned, results=[inserted, result])) + "\n")
    write_json(out / "report.json", report)
    return report


def latencies(before: fx.GraphModule, after: fx.GraphModule) -> dict[str, dict[str, float]]:
    """Return median milliseconds at batch 1 and 64; ``before`` has its norms folded too, to be fair."""
    folded = Pipeline([passes.FoldBatchNorm(), passes.Simplify()], verify=False)(before).graph_module
    measured = {}
    for batch_size in (1, 64):
        times = compare_latency({"before": folded, "after": after}, batch_size)
        measured[str(batch_size)] = {**times, "ratio": times["after"] / times["before"]}
    return measured
