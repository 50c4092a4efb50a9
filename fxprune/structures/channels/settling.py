"""What is left to choose when a walk is done: along which axis layers that still vary along several are cut."""

from __future__ import annotations

from collections.abc import Sequence

from fxprune.structures.channels.labels import Reason
from fxprune.structures.channels.values import Layer, Value, values_in, varying
from fxprune.structures.channels.walk import Walk


def settle_all(walk: Walk) -> None:
    """Choose an axis for each layer that still varies along several, until none does; pin what opaque parts read."""
    values = [(node, one) for node, nest in walk.values.items() for one in values_in(nest)]
    values += walk.hidden.items()
    several = [(node, one) for node, one in values if any(len(layer.axes) > 1 for layer in one.layers)]
    changed = True
    while changed:
        changed = sum(_settle(walk, one, Reason(node, _SAME)) for node, one in several) > 0
    for tensor, reason in walk.foreign:
        walk.records.of(tensor).pin(reason)


_SAME = "is cut at the same place everywhere"


def _settle(walk: Walk, value: Value, reason: Reason) -> bool:
    changed = False
    forbidden = {axis for one, axis in walk.fixed if one is value}
    for layer in value.layers:
        now = varying(layer.axes, walk.labels.find(layer.labels))
        if now is not None and not now.labels.all():
            walk.labels.pin(now.labels.ravel(), Reason(reason.node, "stands among what has no channels"))
            continue
        if now is None or (len(now.axes) == 1 and not forbidden.intersection(now.axes)):
            continue
        changed = True
        _settle_layer(walk, now, [axis for axis in now.axes if axis not in forbidden], reason)
    return changed


def _settle_layer(walk: Walk, layer: Layer, options: Sequence[int], reason: Reason) -> None:
    labels = layer.labels
    if not options:
        walk.labels.pin(labels.ravel(), reason)
    kept = max(options, key=lambda axis: _preference(walk, layer, axis)) if options else None
    for place in reversed(range(len(layer.axes))):
        if layer.axes[place] != kept:
            labels = walk.labels.join_along(labels, place, reason)


def _preference(walk: Walk, layer: Layer, axis: int) -> tuple[int, int]:
    """Return how much is left if ``layer`` is cut along ``axis``: classes, and then what was asked for."""
    place = layer.axes.index(axis)
    left = walk.labels.classes_along(layer.labels, place)
    return left, -place if walk.whole else place
