"""What channels are worth, which were chosen elsewhere, and which the user keeps."""

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


def channel_scores(channels: Channels, criterion: str, seed: int, *, by_group: bool = False) -> Worth:
    """Return how much each class is missed by ``criterion``, by class; ``by_group`` over the mean of its group."""
    worth = CRITERIA[criterion](channels, seed)
    for group in channels.groups if by_group else ():
        mean = worth[group.free].mean() if len(group.free) else 0.0
        worth[group.free] /= mean or 1.0
    return worth


def by_indices(
    fields: Sequence[tuple[str, Channels]], indices: Mapping[str, Sequence[int]]
) -> list[dict[int, tuple[str, int]]]:
    """Return, by graph, the classes of the output channels that are given by the paths of layers, and who asked.

    ``fields`` are the graphs' channels with the paths of their regions. Raises FxpruneValueError for a path that no
    layer with channels has, or a channel that it has not.
    """
    found: list[dict[int, tuple[str, int]]] = [{} for _ in fields]
    layers = {
        f"{region}.{path}" if region else path: (number, classes)
        for number, (region, channels) in enumerate(fields)
        for path, classes in channels.outputs.items()
    }
    for path, places in indices.items():
        if path not in layers:
            hint = did_you_mean(path, layers)
            raise FxpruneValueError(f"indices has {path!r}, which is no layer whose channels can be named{hint}")
        number, classes = layers[path]
        for place in places:
            if not -len(classes) <= place < len(classes):
                raise FxpruneValueError(
                    f"indices has channel {place} of {path}, which has {len(classes)}: 0 to {len(classes) - 1}"
                )
            found[number][int(classes[place])] = (path, place)
    return found


def require_left(channels: Channels, gone: Collection[int]) -> None:
    """Raise FxpruneValueError if ``gone`` leaves too little of an axis; names it."""
    for node, classes in channels.axes:
        left = [one for one in classes.tolist() if one not in gone]
        if len(left) < min(2, len(classes)):
            raise FxpruneValueError(
                f"of the {len(classes[classes != NONE])} channels of {node.name} {len(left)} would be left, and two "
                "stay at least: an axis of one is broadcast"
            )


def kept_classes(channels: Channels, kept: Kept, region: str = "") -> tuple[set[int], list[fx.Node]]:
    """Return the classes of the output channels of layers that the user keeps, and the calls of these layers."""
    if not kept.keep and not kept.only:
        return set(), []
    nodes = {str(node.target): node for node in channels.graph_module.graph.find_nodes(op="call_module")}
    held = [path for path in channels.outputs if path in nodes and kept.holds([nodes[path]], region)]
    return {one for path in held for one in channels.outputs[path].tolist()}, [nodes[path] for path in held]
