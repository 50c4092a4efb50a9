"""What installed packages add by entry points, beside what is ours."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TypeVar

from fxprune.errors import FxpruneWarning, first_line

_Kind = TypeVar("_Kind")


def with_joined(own: Mapping[str, _Kind], group: str, what: str) -> dict[str, _Kind]:
    """Return ``own`` and what installed packages have in an entry-point group, by name, sorted; ours stay."""
    found = dict(own)
    for point in entry_points(group=group):
        try:
            loaded = point.load()
        except Exception as error:
            of = f" of {point.dist.name}" if point.dist is not None else ""
            warnings.warn(
                f"{what} {point.name}{of} cannot be loaded: {first_line(error)}", FxpruneWarning, stacklevel=3
            )
            continue
        found.setdefault(str(getattr(loaded, "name", point.name)), loaded)
    return dict(sorted(found.items()))
