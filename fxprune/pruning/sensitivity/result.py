"""What was measured of single removals, and what targets would cost: printed as tables, and as plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tabulate import tabulate
from torch import fx

from fxprune.choosing.planned_sites import PlannedSite
from fxprune.costs.macs import total_macs, total_params
from fxprune.pruning.pruning_plan import PruningPlan
from fxprune.pruning.sensitivity.curve import Chosen
from fxprune.pruning.sensitivity.output_change import Change
from fxprune.pruning.sensitivity.single_removals import NotMeasured, SingleRemoval


@dataclass(frozen=True)
class Whole:
    """The network itself: costs, how many samples there were, whether it returns logits, its top-1 if known."""

    macs: int
    params: int
    images: int
    is_logits: bool
    top1: float | None


@dataclass(frozen=True)
class Moved:
    """What became of outputs (see :class:`fxprune.pruning.sensitivity.output_change.Change`).

    Attributes:
        missed: in [0, 1] where outputs are logits, else ``moved``, the mean over batches.
        error: its standard error; None where it is not known.
        moved: how far outputs moved, relative to their size, root mean squares.
        agreement: the share of samples whose first choice stays; None where outputs are no logits.
        loss: by how much the cross entropy rose; None without labels.
        top1: by how much the share of samples that are right rose, on the same samples; None without labels.
        images: on how many samples.
    """

    missed: float
    error: float | None
    moved: float
    agreement: float | None
    loss: float | None
    top1: float | None
    images: int

    @classmethod
    def of(cls, change: Change) -> Moved:
        """Return what ``change`` came to."""
        error = change.error if math.isfinite(change.error) else None
        return cls(change.missed, error, change.moved, change.agreement, change.loss, change.top1, change.images)


@dataclass(frozen=True)
class SiteSensitivity:
    """One single removal: ``goes`` of ``width`` channels, or 1 of 1 conv or branch; what it saves; what it changes.

    ``planned`` is the same as plans have it. ``macs`` are for one sample.
    """

    kind: str
    path: str
    goes: int
    width: int
    macs: float
    params: float
    moved: Moved
    planned: tuple[PlannedSite, ...]

    @classmethod
    def of(cls, one: SingleRemoval, change: Change) -> SiteSensitivity:
        """Return what ``change`` says of ``one``."""
        return cls(one.kind, one.path, one.goes, one.width, one.macs, one.params, Moved.of(change), one.planned)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        costs = {"saves_macs": self.macs, "saves_params": self.params}
        place = {"kind": self.kind, "path": self.path, "goes": self.goes, "width": self.width}
        return {**place, **costs, **asdict(self.moved)}


@dataclass(frozen=True)
class Point:
    """What a target would cost.

    Attributes:
        target: the share of the MACs to leave.
        why: why it cannot be met, and what can; "" if it can. All that follows is None then.
        plan: what goes.
        macs_left, params_left: the shares that the network has left which was really cut.
        foretold: what is missed, if what single removals are missed adds up.
        measured: what that network comes to.
    """

    target: float
    why: str
    plan: PruningPlan | None = None
    macs_left: float | None = None
    params_left: float | None = None
    foretold: float | None = None
    measured: Moved | None = None

    @classmethod
    def of(cls, one: Chosen, network: fx.GraphModule, change: Change, totals: tuple[float, float]) -> Point:
        """Return what was chosen for a target, and what the ``network`` that was cut changes and has left."""
        left = [
            total(network) / max(whole, 1) for total, whole in zip((total_macs, total_params), totals, strict=True)
        ]
        measured = None if change.why else Moved.of(change)
        return cls(one.target, change.why, one.plan, left[0], left[1], one.foretold, measured)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data; the plan in words."""
        found = {name: getattr(self, name) for name in ("target", "why", "macs_left", "params_left", "foretold")}
        measured = None if self.measured is None else asdict(self.measured)
        return {**found, "measured": measured, "goes": None if self.plan is None else str(self.plan)}


@dataclass(frozen=True)
class Sensitivity:
    """How much the parts of a network are missed; printing it shows tables.

    Attributes:
        whole: the network itself.
        sites: the single removals that were measured.
        not_measured: what may go and was not, with reasons.
        curve: what targets would cost.
        criterion: which channels of a group went first, by name.
        seconds: how long it took.
    """

    whole: Whole
    sites: tuple[SiteSensitivity, ...]
    not_measured: tuple[NotMeasured, ...]
    curve: tuple[Point, ...]
    criterion: str
    seconds: float

    @property
    def ranked(self) -> list[SiteSensitivity]:
        """The single removals, what is missed least for the MACs that it saves first."""
        return sorted(self.sites, key=self.per_macs)

    def per_macs(self, one: SiteSensitivity) -> float:
        """Return what ``one`` is missed over the share of the MACs that it saves; infinite if it saves none."""
        return one.moved.missed / (one.macs / self.whole.macs) if one.macs and self.whole.macs else math.inf

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data; the sites as they are ranked."""
        return {
            "network": asdict(self.whole),
            "criterion": self.criterion,
            "seconds": round(self.seconds, 1),
            "sites": [one.to_json() for one in self.ranked],
            "not_measured": [asdict(one) for one in self.not_measured],
            "curve": [one.to_json() for one in self.curve],
        }

    def __str__(self) -> str:
        rows = [[one.kind, one.path, _share_of(one), *self._costs(one), *_cells(one.moved)] for one in self.ranked]
        heads = ["what", "where", "goes", "MACs", "params", "per MACs", *_HEADS]
        parts = [_table(rows, heads, 3)]
        if self.curve:
            left = [[f"{one.target:.0%}", *_point(one)] for one in self.curve if not one.why]
            heads = ["target", "MACs left", "params left", "foretold", *_HEADS]
            parts += [_table(left, heads, 0)] if left else []
        return "\n\n".join([*parts, "\n".join(self.notes)])

    def _costs(self, one: SiteSensitivity) -> list[str]:
        shares = [
            f"{part / max(whole, 1):.1%}"
            for part, whole in ((one.macs, self.whole.macs), (one.params, self.whole.params))
        ]
        return [*shares, f"{self.per_macs(one):.3g}"]

    @property
    def notes(self) -> list[str]:
        """What the figures are, on what, what cannot be met and what was not measured, for a person."""
        top1 = "" if self.whole.top1 is None else f", of which the network has {self.whole.top1:.2%} right"
        notes = [f"measured on at most {self.whole.images} samples{top1}; {self.seconds:.0f} s"]
        if not self.whole.is_logits:
            notes.append(
                "outputs are not one tensor of logits: missed is how far they moved, of top-1 nothing is known"
            )
        notes += [f"{one.target:.0%} of the MACs: {one.why}" for one in self.curve if one.why]
        notes += [f"not measured: {one.kind} {one.path}: {one.why}" for one in self.not_measured]
        return notes


_HEADS = ["missed", "±", "moved", "agrees", "loss", "top-1"]


def _cells(moved: Moved) -> list[str]:
    agrees = None if moved.agreement is None else f"{moved.agreement:.1%}"
    top1 = None if moved.top1 is None else f"{moved.top1:+.1%}"
    numbers = [None if one is None else f"{one:.3g}" for one in (moved.missed, moved.error, moved.moved)]
    loss = None if moved.loss is None else f"{moved.loss:+.3g}"
    return [one or "" for one in (*numbers, agrees, loss, top1)]


def _point(one: Point) -> list[str]:
    assert one.macs_left is not None
    assert one.params_left is not None
    assert one.foretold is not None
    assert one.measured is not None
    return [f"{one.macs_left:.1%}", f"{one.params_left:.1%}", f"{one.foretold:.3g}", *_cells(one.measured)]


def _share_of(one: SiteSensitivity) -> str:
    return f"{one.goes} of {one.width}" if one.kind == "channels" else "all"


def _table(rows: Sequence[Sequence[str]], heads: Sequence[str], texts: int) -> str:
    """Return a table without the columns in which nothing stands; the first ``texts`` are aligned to the left."""
    used = [place for place in range(len(heads)) if any(row[place] for row in rows)]
    align = ["left" if place < texts else "right" for place in used]
    cells = [[row[place] for place in used] for row in rows]
    return tabulate(cells, headers=[heads[place] for place in used], colalign=align, disable_numparse=True)
