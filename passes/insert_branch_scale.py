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
from fxprune.ir.node_targets import attribute, free_target, set_attribute
from fxprune.ir.nodes import copied, inherit, module_path
from fxprune.rewriting.contract import Contract, Log
from fxprune.rewriting.keeping_pass import KeepingPass
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
        updated, storages = updated_values(graph_module), updated_storages(graph_module)
        for branch in self.kept.branches(graph_module, log.region):
            if branch.reason is not None:
                log.decline(branch.addition, branch.reason)
                continue
            log.rewrote(branch.addition, f"the branch {branch.path} now has a scale of 1")
            if branch.shortcut in updated:  # a sum is a copy; a closed branch returns the shortcut itself
                copy = copied(branch.shortcut, branch.addition, self.name)
                branch.addition.replace_input_with(branch.shortcut, copy)
            read = {target: attribute(graph_module, target) for target in size_weights(branch.exit)}
            weights = {target: value for target, value in read.items() if storage_of(value) not in storages}
            self._insert(graph_module, branch, weights)

    def _insert(self, graph_module: fx.GraphModule, branch: Branch, weights: Mapping[str, torch.Tensor]) -> None:
        addition, graph = branch.addition, graph_module.graph
        scaled = BranchScale(*(weight.detach() for weight in weights.values()))
        scaled.training = graph_module.training
        block = module_path(addition)
        target = free_target(graph_module, f"{block}.branch_scale" if block else "branch_scale")
        set_attribute(graph_module, target, scaled)
        with graph.inserting_before(addition):
            reads = [graph.create_node("get_attr", name) for name in weights]
            new = graph.create_node("call_module", target)
        new.args = (branch.shortcut, branch.exit, *reads)  # given above, torch.fx would look through them first
        for read in reads:
            inherit(read, branch.exit, made_by=self.name)
            note_shape(read, weights[str(read.target)])
        inherit(new, addition, made_by=self.name)
        addition.replace_all_uses_with(new, propagate_meta=False)
        graph.erase_node(addition)
