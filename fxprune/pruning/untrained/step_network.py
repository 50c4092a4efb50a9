"""A network with the first channels of some orders gone, and its readers fitted anew, group after group.

W x  ->  W' x[K],   W' = W S[:,K] S[K,K]^-1,   b' = b + W mu - W' mu[K]      S, mu: of what the network so far reads

What is left of a group's channels has the values that it had, so one run tells S for every number of them that may
go: a cut then takes no run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import fx

from fxprune.choosing.criteria.reader_moments import ReaderMoments, can_be_measured, measure
from fxprune.choosing.samples import Batch
from fxprune.choosing.sites import Groups, Statistics
from fxprune.facts.module_uses import CallSites
from fxprune.passes import RemoveChannels, Repair
from fxprune.rewriting.contract import Log
from fxprune.rewriting.refit import Reading, put, reading
from fxprune.rewriting.rewriter import Rewriter
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.running import reads_of
from fxprune.weights.least_squares import Fit, Moments

Order = Sequence[tuple[str, int]]
"""Channels in the order in which they go: of layers, by path, the places of their outputs."""
Numbers = tuple[int, ...]


class _Next(NamedTuple):
    """What is to be known of the group after ``before``."""

    before: Numbers
    channels: Channels
    makers: list[str]  # all layers that have channels of it: what nobody reads of other groups waits for its turn
    moments: dict[str, ReaderMoments]  # what its readers read, by their paths


class StepNetwork:
    """Cuts of one network.

    Args:
        graph_module: the network; it is not changed.
        orders: of each group, in forward order.
        batches: what readers are fitted on; None: they are not.
        groups, statistics: how channels go together, as :class:`fxprune.passes.RemoveChannels` takes them.
        ridge: of the fits, as :class:`fxprune.passes.Repair` takes it.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        orders: Sequence[Order],
        batches: Sequence[Batch] | None,
        groups: Groups = "within",
        statistics: Statistics = "exact",
        ridge: float = Repair.ridge,
    ) -> None:
        self._ridge = ridge
        self._orders = orders
        self._batches = batches
        self._groups, self._statistics = groups, statistics
        self._known: dict[Numbers, fx.GraphModule] = {(): graph_module}
        self._next: _Next | None = None

    def at(self, numbers: Numbers) -> fx.GraphModule:
        """Return the network without the first so many channels of each of the first groups."""
        before = numbers[:-1]
        if numbers in self._known:
            return self._known[numbers]
        graph = self.at(before)
        self._known = {each: one for each, one in self._known.items() if each == before[: len(each)]}
        found = self._cut(graph, before, numbers[-1]) if numbers[-1] else graph
        self._known[numbers] = found
        return found

    def _cut(self, graph: fx.GraphModule, before: Numbers, number: int) -> fx.GraphModule:
        order = self._orders[len(before)]
        indices: dict[str, list[int]] = {}
        for path, place in order[:number]:
            indices.setdefault(path, []).append(place)
        if self._next is None or self._next.before != before:
            self._next = self._found(graph, before)
        channels, makers = self._next.channels, self._next.makers
        remove = RemoveChannels(indices=indices, groups=self._groups, statistics=self._statistics, only=makers)
        found = remove(graph).graph_module
        if self._batches is not None:
            gone = channels.flagged({int(channels.outputs[path][place]) for path, place in order[:number]})
            _refit(found, self._next.moments, gone, self._ridge)
        return found

    def _found(self, graph: fx.GraphModule, before: Numbers) -> _Next:
        """Return what is to be known of the group after ``before``."""
        channels = Channels(graph, whole=self._groups == "whole", approximate=self._statistics == "approximate")
        mine = channels.flagged({int(channels.outputs[path][at]) for path, at in self._orders[len(before)]})
        makers = [path for path, classes in channels.outputs.items() if mine[classes].any()]
        found = {}
        if self._batches is not None:
            for reader, read in zip(channels.walk.readers, reads_of(channels), strict=True):
                if can_be_measured(reader) and any(mine[one].any() for one in read.classes):
                    found[read.node, read.axis] = ReaderMoments(channels, reader)
            measure(channels, self._batches, found)
        return _Next(before, channels, makers, {str(node.target): one for (node, _), one in found.items()})


def _refit(graph_module: fx.GraphModule, moments: dict[str, ReaderMoments], gone: np.ndarray, ridge: float) -> None:
    """Fit the layers of a cut graph that read what has ``gone``, by class."""
    sites, rewriter = CallSites(graph_module), Rewriter(graph_module, Log(), "step-constraint")
    for node in list(graph_module.graph.find_nodes(op="call_module")):
        one = reading(node, sites) if str(node.target) in moments else None
        if isinstance(one, Reading):
            fit = _fit(moments[str(node.target)], gone, ridge)
            if one.geometry.matrix(one.layer.weight).shape == fit.weight.shape:  # type: ignore[arg-type]
                put(one, fit, rewriter, sites)


def _fit(moments: ReaderMoments, gone: np.ndarray, ridge: float) -> Fit:
    """Return what the columns that are left add for those that have gone."""
    goes = np.any([gone[one] for one in moments.classes], axis=0)
    kept, lost = (torch.from_numpy(np.flatnonzero(one)).to(moments.sum.device) for one in (~goes, goes))
    weight = moments.matrix
    missing = weight[:, :, lost]
    sums = Moments(len(weight), len(kept), weight.shape[1], weight.device)
    sums.count = moments.count
    sums.xx = moments.products[:, kept][:, :, kept]
    sums.rx = missing @ moments.products[:, lost][:, :, kept]
    sums.x, sums.r = moments.sum[:, kept], (missing @ moments.sum[:, lost].unsqueeze(2)).squeeze(2)
    sums.rr = ((missing @ moments.products[:, lost][:, :, lost]) * missing).sum(2)
    found = sums.fit(ridge)
    bias = torch.unflatten(found.bias, 1, (moments.taps, -1)).sum(1)
    return found._replace(weight=moments.as_weight(found.weight), bias=bias)
