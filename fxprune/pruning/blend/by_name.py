"""The criterion ``blend`` by its name: it is searched for what the pass that asks takes out, then it scores.

fxprune.choose(traced, targets=fxprune.Targets(macs=0.5), criterion="blend", data=loader)

An entry point of the group ``fxprune.criteria`` names it, as one of another package: it is above the passes that ask.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from torch import fx

from fxprune.choosing.criteria.base import Criterion, Needs, Score
from fxprune.choosing.criterion_blend import Blend, only_channels
from fxprune.choosing.samples import Samples
from fxprune.choosing.sites import ChannelSite, Site
from fxprune.errors import FxpruneValueError
from fxprune.pruning.blend.evolution import require_deap
from fxprune.pruning.blend.judge import Judge
from fxprune.pruning.blend.search import BlendSettings, evolved


@dataclass
class Blending(Criterion):
    """The blend of criteria that is best for what is to go (after He et al., arXiv 2107.05033): it is searched first.

    Args:
        settings: how it is searched.
        state: a file to write after every generation, and to go on from.
        out: a file to write the :class:`fxprune.choosing.criterion_blend.Blend` that was found to.
    """

    name: ClassVar[str] = Blend.name
    needs: ClassVar[Needs] = "labels"
    settings: BlendSettings = field(default_factory=BlendSettings)
    state: Path | None = None
    out: Path | None = None

    def fitted(self, graph_module: fx.GraphModule, step: Any) -> Criterion:
        """Return the blend that was found for ``step``; raises what ``search_blend`` does."""
        require_deap()
        judge = Judge.of(graph_module, step.data, replace(step, criterion="l1"), pool=self.settings.pool)
        found = evolved(judge, self.settings, state=self.state, progress=self.comparing)
        if self.out is not None:
            found.save(self.out)
        return judge.criterion(found.factors)

    def measuring(
        self, graph_module: fx.GraphModule, sites: Collection[Site], samples: Samples
    ) -> AbstractContextManager[Score]:
        """Raise FxpruneValueError: without a pass that says how much goes there is nothing to search for."""
        layers = [one for one in sites if not isinstance(one, ChannelSite)]
        if layers:
            raise FxpruneValueError(only_channels(layers[0]))
        raise FxpruneValueError(
            "criterion blend is searched for how much is to go: take it in RemoveChannels or fxprune.choose, with a "
            "ratio or targets, or give a Blend that fxprune.pruning.blend.search.search_blend found"
        )
