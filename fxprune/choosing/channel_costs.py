"""What channels hold: the MACs and the parameters that go with some of them, or with all that can go, by group.

    conv(x; W), 64 rows, 32 columns   ->   1 - (1 - 16/64) (1 - 8/32) of it goes with 16 rows and 8 columns

What lies in a row and in a column that go counts once. The columns of one group lie in the rows of others, so what
the groups hold adds up to more than what all of them hold together. That some channels must stay is left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import fx, nn

from fxprune.costs.macs import batch_size, node_macs
from fxprune.gates.base import ungated_call
from fxprune.ops.op import WEIGHTED
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.labels import Array
from fxprune.structures.channels.tensors import Record, Vectors
from fxprune.structures.channels.values import Value

ALL = 0
Amounts = NDArray[np.float64]
Nodes = frozenset[fx.Node]
Term = tuple[float, Sequence[Vectors]]  # an amount, and the labels along each axis of what has it


def held(channels: Channels, owner: Array, count: int) -> tuple[Amounts, Amounts]:
    """Return the MACs for one sample, and the parameters, that go with all that can go.

    Args:
        channels: of one graph; MACs of a region are those of all its calls.
        owner: by label, the number of the group that it can go with, from 1; 0 if it stays.
        count: how many groups there are.

    Returns:
        Both by the number of the group, (count + 1,); at 0 what goes with all groups.
    """
    shares = _Shares(owner)
    found = np.zeros(count + 1), np.zeros(count + 1)
    for amounts, terms in zip(found, (_macs(channels), _params(channels)), strict=True):
        for amount, axes in terms:
            for group, share in shares.of(axes).items():
                amounts[group] += amount * share
    return found


class _Shares:
    """How much of a tensor goes, by group."""

    def __init__(self, owner: Array) -> None:
        self._owner = owner
        self._known: dict[tuple[int, ...], tuple[Vectors, dict[int, float]]] = {}

    def of(self, axes: Iterable[Vectors]) -> dict[int, float]:
        kept: defaultdict[int, float] = defaultdict(lambda: 1.0)
        for vectors in axes:
            for group, share in self._along(vectors).items() if vectors else ():
                kept[group] *= 1 - share
        return {group: 1 - share for group, share in kept.items()}

    def _along(self, vectors: Vectors) -> dict[int, float]:
        key = tuple(map(id, vectors))
        if key not in self._known:
            self._known[key] = vectors, self._counted(vectors)  # held, so that no other gets its id
        return self._known[key][1]

    def _counted(self, vectors: Vectors) -> dict[int, float]:
        owners = np.stack([self._owner[one] for one in vectors])
        size = owners.shape[1]
        pairs = np.unique(owners * size + np.arange(size))  # one that goes with two layers of labels goes once
        groups, counts = np.unique(pairs // size, return_counts=True)
        found = dict(zip(groups.tolist(), (counts / size).tolist(), strict=True))
        found[ALL] = float((owners > 0).any(0).mean())
        return found


def _params(channels: Channels) -> Iterator[Term]:
    records = (one for one in channels.walk.records if isinstance(one.tensor, nn.Parameter))
    return ((one.tensor.numel(), list(one.axes.values())) for one in records)


def _macs(channels: Channels) -> Iterator[Term]:
    return (term for _, term in macs_by_node(channels))


def macs_by_node(channels: Channels) -> Iterator[tuple[Nodes, Term]]:
    """Yield the MACs for one sample of each node that has any, with the labels along the axes that it multiplies."""
    batch = batch_size(channels.graph_module)
    summed: defaultdict[fx.Node, list[Vectors]] = defaultdict(list)
    for reader in channels.walk.readers:
        if reader.weight is None:
            summed[reader.node].append(reader.vectors)
    for node in channels.graph_module.graph.nodes:
        macs = float(node_macs(node) / batch)
        if macs:
            for share, axes in [*_multiplied(channels, node, summed[node])] or [(1, ())]:
                yield frozenset((node,)), (macs * share, axes)


def weight_of(channels: Channels, node: fx.Node) -> Record | None:
    """Return the labels of the weight that ``node`` multiplies by; None if it is no conv or linear layer."""
    call = ungated_call(node)
    return channels.walk.record(call, "weight") if call.kind in WEIGHTED else None


def _multiplied(channels: Channels, node: fx.Node, summed: list[Vectors]) -> Iterator[Term]:
    """Yield the axes over which ``node`` multiplies, with what share of its MACs: those of a weight, or of values."""
    walk, call, weight = channels.walk, ungated_call(node), weight_of(channels, node)
    if weight is not None:
        yield 1, list(weight.axes.values())
        return
    out = walk.value(node)
    if not isinstance(out, Value):
        return
    axes = [walk.along(out, axis) for axis in range(len(out.shape))]
    if call.kind == "product":
        yield 1, [*axes, *summed]
    elif call.op is not None and call.op.name == "scaled_dot_product_attention":
        q, v = (walk.value(call.argument(name)).shape[-1] for name in ("query", "value"))
        yield q / (q + v), [*axes[:-1], *summed]
        yield v / (q + v), axes
