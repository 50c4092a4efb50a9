"""What a plan says of one place: which of its channels go, or that a conv or a branch goes as a whole."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx

from fxprune.errors import FxpruneValueError, did_you_mean
from fxprune.ir.nodes import graphs_of
from fxprune.structures.channels.groups import Channels

KINDS = ("conv", "branch", "channels")
_DIGITS = 4
_WORDS: Mapping[type, str] = {str: "a text", int: "a whole number", list: "a list"}


@dataclass(frozen=True)
class PlannedSite:
    """What goes at one place.

    Args:
        kind: "channels", "conv" or "branch".
        path: of a layer that makes the channels, or of the conv; of a branch as ``fxprune inspect`` has it.
        width: how many output channels the layer has; 1 for a conv or a branch as a whole.
        indices: which of these go, (0,) for a conv or a branch. Of channels that can only go together one is named.
        scores: how much each of them is missed, for a person.

    Raises:
        FxpruneValueError: the kind is none, or an index is out of range.
    """

    kind: str
    path: str
    width: int
    indices: tuple[int, ...]
    scores: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            hint = did_you_mean(self.kind, KINDS)
            raise FxpruneValueError(f"the kind of {self.path} is {self.kind!r}, and none of {', '.join(KINDS)}{hint}")
        for one in self.indices:
            if not 0 <= one < self.width:
                has = f"it has {self.width} channels, 0 to {self.width - 1}"
                has = has if self.kind == "channels" else f"a {self.kind} goes as a whole, index 0"
                raise FxpruneValueError(f"index {one} of {self.path} is out of range: {has}")

    @classmethod
    def read(cls, content: Any) -> PlannedSite:
        """Return the site of plain data, as :meth:`to_json` made it; raises FxpruneValueError for anything else."""
        if not isinstance(content, Mapping):
            raise FxpruneValueError(f"a site is an object of kind, path, width and indices; got {content!r}")
        where = content.get("path", "a site")
        for name in content.keys() - cls.__dataclass_fields__.keys():
            hint = did_you_mean(name, cls.__dataclass_fields__)
            raise FxpruneValueError(f"{where} has {name!r}, which no site has{hint}")
        content = {"scores": [], **content}
        for name, kind in {"kind": str, "path": str, "width": int, "indices": list, "scores": list}.items():
            if type(content.get(name)) is not kind:
                got = repr(content[name]) if name in content else "nothing"
                raise FxpruneValueError(f"{name} of {where} is {got}, and should be {_WORDS[kind]}")
        for one in content["indices"]:
            if type(one) is not int:
                raise FxpruneValueError(f"index {one!r} of {where} is no whole number")
        for one in content["scores"]:
            if type(one) not in (int, float):
                raise FxpruneValueError(f"score {one!r} of {where} is no number")
        return cls(**{**content, "indices": tuple(content["indices"]), "scores": tuple(content["scores"])})

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def planned_channels(
    channels: Channels,
    gone: Collection[int],
    worth: NDArray[np.float64],
    region: str = "",
    without: Collection[str] = (),
) -> list[PlannedSite]:
    """Return what names the classes ``gone`` of one graph: each is named once, by the first layer that makes it.

    Args:
        channels: of the graph of ``region``.
        gone: the classes.
        worth: how much each is missed, by class; what is not finite counts as 0.
        region: the path of the graph, "" of the outermost one.
        without: the paths of layers, in that graph, that are not to name any: they go themselves.
    """
    left, found = set(gone), []
    for path, classes in channels.outputs.items():
        places = [] if path in without else _firsts(classes, left)
        if places:
            mine = classes[places].tolist()
            scores = tuple(_short(float(worth[one])) if np.isfinite(worth[one]) else 0.0 for one in mine)
            where = f"{region}.{path}" if region else path
            found.append(PlannedSite("channels", where, len(classes), tuple(places), scores))
            left -= set(mine)
    return found


def widths_of(graph_module: fx.GraphModule) -> Iterator[tuple[str, int]]:
    """Yield the paths of the layers that make channels, in a graph and its regions, each with how many it makes."""
    for region, graph in graphs_of(graph_module):
        for path, classes in Channels(graph).outputs.items():
            yield f"{region}.{path}" if region else path, len(classes)


def _short(score: float) -> float:
    return float(f"{score:.{_DIGITS}g}")


def _firsts(classes: NDArray[np.int64], wanted: Collection[int]) -> list[int]:
    """Return the first place of each of the ``wanted`` classes, in order."""
    found, firsts = np.unique(classes, return_index=True)
    return sorted(int(place) for one, place in zip(found.tolist(), firsts.tolist(), strict=True) if one in wanted)
