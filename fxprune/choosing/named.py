"""Criteria and searches by name, ours and those of installed packages."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TypeVar

from fxprune.choosing.criteria.base import Criterion
from fxprune.choosing.criteria.half_gate import HalfGate
from fxprune.choosing.criteria.weight_norm import WeightNorm
from fxprune.choosing.search.base import Search
from fxprune.choosing.search.lazy_greedy import LazyGreedy
from fxprune.errors import FxpruneValueError, did_you_mean
from fxprune.joined import with_joined

_Part = TypeVar("_Part")


@functools.cache
def known_criteria() -> dict[str, type[Criterion]]:
    """Return every criterion's class by its name, those of the entry-point group ``fxprune.criteria`` too."""
    own: dict[str, type[Criterion]] = {one.name: one for one in (HalfGate, WeightNorm)}
    return with_joined(own, "fxprune.criteria", "criterion")


@functools.cache
def known_searches() -> dict[str, type[Search]]:
    """Return every search's class by its name, those of the entry-point group ``fxprune.searches`` too."""
    return with_joined({LazyGreedy.name: LazyGreedy}, "fxprune.searches", "search")


def made(part: str | _Part, known: Mapping[str, type[_Part]], kind: str) -> _Part:
    """Return ``part``, or the one of that name; raises FxpruneError, with the nearest name, if there is none."""
    if not isinstance(part, str):
        return part
    if part not in known:
        raise FxpruneValueError(f"unknown {kind} {part!r}{did_you_mean(part, known)}; known: {', '.join(known)}")
    return known[part]()
