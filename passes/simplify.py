"""Clean a graph up after layers were removed: the rules below, under one worklist, until none finds anything.

relu(relu(conv(x)) * 1 * 0.5)   ->   relu(conv'(x))
"""

from __future__ import annotations

from dataclasses import dataclass
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
from fxprune.rewriting.contract import Contract, Log, Pass
from fxprune.rewriting.rules import Rule, apply_rules

SIMPLIFICATIONS: tuple[Rule, ...] = (
    DropIdentities(),
    DropDropout(),
    PropagateZeros(),
    DropRedundantActivations(),  # before the scales are folded: it frees the way to the layer in front
    CombineScales(),
    EliminateDeadCode(),  # what nothing reads must not count as a reader of a value to be scaled
    FoldScale(),
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
        """Apply the rules; what no node uses any more goes last."""
        apply_rules(SIMPLIFICATIONS, graph_module, log)
        RemoveUnusedSubmodules().rewrite(graph_module, log)
