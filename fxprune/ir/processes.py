"""Several processes at one task: each takes its share, and sums are of all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import distributed

from fxprune.errors import FxpruneError

_Item = TypeVar("_Item")


def is_distributed() -> bool:
    """Say whether this is one of several processes that work together (or the only one of such a group)."""
    return distributed.is_available() and distributed.is_initialized()


def is_one_of_several() -> bool:
    """Say whether this process is one of a group of two or more."""
    return is_distributed() and distributed.get_world_size() > 1


def share_of(items: Iterable[_Item]) -> list[_Item]:
    """Return what this process takes of ``items``; all if it is alone."""
    every = list(items)
    return every[distributed.get_rank() :: distributed.get_world_size()] if is_one_of_several() else every


def sum_up(*tensors: torch.Tensor) -> None:
    """Have each tensor, in place, hold the sum of those of all processes."""
    if is_one_of_several():
        for one in tensors:
            distributed.all_reduce(one)


def by_the_first(work: Callable[[], _Item]) -> _Item:
    """Return what ``work`` returns: of several processes the first does it, and tells the others.

    What it returns is pickled. Raises FxpruneError in all processes, if it raises one in the first.
    """
    if not is_one_of_several():
        return work()
    told: list[Any] = [None, None]
    if distributed.get_rank() == 0:
        try:
            told[0] = work()
        except Exception as error:
            told[1] = error if isinstance(error, FxpruneError) else FxpruneError(f"{type(error).__name__}: {error}")
    distributed.broadcast_object_list(told, src=0)
    if told[1] is not None:
        raise told[1]
    found: _Item = told[0]
    return found


def total(number: int, device: torch.device | None = None) -> int:
    """Return the sum of a number over all processes."""
    held = torch.tensor(number, device=device)
    sum_up(held)
    return int(held)
