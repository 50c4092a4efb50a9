"""``fxprune prune --partition K``: a head whose layers are split into blocks, in a folder as those of other runs.

choose blocks -> mask -> repair inside of them -> train with the masks held -> a layer a block

partition.json says which feature is in which block as soon as they are chosen: the same command goes on from it and
from the last checkpoint after a kill.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import fx, nn

from fxprune import passes
from fxprune.choosing.partitions.choose import SearchName, require_blocks
from fxprune.choosing.partitions.plan import PartitionPlan
from fxprune.emission.emit_partitions import emit_partitions, require_partitions
from fxprune.files import make_folder
from fxprune.passes.chains import FINISHING, Norms
from fxprune.pipelines.pipeline import Pipeline
from fxprune.pipelines.result import PipelineResult
from fxprune.pruning.partition_plans import require_any
from fxprune.rewriting.contract import Pass
from fxprune.run_record import METRICS, PARTITION
from fxprune.training.checks import traced_for_images
from fxprune.training.data import ImageData, sample_batches, sample_inputs
from fxprune.training.engine import end_together, hardware, make_accelerator
from fxprune.training.job import CHECKPOINT, Run
from fxprune.training.metrics import epochs
from fxprune.training.report import REPORT_SCHEMA, compared, versions, write_results
from fxprune.training.settings import Settings
from fxprune.training.work import Work, settled, teacher_of

PARTS = "parts"


@dataclass(frozen=True)
class Partitioning:
    """How a head is split.

    Args:
        blocks: how many, from 2 to 16.
        search: how they are found, see :class:`fxprune.passes.MaskPartition`; by weight and activation.
        trains: whether the network is trained behind the repair.
        images: how many training images are looked at, to choose and to repair.
        keep_cross: the share of the weights across blocks that a rest of low rank may have.
        parallel: whether a network a partition is written too, to ``parts``.
        keep, only: patterns over the paths of modules; chains with layers that stay.
        norms: "fold" batch norms into the weights, or "keep" them.
    """

    blocks: int
    search: SearchName = "alternating"
    trains: bool = True
    images: int = 512
    keep_cross: float = 0.0
    parallel: bool = False
    keep: Sequence[str] = ()
    only: Sequence[str] = ()
    norms: Norms = "fold"

    def __post_init__(self) -> None:
        require_blocks(self.blocks)

    def options(self) -> dict[str, Any]:
        """Return each by its name in records of runs, which is that of its option in the shell."""
        kept = {"keep": list(self.keep) or None, "only": list(self.only) or None}
        told: dict[str, Any] = {"partition": self.blocks, "partition_search": self.search, "parallel": self.parallel}
        told |= {"keep_cross": self.keep_cross} if self.keep_cross else {}
        return {**told, "images": self.images, "no_train": not self.trains, **kept, "norms": self.norms}


def partition_on_data(
    model: nn.Module,
    data: ImageData,
    out: Path,
    settings: Settings,
    *,
    way: Partitioning,
    run: Run,
    teacher: nn.Module | None = None,
) -> dict[str, Any]:
    """Split the linear layers of ``model`` into blocks; write ``out``, return the report.

    ``model`` is not changed.

    Raises:
        FxpruneError: no chain of linear layers can be split (lists why).
        FxpruneValueError: a layer has fewer features than blocks.
        EmitError: a network a partition is asked for, and cannot be.
    """
    make_folder(out)
    accelerator = run.accelerator or make_accelerator(settings, out)
    examples = sample_inputs(data)
    traced = traced_for_images(model, examples).eval()
    taught_by = teacher_of(teacher or traced, examples, settings)
    alone = replace(settings, finetune_epochs=0)  # nothing is trained on behind the one training
    work = _Work(data.to(accelerator.device), out, alone, run.say, taught_by, accelerator, way)
    split = work.split(traced, list(sample_batches(data, way.images)))
    report = {"schema": REPORT_SCHEMA, **(run.extra or {}), **work.report(traced, split)}
    if accelerator.is_main_process:
        if way.parallel:
            shutil.rmtree(out / PARTS, ignore_errors=True)  # what a run that was killed had begun to write
            emit_partitions(split.masked, out / PARTS)
        write_results(out, traced, split.results, report, run.exports)
    end_together(accelerator)
    return report


class _Split(NamedTuple):
    """What came of a head."""

    masked: fx.GraphModule  # finished, but for its layers, which are whole and have blocks
    results: list[PipelineResult]
    blocks: list[str]  # what became of each layer
    accuracies: dict[str, float]  # as the report tells them
    rows: list[dict[str, Any]]  # of the training


@dataclass(frozen=True)
class _Work(Work):
    """A run at work on its device."""

    way: Partitioning

    def top1(self, graph_module: fx.GraphModule) -> float:
        """Return the held-out top-1 of a graph, which is on the CPU again then."""
        found = self.accuracy(graph_module)
        graph_module.cpu()
        return found

    def split(self, traced: fx.GraphModule, batches: Sequence[Any]) -> _Split:
        """Choose, mask, repair, train, and make layers of the blocks."""
        unpruned = copy.deepcopy(traced) if self.settings.baseline and self.way.trains else None
        masked = _masked(traced, batches, self.way, self.out / PARTITION, self.settings.seed)
        if self.way.parallel:
            require_partitions(masked.graph_module)  # an error now, and not after the training
        if self.accelerator.is_main_process:
            PartitionPlan.of(masked.graph_module).save(self.out / PARTITION)
        repaired = Pipeline([passes.Repair(data=batches, reference=traced)])(masked.graph_module)
        stages = {"before": traced, "after_mask": masked.graph_module, "after_repair": repaired.graph_module}
        accuracies = {f"accuracy_{name}": self.top1(graph) for name, graph in stages.items()}
        self._say(masked, *accuracies.values())
        graph = repaired.graph_module
        rows = self.train(graph, self.settings, CHECKPOINT, METRICS).rows if self.way.trains else []
        if unpruned is not None:
            accuracies["accuracy_baseline"] = self.baseline(unpruned)
        plain = Pipeline([*FINISHING[self.way.norms]])(settled(graph))
        split = Pipeline([passes.PartitionLinear()])(plain.graph_module)
        accuracies["accuracy_after"] = self.top1(split.graph_module)
        return _Split(plain.graph_module, [masked, repaired, plain, split], _told(masked), accuracies, rows)

    def _say(self, masked: PipelineResult, before: float, after_mask: float, after_repair: float) -> None:
        self.say(f"held-out top-1 {before:.2%}, {after_mask:.2%} masked, {after_repair:.2%} repaired")
        for line in _told(masked):
            self.say(line)

    def report(self, traced: fx.GraphModule, split: _Split) -> dict[str, Any]:
        """Measure what came out, beside what went in, and return what the report tells."""
        after = split.results[-1].graph_module
        return {
            **compared(traced, after, split.results, self.data),
            "blocks": split.blocks,
            **split.accuracies,
            "settings": {**self.way.options(), **(self.settings.shared() if self.way.trains else {})},
            "versions": versions(),
            "hardware": hardware(self.accelerator),
            "seconds": round(sum(one["seconds"] for one in epochs(split.rows)), 1),
        }


def _masked(
    traced: fx.GraphModule, batches: Sequence[Any], way: Partitioning, known: Path, seed: int
) -> PipelineResult:
    """Return the masked network: with the blocks that were chosen before, where there are some."""
    options: dict[str, Any] = {"keep": list(way.keep), "only": list(way.only), "keep_cross": way.keep_cross}
    if known.exists():
        one = passes.MaskPartition(way.blocks, plan=PartitionPlan.load(known), **options)
    else:
        one = passes.MaskPartition(way.blocks, way.search, "activation", batches, seed, **options)
    chain: list[Pass] = [passes.FreezeWeights(), one]
    found = Pipeline(chain)(traced)
    require_any(PartitionPlan.of(found.graph_module), found.steps[-1].result.declined)
    return found


def _told(masked: PipelineResult) -> list[str]:
    """Return what became of each layer, and what was to be said."""
    result = masked.steps[-1].result
    return [*(str(site) for site in result.rewritten), *result.warnings]
