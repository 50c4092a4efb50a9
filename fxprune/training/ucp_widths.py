"""Widths of a run by gates of attention: measured and chosen once, then read back from its folder.

gates -> alpha -> plan.json, widths.json        which a run that is gone on with takes as they are
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fxprune.errors import LoadError
from fxprune.files import write_json
from fxprune.pruning.ucp.widths import choose_widths
from fxprune.run_record import PLAN, WIDTHS, read_json
from fxprune.structures.channels.running import Worth
from fxprune.training.checks import Prepared
from fxprune.training.goal import Goal
from fxprune.training.report import Clocked


@dataclass(frozen=True)
class ChosenWidths:
    """What was chosen, and what is told of how; as widths.json has it.

    Attributes:
        asked: what for, by the names of options.
        alpha: the share of a layer's mean gate above which its channels stay.
        widths: channels before and left of each judged conv, by its path.
        accuracy: the held-out top-1 of the network with gates, between 0 and 1.
        seconds: how long that was trained.
        clocked: for a target in time what the clock said, as :class:`fxprune.training.report.Clocked` has it.
        gates: the mean gate of each channel, by the paths of convs.
    """

    asked: Mapping[str, Any]
    alpha: float
    widths: Mapping[str, list[int]]
    accuracy: float
    seconds: float
    clocked: Mapping[str, Any]
    gates: Mapping[str, list[float]]


def choose_and_write(
    out: Path,
    ready: Prepared,
    goal: Goal,
    alpha: float | None,
    gates: Mapping[str, Worth],
    trained: tuple[float, float],
) -> ChosenWidths:
    """Choose the widths that gates (C,) tell, and write them and the plan to ``out``.

    Args:
        out: the folder of the run.
        ready: the network, without gates.
        goal: the targets, and the layers whose channels stay.
        alpha: in the place of targets.
        gates: the mean gate of each channel, by the paths of convs.
        trained: the accuracy of the network with gates, and in how many seconds it was trained.

    Raises:
        FxpruneValueError: alpha keeps no channel of a layer.
        TargetError: the targets cannot be met by one alpha.
    """
    kept: dict[str, Any] = {"keep": goal.keep, "only": goal.only}
    found = choose_widths(ready.traced, gates, goal.targets, alpha=alpha, latency=ready.latency, **kept)
    told = ChosenWidths(
        _asked(goal, alpha),
        found.alpha,
        {path: list(width) for path, width in found.widths.items()},
        *trained,
        Clocked.of(found.timed).to_json(),
        {path: gate.tolist() for path, gate in gates.items()},
    )
    found.plan.save(out / PLAN)
    write_json(out / WIDTHS, asdict(told))  # last: where it is, all is
    return told


def chosen_before(out: Path, goal: Goal, alpha: float | None) -> ChosenWidths | None:
    """Return what was chosen in ``out`` before, if it was; raises LoadError if that was for something else."""
    content = read_json(out / WIDTHS)
    if content is None:
        return None
    try:
        found = ChosenWidths(**content)
    except TypeError as error:
        raise LoadError(f"{out / WIDTHS} is damaged: remove it, and widths are chosen again") from error
    for name, wanted in _asked(goal, alpha).items():
        known = found.asked.get(name)
        if known != wanted:
            raise LoadError(
                f"the widths in {out} were chosen for {name} {known}, not {wanted}; "
                "use the same to go on, or another folder"
            )
    return found


def _asked(goal: Goal, alpha: float | None) -> dict[str, Any]:
    """Return what widths depend on, beside the gates, as JSON has it."""
    asked = {"alpha": alpha, **goal.targets.options(), "keep": list(goal.keep), "only": list(goal.only)}
    found: dict[str, Any] = json.loads(json.dumps(asked))
    return found
