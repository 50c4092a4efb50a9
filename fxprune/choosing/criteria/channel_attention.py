"""How much a channel counts by gates of attention, beside the others of its layer (Chang et al., arXiv 2010.01251).

    I_c / mean(I)        I_c: the mean gate of channel c over images; above alpha it stays

[paper] the convs of basic blocks at one place of a stage are judged as one: I_c is the mean over them. Ours: what
goes together, in any graph, is judged together, by the mean over the convs that make it; mean(I) is over the group;
and channels stay where all gates are alike. They are exactly where the hidden numbers of a gate without biases died,
which is likely where these are few: all gates are a half then, and the rule would take all channels or none.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import fx

from fxprune.choosing.criteria.base import Criterion, Needs, Score
from fxprune.choosing.samples import Samples
from fxprune.choosing.sites import ChannelSite, Site
from fxprune.errors import FxpruneValueError, FxpruneWarning
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.running import Worth
from fxprune.structures.judged_convs import JudgedConv, judged_convs

_ALIKE = 1e-9
Gates = Mapping[str, Sequence[float] | Worth]
"""The mean gate of each output channel over images, by the paths of convs."""


@dataclass
class ChannelAttentionShare(Criterion):
    """The mean gate of a channel over that of its group; what no gate is behind stays.

    Args:
        gates: the mean gate of each output channel over images, (C,) each.
    """

    name: ClassVar[str] = "channel-attention"
    needs: ClassVar[Needs] = "weights"  # the images were looked at before
    gates: Gates

    @contextmanager
    def measuring(self, graph_module: fx.GraphModule, sites: Collection[Site], samples: Samples) -> Iterator[Score]:
        """Return what looks a site up; raises FxpruneValueError for layers, and for gates of other widths."""
        known: dict[int, tuple[Channels, Worth]] = {}

        def score(site: Any) -> Worth:
            if not isinstance(site, ChannelSite):
                raise FxpruneValueError(
                    f"criterion {self.name} scores channels only, and {site.path} is a {site.kind}"
                )
            if id(site.channels) not in known:
                known[id(site.channels)] = site.channels, self.by_class(site.channels, site.region)
            return self._shares(site, known[id(site.channels)][1])

        yield score

    def _shares(self, site: ChannelSite, worth: Worth) -> Worth:
        """Return the gates of the channels that may go over the mean of their group; infinite if all are alike."""
        gates, found = worth[site.group.classes], worth[site.group.free]
        known = gates[np.isfinite(gates)]
        if not len(known):
            return found
        mean = float(known.mean())
        if np.ptp(known) <= _ALIKE * mean:
            warnings.warn(
                f"all gates behind {site.path} are alike, and say nothing of its channels: it keeps its width",
                FxpruneWarning,
                stacklevel=2,
            )
            return np.full(len(found), np.inf)
        return found / mean

    def by_class(self, channels: Channels, region: str = "") -> Worth:
        """Return the mean gate of each class, by label; infinite where there is none."""
        gated = list(self._gated(channels, region))
        alike: defaultdict[Hashable, list[Worth]] = defaultdict(list)
        for conv, gates in gated:
            alike[_tie(conv)].append(gates)
        sums, counts = np.zeros((2, len(channels.labels)))
        for conv, _ in gated:
            np.add.at(sums, conv.classes, np.mean(alike[_tie(conv)], axis=0))
            np.add.at(counts, conv.classes, 1)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)

    def _gated(self, channels: Channels, region: str) -> Iterator[tuple[JudgedConv, Worth]]:
        """Yield the judged convs of a graph that have gates, with these."""
        for conv in judged_convs(channels):
            path = f"{region}.{conv.path}" if region and isinstance(conv, JudgedConv) else getattr(conv, "path", "")
            if isinstance(conv, JudgedConv) and path in self.gates:
                gates = np.asarray(self.gates[path], dtype=np.float64)
                if gates.shape != (conv.width,):
                    raise FxpruneValueError(f"{path} has {conv.width} channels, and gates of shape {gates.shape}")
                yield conv, gates


def _tie(conv: JudgedConv) -> Hashable:
    return conv if conv.tie is None else conv.tie
