"""What a search for a blend leaves in a file after every generation, to go on from: plain data.

{
  "fxprune_blend_search": 1,
  "asked": {"pool": ["l1", "taylor"], "images": "7be1", ...},      of another search it is refused
  "clusters": [{"group": "layer1.0.conv1", "criteria": [...], "correlation": [[...]], "members": [[...]]}],
  "generations": [{"genes": [[0.3, ...], ...], "top1": [0.71, ...]}]
}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fxprune.choosing.criterion_clusters import Clusters
from fxprune.errors import LoadError, first_line
from fxprune.files import read_json_of, write_text

FORMAT = 1
_FORMAT = "fxprune_blend_search"
_KINDS = {"asked": dict, "clusters": list, "generations": list}
_SHOWN = 60


@dataclass
class Generation:
    """The genes of a population, and the held-out top-1 of each, between 0 and 1."""

    genes: list[list[float]]
    top1: list[float]


@dataclass
class SearchRecord:
    """A search so far.

    Args:
        asked: what was searched for, on what, as plain data.
        clusters: the criteria of each group.
        generations: those that are finished.
    """

    asked: dict[str, Any]
    clusters: Mapping[str, Clusters] = field(default_factory=dict)
    generations: list[Generation] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write it, atomically; raises LoadError if it cannot be written."""
        groups = [
            {
                "group": name,
                "criteria": one.names,
                "correlation": np.round(one.correlation, 6).tolist(),
                "members": one.members,
            }
            for name, one in self.clusters.items()
        ]
        generations = [vars(one) for one in self.generations]
        content = {_FORMAT: FORMAT, "asked": self.asked, "clusters": groups, "generations": generations}
        write_text(path, json.dumps(content) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> SearchRecord:
        """Return the search of a file; raises LoadError if it cannot be read, or is none."""
        content = read_json_of(path, "search for a blend")
        if not isinstance(content, dict) or content.pop(_FORMAT, None) != FORMAT:
            raise LoadError(f"{path} is no search for a blend, which has {_FORMAT!r}: {FORMAT}")
        if content.keys() != _KINDS.keys() or any(type(content[name]) is not kind for name, kind in _KINDS.items()):
            raise LoadError(f"{path} is a damaged search: it has {', '.join(_KINDS)}, and no more")
        try:
            return cls(
                content["asked"],
                dict(map(_clusters, content["clusters"])),
                [Generation(**one) for one in content["generations"]],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise LoadError(f"{path} is a damaged search: {first_line(error)}") from error

    def require_same(self, asked: Mapping[str, Any], path: Path) -> None:
        """Raise LoadError if it is of another search; says what differs."""
        noted, now = _flat(self.asked), _flat(asked)
        for name in {**noted, **now}:
            if noted.get(name) != now.get(name):
                there, here = (json.dumps(one.get(name))[:_SHOWN] for one in (noted, now))
                raise LoadError(
                    f"{path} is of another search: {name} is {there} there and {here} here; name another file, or "
                    "remove it"
                )


def _flat(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``asked`` as it is read from a file, the options beside the others."""
    content = json.loads(json.dumps(asked))
    return {**{name: one for name, one in content.items() if name != "options"}, **content.get("options", {})}


def _clusters(content: Mapping[str, Any]) -> tuple[str, Clusters]:
    members = tuple(tuple(map(str, one)) for one in content["members"])
    correlation = np.array(content["correlation"], dtype=np.float64)
    return str(content["group"]), Clusters(tuple(map(str, content["criteria"])), correlation, members)
