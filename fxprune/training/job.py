"""The main job: a trained network and images in, a folder with the pruned network and its report out.

The folder holds the emitted model (model.py, weights.safetensors, graph.json; where a part of it could not be traced,
model.pt: the network for torch.load, which needs its code), report.json, what was changed
(diff.html, diff.txt, diff.json), how it was trained (run.json, metrics.jsonl), and checkpoint.pt, from which the same
command goes on after a kill.
"""

from __future__ import annotations

import copy
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout
from torch import fx, nn

import fxprune
from fxprune import passes
from fxprune.choosing.targets import Targets
from fxprune.costs.activation_memory import peak_activation_bytes
from fxprune.costs.macs import total_macs, total_params
from fxprune.costs.measured_latency import compare_latency
from fxprune.emission.emit import emit, source_obstacle
from fxprune.emission.strip import savable
from fxprune.errors import LoadError
from fxprune.facts.shapes import shape
from fxprune.files import cannot_write, make_folder, remove_unfinished, save_with_torch, write_json
from fxprune.ir.trace_notes import opaque_modules
from fxprune.pipelines.chains import AFTER_TRAINING, Layers, insert_scales
from fxprune.pipelines.pipeline import Pipeline
from fxprune.pruning.surplus import Surplus
from fxprune.render.folder import write_diff
from fxprune.run_record import FINETUNING, METRICS, REPORT, RUN
from fxprune.structures.gated_layers import layers as layers_of
from fxprune.tracing.check import require_finite
from fxprune.tracing.trace import trace
from fxprune.training.data import ImageData, sample_inputs
from fxprune.training.engine import hardware, make_accelerator
from fxprune.training.evaluation import check_outputs, evaluate
from fxprune.training.metrics import epochs
from fxprune.training.recipe import Say, check_targets, train
from fxprune.training.settings import Settings

if TYPE_CHECKING:
    from accelerate import Accelerator

REPORT_SCHEMA = 4
_EXAMPLES = 16
_LOCK = ".lock"
_PICKLED = "model.pt"


@contextmanager
def open_folder(out: Path, run: Mapping[str, Any]) -> Iterator[None]:
    """Make ``out`` the folder of this run, or check that it already is; inside, no other process can.

    A run that is refused before it trained anything leaves nothing behind.
    Raises LoadError if it holds anything else: another run, a finished one, or files of the user's; or if another
    process is at it.
    """
    if out.exists() and not out.is_dir():
        raise LoadError(f"{out} is a file; give another folder with --out")
    is_new = not out.exists()
    make_folder(out)
    lock = FileLock(out / _LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise LoadError(
            f"another process is at work in {out}; wait for it, or give another folder with --out"
        ) from error
    except OSError as error:
        raise cannot_write(out / _LOCK, error) from error
    try:
        _prepare_folder(out, run)
        try:
            yield
        except BaseException:
            if {path.name for path in out.iterdir()} <= {RUN, _LOCK}:
                (out / RUN).unlink(missing_ok=True)
            raise
    finally:
        (out / _LOCK).unlink(missing_ok=True)
        lock.release()
        if is_new and not any(out.iterdir()):
            out.rmdir()


def _prepare_folder(out: Path, run: Mapping[str, Any]) -> None:
    remove_unfinished(out)
    record = out / RUN
    if record.is_file():
        if (out / REPORT).is_file():
            raise LoadError(f"{out} holds a finished run; give another folder with --out")
        try:
            known = json.loads(record.read_text())
        except ValueError as error:
            raise LoadError(f"{record} is damaged; give another folder with --out") from error
        wanted = json.loads(json.dumps(run))
        newer = {key: value for key, value in Settings().shared().items() if key in wanted}
        known = {**newer, **known}  # it may be older than some settings
        changed = [key for key in {**known, **wanted} if known.get(key) != wanted.get(key)]
        if changed and not any(out.glob("*.pt")):
            write_json(record, wanted)  # nothing was trained yet: nothing is lost by starting anew
        elif changed:
            key = changed[0]
            if key.endswith("sha256"):
                raise LoadError(
                    f"{out} holds an unfinished run, and a file of weights has changed since it began; "
                    "put the old one back to go on, or give another --out"
                )
            raise LoadError(
                f"{out} holds an unfinished run with {key} {known.get(key)}, not {wanted.get(key)}; "
                "use the same options to go on, or another --out"
            )
        return
    if any(path.name != _LOCK for path in out.iterdir()):
        raise LoadError(f"{out} is not empty; give another folder with --out")
    write_json(record, dict(run))


def prune_on_data(
    model: nn.Module,
    data: ImageData,
    out: Path,
    settings: Settings,
    *,
    targets: Targets,
    say: Say,
    strength: float | None = None,
    layers: Layers = "all",
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
    teacher: nn.Module | None = None,
    extra: Mapping[str, Any] | None = None,
    accelerator: Accelerator | None = None,
) -> dict[str, Any]:
    """Prune ``model`` to ``targets`` while it trains on ``data``; write ``out``, return the report.

    With a ``strength`` the scales are not steered, but shrunk by a fixed proximal L1; zeros are removed, and what a
    target of MACs, the only one then, asks for beyond them is cut at the end. What ``keep`` and ``only`` say stays
    (:mod:`fxprune.choosing.keeping`) gets no scale. ``model`` is not changed. It is the teacher of
    ``settings.distill`` and ``distill_features`` too, unless another is given. Of several processes, the main one
    writes.

    Raises FxpruneError if it has no eligible layers (lists why), TargetError if the target cannot be met, and what
    :func:`fxprune.training.recipe.train` raises.
    """
    make_folder(out)
    accelerator = accelerator or make_accelerator(settings, out)
    examples = sample_inputs(data, _EXAMPLES)
    require_finite(model)
    check_outputs(model, examples[:2])
    traced = trace(model, examples)
    inserted = insert_scales(traced, layers, keep=keep, only=only)
    for step in inserted.steps:
        step.diff  # noqa: B018 - worked out now: training will change the scales and weights that it compares
    sparse = inserted.graph_module
    check_targets(replace(targets, macs=None), strength)
    Surplus(sparse, targets)  # raises if a target cannot be met
    outputs = shape(traced.graph.output_node().all_input_nodes[0]) or (0,)
    if outputs[-1] > data.classes:
        say(f"the model has {outputs[-1]} outputs for {data.classes} classes: the others only cost time (--classes)")
    if (obstacle := source_obstacle(traced)) is not None:
        needs = "your code and fxprune" if savable(traced) is traced else "your code"
        say(
            f"there will be a {_PICKLED} and no model.py: {obstacle.partition(';')[0]}; torch.load takes it with "
            f"weights_only=False, where {needs} can be imported"
        )
    opaque = [one.path for one in opaque_modules(traced)]
    if targets.memory is not None and opaque:
        say(f"the target of memory does not see what {opaque[0]} holds inside, which could not be traced")
    teacher = copy.deepcopy(teacher or traced) if settings.learns_from_teacher else None
    if teacher is not None and settings.distill_features and not isinstance(teacher, fx.GraphModule):
        teacher = trace(teacher.cpu(), examples)
    data = data.to(accelerator.device)

    def accuracy(graph_module: fx.GraphModule) -> float:
        graph_module.to(accelerator.device)
        return evaluate(graph_module, data.held_out, workers=settings.workers, accelerator=accelerator)

    before = accuracy(traced)
    say(f"traced: {len(layers_of(sparse))} removable layers; held-out top-1 {before:.2%} before pruning")
    accelerator.init_trackers("tensorboard")
    rows = train(
        sparse,
        data,
        settings,
        say,
        targets=targets if strength is None else Targets(),
        strength=strength,
        teacher=teacher,
        checkpoint=out / "checkpoint.pt",
        metrics=out / METRICS,
        accelerator=accelerator,
    )
    path = epochs(rows)
    trained = accuracy(sparse)
    sparse.cpu().to(memory_format=torch.contiguous_format).eval()
    candidates = [layer.path for layer in layers_of(sparse)]
    cut = passes.RemoveLayers(threshold=0.0, target_macs=None if strength is None else targets.macs)
    results = [Pipeline([cut] if settings.finetune_epochs else [cut, *AFTER_TRAINING])(sparse)]
    removal = results[0].steps[0].result
    removed = removal.graph_module
    without = accuracy(removed)
    staying = {layer.path for layer in layers_of(removed)}
    gone = [path for path in candidates if path not in staying]  # with what lay in branches
    say(f"removed {len(gone)} layers: held-out top-1 {trained:.2%} -> {without:.2%}")
    if settings.finetune_epochs:
        rows += _finetune(removed, data, out, settings, say, teacher, accelerator)
        results.append(Pipeline(AFTER_TRAINING)(removed))
    for result in results:
        say(str(result))
    pruned = results[-1].graph_module
    for graph_module in (traced, pruned):  # they share weights with graphs that were evaluated elsewhere
        graph_module.cpu()
    report: dict[str, Any] = {
        "schema": REPORT_SCHEMA,
        **(extra or {}),
        **_costs(traced, pruned),
        "opaque": opaque,
        "layers_removable": len(candidates),
        "layers_removed": gone,
        "accuracy_before": before,
        "accuracy_before_removal": trained,
        "accuracy_after_removal": without,
        "accuracy_after": accuracy(pruned),
        "max_relative_difference": max(found.max_relative or 0.0 for found in (inserted, *results)),
        "latency_ms": latencies(traced.to(accelerator.device), pruned),
        "path": path,
        "settings": {
            **asdict(settings),
            **targets.options(),
            "strength": strength,
            "layers": layers,
            "keep": list(keep),
            "only": list(only),
        },
        "versions": {
            "fxprune": fxprune.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "hardware": hardware(accelerator),
        "seconds": round(sum(epoch["seconds"] for epoch in epochs(rows)), 1),
    }
    if accelerator.is_main_process:
        if obstacle is None:
            emit(pruned.cpu(), out)
        else:
            save_with_torch(out / _PICKLED, savable(pruned.cpu()))
        write_diff(out, traced.cpu(), pruned, [inserted, *results])
        write_json(out / REPORT, report)
    accelerator.end_training()
    return report


def _finetune(
    removed: fx.GraphModule,
    data: ImageData,
    out: Path,
    settings: Settings,
    say: Say,
    teacher: nn.Module | None,
    accelerator: Accelerator,
) -> list[dict[str, Any]]:
    """Train ``removed`` for a short while, its scales as they are; it ends on the CPU. Returns the metrics."""
    for layer in layers_of(removed):
        layer.module.trained_scale.requires_grad_(False)
    short = replace(
        settings,
        epochs=settings.finetune_epochs,
        lr=settings.lr / 10,
        distill_features=settings.distill_features / 10,  # in proportion
    )
    rows = train(
        removed,
        data,
        short,
        say,
        teacher=teacher,
        checkpoint=out / "finetune.pt",
        metrics=out / FINETUNING,
        accelerator=accelerator,
    )
    removed.cpu().to(memory_format=torch.contiguous_format).eval()
    return rows


def _costs(before: fx.GraphModule, after: fx.GraphModule) -> dict[str, int]:
    """Return what both cost; the activations of ``before`` are those of the network that it makes for inference."""
    folded = Pipeline(AFTER_TRAINING, verify=False)(before).graph_module
    return {
        "macs_before": total_macs(before),
        "macs_after": total_macs(after),
        "params_before": total_params(before),
        "params_after": total_params(after),
        "activation_bytes_before": peak_activation_bytes(folded),
        "activation_bytes_after": peak_activation_bytes(after),
    }


def latencies(before: fx.GraphModule, after: fx.GraphModule) -> dict[str, dict[str, float]]:
    """Return median milliseconds at batch 1 and 64; ``before`` has its norms folded too, to be fair."""
    folded = Pipeline([passes.FoldBatchNorm(), passes.Simplify()], verify=False)(before).graph_module
    measured = {}
    for batch_size in (1, 64):
        times = compare_latency({"before": folded, "after": after}, batch_size)
        measured[str(batch_size)] = {**times, "ratio": times["after"] / times["before"]}
    return measured
