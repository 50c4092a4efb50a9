"""What a criterion is.

class Latest(ChannelCriterion):     # what comes last in the graph goes first
    name, needs = "latest", "weights"

    def by_class(self, channels, samples):
        return 1 / (1 + np.arange(len(channels.labels)))    # a number for each class, by label
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar, Literal

from torch import fx

from fxprune.choosing.samples import Samples
from fxprune.choosing.sites import ChannelSite, Site
from fxprune.errors import FxpruneValueError
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.running import Worth
from fxprune.structures.gated_layers import Gate

Needs = Literal["weights", "inputs", "labels"]
Aggregate = Literal["sum", "mean"]
Score = Callable[[Any], Any]


def say_nothing(done: int, of: int) -> None:
    """Take note of nothing."""


class Criterion(ABC):
    """Says how much a graph would miss what may go, at a moment of its training.

    Attributes:
        name: what it is called in options and in the shell.
        needs: what it looks at: the "weights" alone, "inputs", or inputs with "labels".
        is_marginal: of the channels of a group each score is what is lost beyond those that went before: scores of
            different groups compare as they are.
        comparing: called before each of many runs, with how many were before it and how many there are.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs] = "inputs"
    is_marginal: ClassVar[bool] = False
    comparing: Callable[[int, int], None] = staticmethod(say_nothing)

    def fitted(self, graph_module: fx.GraphModule, step: Any) -> Criterion:
        """Return what scores channels for ``step``: itself, unless it is searched for how much is to go.

        Args:
            graph_module: the graph that channels are to go of.
            step: the :class:`fxprune.passes.RemoveChannels` that asks, with its options and its data.
        """
        return self

    @abstractmethod
    def measuring(
        self, graph_module: fx.GraphModule, sites: Collection[Site], samples: Samples
    ) -> AbstractContextManager[Score]:
        """Return what stands for one moment: inside, it says of a site how much it is missed, 0 or more.

        Of a layer it is a number, of channels an array of shape (width,), in the order of the site. Infinite is what
        stays: the criterion has nothing to say of it. Afterwards the graph is as before, but for the units of scales,
        which may be taken anew from what they scale.

        Args:
            graph_module: the graph, as it trains.
            sites: all that may ever go, closed layers too; those of channels are of this graph as it is.
            samples: what to compare on.

        Raises:
            FxpruneValueError: it scores no sites of this kind, or ``samples`` lack what it needs.
        """


class ChannelCriterion(Criterion):
    """One that scores all channels of a graph at once; of layers it says nothing, unless :meth:`of_layer` does."""

    @contextmanager
    def measuring(self, graph_module: fx.GraphModule, sites: Collection[Site], samples: Samples) -> Iterator[Score]:
        """Return what looks a site up: each graph is measured once."""
        known: dict[int, tuple[Channels, Worth]] = {}

        def score(site: Any) -> Any:
            if not isinstance(site, ChannelSite):
                return self.of_layer(site)
            key = id(site.channels)
            if key not in known:
                known[key] = site.channels, self.by_class(site.channels, self.samples_of(site, samples))
            return known[key][1][site.group.free]

        yield score

    @abstractmethod
    def by_class(self, channels: Channels, samples: Samples) -> Worth:
        """Return how much each class of a graph is missed, by label: (len(channels.labels),), float64."""

    def of_layer(self, layer: Gate) -> float:
        """Return how much a conv or a branch is missed; raises FxpruneValueError if it cannot say."""
        raise FxpruneValueError(
            f"criterion {self.name} scores channels only, and {layer.path} is a {layer.kind}: take half-gate, l1, l2 "
            "or weight-norm for layers"
        )

    def samples_of(self, site: ChannelSite, samples: Samples) -> Samples:
        """Return what to compare on in the graph of ``site``: in a region its own example inputs.

        Raises FxpruneValueError if they lack what the criterion needs.
        """
        here = Samples.of(site.channels.graph_module) if site.region else samples
        if self.needs != "weights" and here.is_empty:
            raise FxpruneValueError(f"criterion {self.name} needs inputs: give data= (fxprune run --data)")
        if self.needs == "labels" and not here.is_labelled:
            where = f", and {site.region}, which is opaque, has none: take l1 or half-gate" if site.region else ""
            more = where or ": give data= as pairs of inputs and labels (fxprune run --data)"
            raise FxpruneValueError(f"criterion {self.name} needs labels{more}")
        return here
