"""Put a scale on every residual branch, which training can shrink.

    x + R(x)   ->   x + s * R(x)          s = 1: the same function

The method of Xu et al. (arXiv 2011.14356) one level up; the branches are those of :mod:`fxprune.structures.branches`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from fxprune.facts.shapes import note_shape
from fxprune.facts.updated_buffers import storage_of, updated_storages, updated_values
from fxprune.gates.branch_scale import BranchScale
from fxprune.ir.node_targets import attribute, free_target
from fxprune.ir.nodes import module_path
from fxprune.rewriting.contract import Contract, Log
from fxprune.rewriting.keeping_pass import KeepingPass
from fxprune.rewriting.rewriter import Rewriter
from fxprune.structures.branch_weights import size_weights
from fxprune.structures.branches import Branch


@dataclass(frozen=True)
class InsertBranchScale(KeepingPass):
    """Replace the sum at the end of each residual branch by one whose scale training can shrink.

    Apply :class:`InsertResConv` first where both are wanted: it does not wrap a norm whose weight is read by others.

    Args:
        keep, only: which branches stay as they are (see :mod:`fxprune.choosing.keeping`).
    """

    name: ClassVar[str] = "insert-branch-scale"
    after: ClassVar[tuple[str, ...]] = (
        "insert-resconv",
    )  # a branch's scale reads its last norm's weight: that norm is not wrapped then
    contract: ClassVar[Contract] = Contract.VALUES
    changes_shapes: ClassVar[bool] = False

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        """Insert a BranchScale at every eligible sum."""
        rewriter = Rewriter(graph_module, log, self.name)
        updated, storages = rewriter.facts(updated_values), rewriter.facts(updated_storages)
        for branch in self.kept.branches(graph_module, log.region):
            if branch.reason is not None:
                log.decline(branch.addition, branch.reason)
                continue
            rewriter.log.rewrote(branch.addition, f"the branch {branch.path} now has a scale of 1")
            shortcut = branch.shortcut
            if shortcut in updated:  # a sum is a copy; a closed branch returns the shortcut itself
                shortcut = rewriter.copy(shortcut, branch.addition)
            read = {target: attribute(graph_module, target) for target in size_weights(branch.exit)}
            weights = {target: value for target, value in read.items() if storage_of(value) not in storages}
            _insert(rewriter, branch, shortcut, weights)


def _insert(rewriter: Rewriter, branch: Branch, shortcut: fx.Node, weights: Mapping[str, torch.Tensor]) -> None:
    addition, block = branch.addition, module_path(branch.addition)
    scaled = BranchScale(*(weight.detach() for weight in weights.values()))
    scaled.training = rewriter.graph_module.training
    target = free_target(rewriter.graph_module, f"{block}.branch_scale" if block else "branch_scale")
    reads = [rewriter.insert("get_attr", name, before=addition, of=[branch.exit]) for name in weights]
    for read, weight in zip(reads, weights.values(), strict=True):
        note_shape(read, weight)
    args = (shortcut, branch.exit, *reads)
    rewriter.replace(
        addition, rewriter.insert("call_module", rewriter.put(target, scaled), args, before=addition, of=[addition])
    )
