"""What ``fxprune prune`` says of weights that are random, and who teaches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from torch import nn

    from fxprune.sources.models import LoadedModel


def of_random_weights(model: str, weights: Path | None, loaded: LoadedModel, untaught: bool) -> Iterator[str]:
    """Yield what to say of weights that are random, also of the teacher's if those are the model's own."""
    if loaded.is_random:
        yield f"{model} starts from random weights: --pretrained or --weights FILE loads trained ones"
    if loaded.is_random and untaught:
        yield "the teacher has random weights and nothing to teach: --teacher-weights FILE loads trained ones"
    if loaded.left_random:
        source, left = weights or "the pretrained network", ", ".join(loaded.left_random)
        yield f"{source} holds another number of classes: {left} start from random weights"


def require_classes(teachers: Mapping[Path | None, LoadedModel]) -> None:
    """Raise UsageError if a teacher, given by its file of weights, has none for the classes of the model."""
    for path, one in teachers.items():
        if one.left_random:
            source, left = path or "the pretrained network", ", ".join(one.left_random)
            raise click.UsageError(
                f"the teacher's {left} would be random, since {source} holds another number of "
                "classes: --teacher-weights FILE of a network that was trained for yours, or no --distill"
            )


def teacher_of(known: Sequence[LoadedModel]) -> nn.Module | None:
    """Return what teaches: the one that was loaded, or all of them together."""
    from fxprune.training.distillation import Ensemble

    models = [one.model for one in known]
    return Ensemble(models) if len(models) > 1 else next(iter(models), None)
