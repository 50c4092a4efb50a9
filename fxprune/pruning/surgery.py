"""What is done to a graph around its training, in one value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from fxprune.ir.arguments import option_kinds, require_kind
from fxprune.passes.chains import Norms
from fxprune.pipelines.chains import Layers, insert_scales


@dataclass(frozen=True)
class Surgery:
    """What :func:`fxprune.prune` does to a graph before and after it trains: which layers may go, and which do.

    Args:
        layers: what to prune: single convs, whole residual branches, or all of both.
        keep: patterns over the paths of modules: what these match stays, "layer4" or "*.conv3" say.
        only: likewise: layers that none of these matches stay too (see :mod:`fxprune.choosing.keeping`).
        threshold: remove every layer with at most this effective scale: by default 1e-2 if there is no target, none
            but exact zeros if targets are met by steering, and what a target of MACs asks for otherwise.
        norms: "fold" batch norms into the weights, for inference, or "keep" them, to train on what comes out.
        verify: check in float64 that inserting, fusing and simplifying change nothing.

    Raises:
        FxpruneError: one is of another kind.
    """

    layers: Layers = "all"
    keep: Sequence[str] = ()
    only: Sequence[str] = ()
    threshold: float | None = None
    norms: Norms = "fold"
    verify: bool = True

    def __post_init__(self) -> None:
        for name, hint in option_kinds(Surgery).items():
            require_kind(getattr(self, name), hint, "Surgery", name)

    def inserted(self, graph_module: fx.GraphModule) -> fx.GraphModule:
        """Return ``graph_module`` with a scale on every layer that may go; raises FxpruneError if there is none."""
        inserted = insert_scales(graph_module, self.layers, keep=self.keep, only=self.only, verify=self.verify)
        return inserted.graph_module
