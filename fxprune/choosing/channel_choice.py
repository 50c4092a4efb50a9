"""Which channels go: those that nobody reads, a share of each group, or those that were chosen elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import fx

from fxprune.choosing.keeping import Kept
from fxprune.errors import FxpruneValueError, did_you_mean
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.labels import NONE

Worth = NDArray[np.float64]
Criterion = Callable[[Channels, int], Worth]


def _l1(channels: Channels, seed: int) -> Worth:
    worth = channels.magnitudes
    if np.isnan(worth).any():
        name = channels.name_of(int(np.flatnonzero(np.isnan(worth))[0]))
        raise FxpruneValueError(f"the weights of {name} hold NaN: no criterion can rank its channels; train it anew")
    return worth


def _random(channels: Channels, seed: int) -> Worth:
    return np.random.default_rng(seed).random(len(channels.labels))


CRITERIA: Mapping[str, Criterion] = {"l1": _l1, "random": _random}
"""How much each class is worth, by label: its rows' L1 norm (Li et al., arXiv 1608.08710), or a number drawn."""


def by_ratio(channels: Channels, ratio: float, worth: Worth, kept: Collection[int]) -> set[int]:
    """Return the share ``ratio`` of each group, those that are worth least; never what is ``kept`` or pinned."""
    stays = channels.stays.copy()
    stays[list(kept)] = True
    gone: list[int] = []
    for group in channels.groups:
        free = group.free[~stays[group.free]]
        order = np.argsort(worth[free], kind="stable")
        gone += free[order][: int(ratio * group.width)].tolist()
    return channels.spared(gone, worth)


def by_indices(
    channels: Channels, indices: Mapping[str, Sequence[int]], region: str = ""
) -> dict[int, tuple[str, int]]:
    """Return the classes of the output channels that are given by the paths of layers, each with who asked for it.

    Raises FxpruneValueError for a path that no layer with channels has, or a channel that it has not.
    """
    found: dict[int, tuple[str, int]] = {}
    outputs = channels.outputs
    for given, places in indices.items():
        path = given.removeprefix(f"{region}.") if region else given
        if path not in outputs:
            hint = did_you_mean(given, list(outputs))
            raise FxpruneValueError(f"indices has {given!r}, which is no layer whose channels can be named{hint}")
        classes = outputs[path]
        for place in places:
            if not -len(classes) <= place < len(classes):
                raise FxpruneValueError(
                    f"indices has channel {place} of {given}, which has {len(classes)}: 0 to {len(classes) - 1}"
                )
            found[int(classes[place])] = (given, place)
    return found


def require_left(channels: Channels, gone: Collection[int]) -> None:
    """Raise FxpruneValueError if ``gone`` leaves too little of an axis; names it."""
    goes = channels.flagged(gone)
    for node, classes in channels.axes:
        left = np.count_nonzero(~goes[classes])
        if left < min(2, len(classes)):
            raise FxpruneValueError(
                f"of the {len(classes[classes != NONE])} channels of {node.name} {left} would be left, and two "
                "stay at least: an axis of one is broadcast"
            )


def kept_classes(channels: Channels, kept: Kept, region: str = "") -> tuple[set[int], list[fx.Node]]:
    """Return the classes of the output channels of layers that the user keeps, and the calls of these layers."""
    if not kept.keep and not kept.only:
        return set(), []
    nodes = {str(node.target): node for node in channels.graph_module.graph.find_nodes(op="call_module")}
    held = [path for path in channels.outputs if path in nodes and kept.holds([nodes[path]], region)]
    return {one for path in held for one in channels.outputs[path].tolist()}, [nodes[path] for path in held]
