"""Which channels were chosen elsewhere, what must be left of them, and which the user keeps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from torch import fx

from fxprune.choosing.keeping import Kept
from fxprune.errors import FxpruneValueError, did_you_mean
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.labels import NONE


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
