"""What ``fxprune prune`` does once its options are read: one run in one folder, with or without training."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fxprune.choosing.targets import Targets
from fxprune.cli.options import print_json
from fxprune.cli.progress import progress_line, saying
from fxprune.cli.teachers import of_random_weights, require_classes, teacher_of
from fxprune.emission.formats import Exports
from fxprune.errors import LoadError
from fxprune.files import make_folder
from fxprune.render.plots import plotting
from fxprune.run_record import SEARCHED, read_run
from fxprune.sources.models import LoadedModel, load_model
from fxprune.training.data import ImageData, load_data
from fxprune.training.engine import make_accelerator
from fxprune.training.folder import is_finished, open_folder
from fxprune.training.frontier import Stop, folder_of, stops, write_frontier
from fxprune.training.goal import Goal
from fxprune.training.job import Run, prune_on_data, say_nothing
from fxprune.training.partition_job import Partitioning, partition_on_data
from fxprune.training.settings import Settings
from fxprune.training.ucp_job import ByAttention, prune_by_attention
from fxprune.training.untrained_job import Without, prune_on_images

if TYPE_CHECKING:
    from torch import nn

Report = Mapping[str, Any]
Work = Callable[[LoadedModel, ImageData, Run, "nn.Module | None"], Report]


@dataclass(frozen=True)
class Source:
    """Which network, from where its weights are, and who teaches it: ``teacher``, with its classes, or the same."""

    model: str
    weights: Path | None
    pretrained: bool
    classes: int | None
    teacher_weights: Sequence[Path] = ()
    teacher: tuple[str, int | None] | None = None

    def load(self) -> LoadedModel:
        """Return the network."""
        return load_model(self.model, self.weights, self.classes, pretrained=self.pretrained)

    def gone_on_from(self, folder: Path) -> Source:
        """Return the network that a run wrote, with the same teacher; raises LoadError if that has no source."""
        if not (folder / "model.py").exists():
            raise LoadError(f"{folder} has no model.py to go on from: give the targets of the frontier one by one")
        teacher = self.teacher or (self.model, self.classes)
        return Source(str(folder), None, False, None, self.teacher_weights, teacher)

    def record(self) -> dict[str, Any]:
        """Return what the record of a run tells of it."""
        return {
            "model": self.model,
            "weights": self.weights and str(self.weights),
            "weights_sha256": self.weights and _sha256(self.weights),
            "pretrained": self.pretrained or None,
            "teacher_weights": [str(path) for path in self.teacher_weights],
            "teacher_weights_sha256": [_sha256(path) for path in self.teacher_weights],
        }


@dataclass(frozen=True)
class Images:
    """Which images, and how they are read."""

    data: str
    image_size: int | None
    in_memory: bool
    on_bad_image: str

    def load(self) -> ImageData:
        """Return them."""
        options: dict[str, Any] = {"in_memory": self.in_memory, "on_bad_image": self.on_bad_image}
        return load_data(self.data, self.image_size, **options)

    def record(self) -> dict[str, Any]:
        """Return what the record of a run tells of them."""
        return {"data": self.data, "image_size": self.image_size, "in_memory": self.in_memory}


@dataclass(frozen=True)
class Job:
    """All of a run but its goal and its folder.

    Attributes:
        way: how it prunes without training, or by gates of attention; None if it trains gates to zero.
        aside: lines on how it goes are for stderr.
    """

    source: Source
    images: Images
    settings: Settings
    way: Without | ByAttention | None
    exports: Exports
    aside: bool

    def run(self, out: Path, goal: Goal) -> Done | None:
        """Do it, or go on with it, unless that is done; None in a process that is not the main one."""
        if isinstance(self.way, Without):
            return self._untrained(self.way, out, goal)
        return self._trained(self.way, out, goal)

    def _untrained(self, way: Without, out: Path, goal: Goal) -> Done:
        goal = goal.without_training
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise click.UsageError(
                "--no-train runs in one process: leave torchrun out (in Python passes.Repair takes it)"
            )
        loaded, say = self._loaded(saying(self.aside), untaught=False)
        _say_where(say, goal)
        data = self.images.load()
        given = {**self.source.record(), **self.images.record()}
        record = {**given, **way.options(), **_told(goal)}
        if is_finished(out, record):
            return Done.before(out)
        with open_folder(out, record), progress_line("looking at the images"):
            return Done(prune_on_images(loaded.model, data, out, goal, way, say, given))

    def _trained(self, way: ByAttention | None, out: Path, goal: Goal) -> Done | None:
        def work(loaded: LoadedModel, data: ImageData, run: Run, teacher: nn.Module | None) -> Report:
            _say_where(run.say, goal)
            options: dict[str, Any] = {"goal": goal, "run": run, "teacher": teacher}
            if way is None:
                return prune_on_data(loaded.model, data, out, self.settings, **options)
            return prune_by_attention(loaded.model, data, out, self.settings, way=way, **options)

        told = {**_told(goal), **self.settings.shared(), **({} if way is None else way.options())}
        return self._among_processes(out, told, work)

    def split(self, out: Path, way: Partitioning) -> Done | None:
        """Split a head into blocks in the place of pruning, likewise."""

        def work(loaded: LoadedModel, data: ImageData, run: Run, teacher: nn.Module | None) -> Report:
            return partition_on_data(loaded.model, data, out, self.settings, way=way, run=run, teacher=teacher)

        trained = self.settings.shared() if way.trains else {"seed": self.settings.seed}
        return self._among_processes(out, {**way.options(), **trained}, work)

    def _among_processes(self, out: Path, told: Mapping[str, Any], work: Work) -> Done | None:
        """Do what is asked for, which is ``told``, in each process, in a folder that the first of them opens."""
        accelerator = make_accelerator(self.settings, out)
        is_main: bool = accelerator.is_main_process
        untaught = self.settings.learns_from_teacher and not self.source.teacher_weights
        loaded, say = self._loaded(saying(self.aside) if is_main else say_nothing, untaught)
        teacher = self._teacher(loaded)
        data = self.images.load()
        given = {**self.source.record(), **self.images.record()}
        record = {**given, **told}
        if is_finished(out, record):
            return Done.before(out) if is_main else None
        with ExitStack() as held:
            if is_main:
                held.enter_context(open_folder(out, record))
            accelerator.wait_for_everyone()
            run = Run(say, given, accelerator, self.exports)
            report = work(loaded, data, run, teacher)
        return Done(report) if is_main else None

    def _loaded(self, say: Callable[[str], None], untaught: bool) -> tuple[LoadedModel, Callable[[str], None]]:
        loaded = self.source.load()
        if isinstance(self.way, ByAttention) and not self.settings.learns_from_teacher:
            return loaded, say  # weights are drawn anew, whatever they are
        for line in of_random_weights(self.source.model, self.source.weights, loaded, untaught):
            say(line)
        return loaded, say

    def _teacher(self, loaded: LoadedModel) -> nn.Module | None:
        source = self.source
        teacher, classes = source.teacher or (source.model, source.classes)
        known = [load_model(teacher, path, classes) for path in source.teacher_weights]
        if self.settings.distill:
            require_classes(dict(zip(source.teacher_weights, known, strict=True)) or {source.weights: loaded})
        return teacher_of(known)


@dataclass(frozen=True)
class Done:
    """The report of a run, and whether it was done before."""

    report: Report
    is_old: bool = False

    @classmethod
    def before(cls, out: Path) -> Done:
        """Return what the finished run in a folder reported."""
        report = read_run(out).report
        assert report is not None
        return cls(report, is_old=True)


def along(job: Job, goal: Goal, shares: Sequence[float], out: Path) -> None:
    """Prune to each of several shares of the time, from the largest down, and write what is on the way, and a page.

    With training each network goes on from the one before it, with its norms; without, all begin with the first.
    """
    plotting()  # an error now, and not after the first, where it cannot draw
    say = saying(job.aside)
    trains = job.way is None
    if trains:
        goal = replace(goal, norms="keep")
    elif isinstance(job.way, Without):
        make_folder(out)
        job = replace(job, way=replace(job.way, state=out / SEARCHED))
    is_main = os.environ.get("RANK", "0") == "0"
    done: list[Stop] = []
    for share in stops(shares):
        folder = folder_of(out, share)
        targets = Targets(latency=share)
        if trains and done:
            targets = Targets(milliseconds=share * done[0].report["latency"]["before_ms"])
            job = replace(job, source=job.source.gone_on_from(done[-1].folder))
        found = job.run(folder, replace(goal, targets=targets)) or Done.before(folder)
        done.append(Stop(share, folder, found.report))
        if is_main:
            told = write_frontier(out, done)
            last = told["points"][-1]
            say(f"{share:.0%} of the time: held-out top-1 {last['top1']:.2%} at {last['ms']:.3g} ms")
    if is_main and job.aside:
        print_json({"out": str(out), **told})
    elif is_main:
        say(f"frontier.html, frontier.json and a folder for each network are in {out}")


def _say_where(say: Callable[[str], None], goal: Goal) -> None:
    """Say on which device times are measured, before that takes its minutes."""
    if goal.targets.is_timed:
        device = (goal.timed or {}).get("device", "cpu")
        say(f"times are measured on {device}: --latency-device says where else")


def _told(goal: Goal) -> dict[str, Any]:
    """Return a goal as records have it; older ones have no patterns."""
    return {name: value or None for name, value in goal.options().items()}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
