"""What is done to a graph around its training, in one value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from fxprune.ir.arguments import option_kinds, require_kind
from fxprune.passes.chains import Norms
from fxprune.pipelines import Layers, What, sites_named
from fxprune.pipelines.chains import insert_scales


@dataclass(frozen=True)
class Surgery:
    """What :func:`fxprune.prune` does to a graph before and after it trains: which layers may go, and which do.

    Args:
        layers: the old name of ``what``: "convs", "branches", or "all" of both.
        keep: patterns over the paths of modules: what these match stays, "layer4" or "*.conv3" say.
        only: likewise: layers that none of these matches stay too (see :mod:`fxprune.choosing.keeping`).
        threshold: remove every layer with at most this effective scale: by default 1e-2 if there is no target, none
            but exact zeros if targets are met by steering, and what a target of MACs asks for otherwise.
        norms: "fold" batch norms into the weights, for inference, or "keep" them, to train on what comes out.
        verify: check in float64 that inserting, fusing and simplifying change nothing.
        what: what to prune: some of "convs", "branches" and "channels", or "all" of the three; convs and branches by
            default.

    Raises:
        FxpruneError: one is of another kind.
    """

    layers: Layers | None = None
    keep: Sequence[str] = ()
    only: Sequence[str] = ()
    threshold: float | None = None
    norms: Norms = "fold"
    verify: bool = True
    what: What | None = None

    def __post_init__(self) -> None:
        for name, hint in option_kinds(Surgery).items():
            require_kind(getattr(self, name), hint, "Surgery", name)
        sites_named(self.what, self.layers)  # raises

    @property
    def cuts_channels(self) -> bool:
        """Whether channels may go."""
        return "channels" in sites_named(self.what, self.layers)

    def inserted(self, graph_module: fx.GraphModule) -> fx.GraphModule:
        """Return ``graph_module`` with a scale on all that may go; raises FxpruneError if there is nothing."""
        what = sites_named(self.what, self.layers)
        inserted = insert_scales(graph_module, what=what, keep=self.keep, only=self.only, verify=self.verify)
        return inserted.graph_module
