"""Which channels others can make up for, by the readers' least squares: the ranking of CaP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from fxprune.choosing.criteria.activations import look
from fxprune.choosing.criteria.base import ChannelCriterion, Needs
from fxprune.choosing.criteria.reader_moments import (
    MOST_COLUMNS,
    ReaderMoments,
    can_be_measured,
    in_memory,
    measure,
)
from fxprune.choosing.samples import Batch, Samples
from fxprune.structures.channels.groups import Channels, Group
from fxprune.structures.channels.labels import Array
from fxprune.structures.channels.running import Read, Worth, reads_of
from fxprune.structures.channels.walk import Reader
from fxprune.weights.forward_selection import LinearMap, lost_behind

Key = tuple[fx.Node, int]


@dataclass
class Cap(ChannelCriterion):
    """Share of the readers' variance that is lost without it and all that are worth less, the readers fitted anew.

    The order is that of CaP (Xie et al., arXiv 2108.13728): channels are added one by one, each time the one that
    lets least squares on what is there explain most of what the reader computes of all patches; the gains are
    exact. In the paper a layer has one reader. Ours: readers are those of a class, their gains are added, each over
    the variance of what its reader computes; what a reader reads of other groups, or of what cannot go, is there
    from the start; and the score, which falls along the order and compares between groups (with
    ``normalize="none"``): it is what is lost where the group is cut there. A linear combination of others has 0.

    Statistics are streamed in float64, as many readers at a time as fit into ``memory``, by one run each: a
    covariance takes 8 d^2 bytes, d = channels x taps, and ranking a group three times as much on top. A reader of
    more columns than ``columns`` is taken by channels, one covariance for all taps (ours); where that does not fit
    either, and where activations are multiplied, a channel counts with its share of the squares that are read.

    Args:
        columns: the most columns, channels x taps, of which the covariance is taken in full.
        memory: bytes that covariances may take at a time.
    """

    name: ClassVar[str] = "cap"
    needs: ClassVar[Needs] = "inputs"
    columns: int = MOST_COLUMNS
    memory: int = 1 << 30

    def by_class(self, channels: Channels, samples: Samples) -> Worth:
        """Return the shares; 0 of what nobody reads, and NaN where what is read is not finite."""
        worth = np.zeros(len(channels.labels))
        batches = list(samples)
        readers = _Readers(channels, self)
        readers.add_energies(batches)
        groups = [group for group in channels.groups if len(group.free)]
        for some in in_memory([readers.bytes_of(group) for group in groups], self.memory):
            moments = readers.measured([groups[one] for one in some], batches)
            for place in some:
                worth[groups[place].free] = readers.lost(groups[place], moments)
                self.comparing(place + 1, len(groups))
        return worth


class _Readers:
    """The readers of a graph: those whose least squares are taken, and those that have only energies."""

    def __init__(self, channels: Channels, options: Cap) -> None:
        self._channels = channels
        self._options = options
        self._fitted: dict[Key, ReaderMoments] = {}
        self._own = np.zeros(len(channels.labels))
        self._others: set[Key] = set()
        for reader, read in zip(channels.walk.readers, reads_of(channels), strict=True):
            key = read.node, read.axis
            if can_be_measured(reader) and (one := self._moments(reader)).bytes <= options.memory:
                self._fitted[key] = one
            else:
                self._others.add(key)

    def _moments(self, reader: Reader) -> ReaderMoments:
        return ReaderMoments(self._channels, reader, self._options.columns)

    def of(self, group: Group) -> list[Key]:
        """Return the readers of a group whose least squares are taken."""
        can_go = self._channels.flagged(group.free.tolist())
        return [key for key, one in self._fitted.items() if any(can_go[each].any() for each in one.classes)]

    def bytes_of(self, group: Group) -> int:
        """Return what the covariances of the readers of a group take."""
        return sum(self._fitted[key].bytes for key in self.of(group))

    def measured(self, groups: Sequence[Group], batches: Sequence[Batch]) -> dict[Key, ReaderMoments]:
        """Return the moments of all that these groups are read by: one run."""
        keys = dict.fromkeys(key for group in groups for key in self.of(group))
        found = {key: self._moments(self._fitted[key].reader) for key in keys}
        measure(self._channels, batches, found)
        return found

    def add_energies(self, batches: Sequence[Batch]) -> None:
        """Take the shares of the squares that all other readers read."""
        found: dict[Key, tuple[Read, NDArray[np.float64]]] = {}

        def note(read: Read, value: torch.Tensor) -> None:
            key = read.node, read.axis
            if key in self._others:
                now = read.per_channel(value.detach().double().square())
                found[key] = read, now + found[key][1] if key in found else now

        if self._others:
            look(self._channels, batches, note)
        for read, energy in found.values():
            for classes in read.classes:
                np.add.at(self._own, classes, energy / max(float(energy.sum()), 1e-300))

    def lost(self, group: Group, moments: Mapping[Key, ReaderMoments]) -> NDArray[np.float64]:
        """Return the scores of the free classes of a group."""
        mine = [moments[key] for key in self.of(group)]
        own = self._own[group.free]
        if not np.isfinite(own).all() or not all(bool(one.covariance.isfinite().all()) for one in mine):
            return np.full(len(group.free), np.nan)
        maps = [LinearMap(one.covariance, one.second, one.matrix, _blocks(one, group)) for one in mine]
        return lost_behind(maps, own)


def _blocks(moments: ReaderMoments, group: Group) -> list[Array]:
    """Return the columns of each free class of a group; one with two of them is that of the first."""
    places = {one: place for place, one in enumerate(group.free.tolist())}
    found: list[list[int]] = [[] for _ in places]
    for column, classes in enumerate(zip(*(one.tolist() for one in moments.classes), strict=True)):
        mine = next((places[one] for one in classes if one in places), None)
        if mine is not None:
            found[mine].append(column)
    return [np.array(one, dtype=np.int64) for one in found]
