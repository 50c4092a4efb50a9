"""Uniform and random widths, as scores: the controls of whatever chooses widths.

    (i + 1/2) / C / u        the score of channel i of C; up to a level l, the share l u of the channels goes, rounded

Uniform: u is 1. Random: u is drawn for each layer, and is the same for convs that have to be alike. The C channels
are those that the same convs make: where one stage's are a part of the next one's, the share is that of each. Ours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import fx

from fxprune.choosing.criteria.base import Criterion, Needs, Score
from fxprune.choosing.samples import Samples
from fxprune.choosing.sites import ChannelSite, Site
from fxprune.errors import FxpruneValueError
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.running import Worth
from fxprune.structures.judged_convs import JudgedConv, judged_convs

_LEAST = 0.05
"""The least share that is drawn: at 0 a layer would never lose anything."""


@dataclass
class WidthShares(Criterion):
    """Channels in the order in which they are; those that uniform channel pruning does not judge stay.

    Args:
        seed: of random shares; None for uniform ones.
    """

    name: ClassVar[str] = "width-shares"
    needs: ClassVar[Needs] = "weights"
    seed: int | None = None

    @contextmanager
    def measuring(self, graph_module: fx.GraphModule, sites: Collection[Site], samples: Samples) -> Iterator[Score]:
        """Return what looks a site up; raises FxpruneValueError for layers."""
        draw = np.random.default_rng(self.seed)
        known: dict[int, tuple[Channels, dict[int, tuple[JudgedConv, ...]]]] = {}
        shares: dict[Hashable, float] = {}

        def score(site: Any) -> Worth:
            if not isinstance(site, ChannelSite):
                raise FxpruneValueError(
                    f"criterion {self.name} scores channels only, and {site.path} is a {site.kind}"
                )
            if id(site.channels) not in known:
                known[id(site.channels)] = site.channels, _makers(site.channels)
            makers = known[id(site.channels)][1]
            parts: defaultdict[tuple[JudgedConv, ...], list[int]] = defaultdict(list)
            for one in site.group.classes.tolist():
                parts[makers.get(one, ())].append(one)
            first = next((convs[0] for convs in parts if convs), None)
            key = first if first is None or first.tie is None else first.tie
            if key not in shares:
                shares[key] = 1.0 if self.seed is None else draw.uniform(_LEAST, 1)
            levels = {
                one: (place + 0.5) / len(part) / shares[key] if convs else np.inf
                for convs, part in parts.items()
                for place, one in enumerate(part)
            }
            return np.array([levels[one] for one in site.group.free.tolist()])

        yield score


def _makers(channels: Channels) -> dict[int, tuple[JudgedConv, ...]]:
    """Return the judged convs that make each class, in graph order, where there are any."""
    found: defaultdict[int, tuple[JudgedConv, ...]] = defaultdict(tuple)
    for conv in judged_convs(channels):
        if isinstance(conv, JudgedConv):
            for one in dict.fromkeys(conv.classes.tolist()):
                found[one] += (conv,)
    return found
