"""Criteria and searches by name, ours and those of installed packages."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TypeVar

from fxprune.choosing.criteria.apoz import Apoz
from fxprune.choosing.criteria.base import Criterion
from fxprune.choosing.criteria.bn_gamma import BatchNormGamma
from fxprune.choosing.criteria.cap import Cap
from fxprune.choosing.criteria.entropy import Entropy
from fxprune.choosing.criteria.fisher import Fisher
from fxprune.choosing.criteria.geometric_median import GeometricMedian
from fxprune.choosing.criteria.half_gate import HalfGate
from fxprune.choosing.criteria.l1 import L1
from fxprune.choosing.criteria.l2 import L2
from fxprune.choosing.criteria.random_scores import Random
from fxprune.choosing.criteria.read_share import ReadShare
from fxprune.choosing.criteria.taylor import Taylor
from fxprune.choosing.criteria.weight_norm import WeightNorm
from fxprune.choosing.search.base import Search
from fxprune.choosing.search.lazy_greedy import LazyGreedy
from fxprune.errors import FxpruneValueError, did_you_mean
from fxprune.joined import with_joined

_Part = TypeVar("_Part")
_OWN: tuple[type[Criterion], ...] = (
    *(L1, L2, BatchNormGamma, GeometricMedian, Taylor, Fisher, Apoz, Entropy, ReadShare, Cap, Random),
    *(HalfGate, WeightNorm),
)
_ALSO = {"damage": HalfGate}  # another name


@functools.cache
def known_criteria() -> dict[str, type[Criterion]]:
    """Return every criterion's class by its name, those of the entry-point group ``fxprune.criteria`` too."""
    own: dict[str, type[Criterion]] = {one.name: one for one in _OWN} | _ALSO
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
