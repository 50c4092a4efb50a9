"""What the options of ``fxprune prune`` refuse together, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from fxprune.training.settings import Settings

TARGETS = ("target_macs", "target_params", "target_memory", "target_ms", "target_latency")
_NOT_OF_UCP = ("strength", "plan", "no_train", "frontier", "shrink_share", "distill_features")


def is_timed(goal: Mapping[str, Any]) -> bool:
    """Say whether one of the targets is a time."""
    return goal["target_ms"] is not None or goal["target_latency"] is not None


def require_way(no_train: bool, without: Sequence[str], *, is_timed: bool) -> None:
    """Raise UsageError for an option of a training with --no-train, or of that, or ``without``, without it.

    With a target in time --device says where times are measured too.
    """
    given = click.get_current_context().get_parameter_source
    of_training = {*(field.name for field in fields(Settings))} - {"workers", "seed"} | {
        "strength",
        "teacher_weights",
    }
    of_training -= {"device"} if is_timed else set()
    for option in of_training if no_train else (*without, "criterion", "search"):
        if given(option) is click.core.ParameterSource.COMMANDLINE:
            name = f"--{option.replace('_', '-')}"
            raise click.UsageError(
                f"{name} is of a training: leave it out" if no_train else f"{name} needs --no-train"
            )


def require_method(method: str | None, goal: Mapping[str, Any], alpha: float | None) -> None:
    """Raise UsageError for an option that has no meaning for --method ucp, or for --alpha without it."""
    if method is None:
        if alpha is not None:
            raise click.UsageError("--alpha needs --method ucp")
        return
    given = click.get_current_context().get_parameter_source
    for option in _NOT_OF_UCP:
        if given(option) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{option.replace('_', '-')} makes no sense with --method ucp: leave one out")
    if goal["layers"] is not None or goal["what"] not in (None, "channels"):
        raise click.UsageError("--method ucp is of channels: leave --what out, or give --what channels")
    for name in TARGETS if alpha is not None else ():
        if goal[name] is not None:
            raise click.UsageError(f"--alpha says how much goes: leave --{name.replace('_', '-')} out")


def require_use(settings: Settings, goal: Mapping[str, Any], teacher_weights: Sequence[Path]) -> None:
    """Raise UsageError for an option that would do nothing beside the others."""
    given = click.get_current_context().get_parameter_source
    strength = goal["strength"]
    for option, needed, is_there in (
        ("teacher_weights", "--distill or --distill-features", settings.learns_from_teacher),
        ("temperature", "--distill", settings.distill > 0),
        ("shrink_share", "no --strength", strength is None),
        ("target_memory", "no --strength", strength is None),
        *((one, "no --strength", strength is None) for one in ("target_params", "target_ms", "target_latency")),
        *((one, "no --plan: that says what goes", goal["plan"] is None) for one in goal.keys() - {"norms", "plan"}),
    ):
        if given(option) is click.core.ParameterSource.COMMANDLINE and not is_there:
            raise click.UsageError(f"--{option.replace('_', '-')} needs {needed}")
    if settings.distill_features and len(teacher_weights) > 1:
        raise click.UsageError("--distill-features learns from one teacher: give --teacher-weights once")
