"""What a run of ``fxprune prune`` is asked for, beside how to train, in one value."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import fx

from fxprune.choosing.targets import Targets
from fxprune.errors import FxpruneError
from fxprune.ir.processes import by_the_first
from fxprune.passes.chains import Norms
from fxprune.pipelines import LAYERS, Layers, What, sites_named
from fxprune.pruning.closing import Closing, require_alone
from fxprune.pruning.latency_model import LatencyModel
from fxprune.pruning.pruning_plan import PruningPlan


class OnClock(NamedTuple):
    """Targets of which one is a time, and what predicts and measures times."""

    targets: Targets
    latency: LatencyModel


Shrink = Targets | OnClock | Closing | float | None
"""How scales shrink in a training: steered, until targets are met or what is planned is closed, or by a fixed L1."""


@dataclass(frozen=True)
class Goal:
    """What is to be left of a network, which of its layers may go for that, and how they are brought to zero.

    Args:
        targets: the shares of its costs to leave.
        strength: of a proximal L1 that shrinks the scales, which are not steered then; zeros are removed, and what a
            target of MACs, the only one then, asks for beyond them is cut at the end.
        layers: the old name of ``what``: "convs", "branches", or "all" of both.
        keep: patterns over the paths of modules: what these match gets no scale and stays.
        only: likewise: layers that none of these matches stay too (see :mod:`fxprune.choosing.keeping`).
        norms: "fold" batch norms into the weights, for inference, or "keep" them, to train on what comes out.
        what: what to prune: some of "convs", "branches" and "channels", or "all" of the three; convs and branches by
            default, all where nothing trains.
        plan: what goes, in turn, in the place of all that says what may go and how much.
        timed: how the network will run, where a time is asked for: options of
            :meth:`fxprune.LatencyModel.measure`.

    Raises:
        FxpruneError: targets beyond that of MACs are given beside a strength, or any of these beside a plan.
    """

    targets: Targets
    strength: float | None = None
    layers: Layers | None = None
    keep: Sequence[str] = ()
    only: Sequence[str] = ()
    norms: Norms = "fold"
    what: What | None = None
    plan: PruningPlan | None = None
    timed: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.plan is not None:
            kept = {"keep": self.keep, "only": self.only}
            require_alone(self.targets, strength=self.strength, layers=self.layers, what=self.what, **kept)
        require_either(replace(self.targets, macs=None), self.strength)
        sites_named(self.what, self.layers)  # raises

    @property
    def without_training(self) -> Goal:
        """The goal of a run that does not train: where nothing says what may go, all may."""
        is_said = self.what is not None or self.layers is not None or self.plan is not None
        return self if is_said else replace(self, what="all")

    @property
    def sites(self) -> tuple[str, ...]:
        """What may go, of convs, branches and channels."""
        return sites_named(self.what, self.layers) if self.plan is None else self.plan.what

    def measured(self, graph_module: fx.GraphModule) -> LatencyModel | None:
        """Return what times the network, if a time is asked for: of several processes the first measures it."""
        if not self.targets.is_timed:
            return None
        return by_the_first(lambda: LatencyModel.measure(graph_module, **(self.timed or {})))

    @property
    def shrink(self) -> Shrink:
        """How scales shrink in the training, where no plan says what closes, and no time is asked for."""
        return self.targets if self.strength is None else self.strength

    def options(self) -> dict[str, Any]:
        """Return each by its name in records of runs, which is that of its option in the shell."""
        kept = {"keep": list(self.keep), "only": list(self.only)}
        plan = {} if self.plan is None else {"plan": f"sha256 {_sha256(self.plan)}"}
        return {
            **self.targets.options(),
            "strength": self.strength,
            "layers": _told(self.sites),
            **kept,
            "norms": self.norms,
            **plan,
            **({"timed": dict(self.timed or {})} if self.targets.is_timed else {}),
        }


def _sha256(plan: PruningPlan) -> str:
    return hashlib.sha256(plan.to_json().encode()).hexdigest()


def _told(sites: tuple[str, ...]) -> str:
    """Return what may go, as records have it: as "all" where that is convs and branches, as in older ones."""
    return "all" if sites == LAYERS else ",".join(sites)


def require_either(targets: Targets, strength: float | None) -> None:
    """Raise FxpruneError if targets of layers that are steered to zero are given beside a fixed strength."""
    if strength is not None and not targets.is_empty:
        raise FxpruneError(f"{targets}: that is for layers that are steered to zero; leave strength out")
