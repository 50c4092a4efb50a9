"""Clean a graph up after layers were removed: the passes below, again and again, until nothing changes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle
from typing import ClassVar

from torch import fx

from fxprune.passes.combine_scales import CombineScales
from fxprune.passes.drop_dropout import DropDropout
from fxprune.passes.drop_identities import DropIdentities
from fxprune.passes.drop_redundant_activations import DropRedundantActivations
from fxprune.passes.eliminate_dead_code import EliminateDeadCode
from fxprune.passes.fold_scale import FoldScale
from fxprune.passes.propagate_zeros import PropagateZeros
from fxprune.passes.remove_unused_submodules import RemoveUnusedSubmodules
from fxprune.rewriting.contract import Contract, Log, Pass, Site

SIMPLIFICATIONS: tuple[Pass, ...] = (
    DropIdentities(),
    DropDropout(),
    PropagateZeros(),
    DropRedundantActivations(),  # before the scales are folded: it frees the way to the layer in front
    CombineScales(),
    EliminateDeadCode(),  # what nothing reads must not count as a reader of a value to be scaled
    FoldScale(),
    RemoveUnusedSubmodules(),
)


@dataclass(frozen=True)
class Simplify(Pass):
    """Fold scales, drop redundant activations, zeros, identities, dropout and dead code, until nothing changes."""

    name: ClassVar[str] = "simplify"
    after: ClassVar[tuple[str, ...]] = (
        "fuse-resconv",
        "fuse-branch-scale",
        "fold-batch-norm",
    )  # factors fold into convs once no norm stands between
    contract: ClassVar[Contract] = Contract.VALUES
    changes_shapes: ClassVar[bool] = False

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        """Run the simplifications in turn until none of them, one after the other, finds anything."""
        declined: dict[Pass, list[Site]] = {}
        idle = 0
        for one in cycle(SIMPLIFICATIONS):
            own = Log(region=log.region)
            one.rewrite(graph_module, own)
            log.rewritten += own.rewritten
            log.warnings += own.warnings
            declined[one] = own.declined
            idle = 0 if own.rewritten else idle + 1
            if idle == len(SIMPLIFICATIONS):
                break
        for one in SIMPLIFICATIONS:
            log.declined += declined[one]
