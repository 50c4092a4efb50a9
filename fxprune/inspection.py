"""What can be pruned in a graph, and why the rest cannot: every conv and every residual sum, with its cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tabulate import tabulate
from torch import fx

from fxprune.facts.branches import Branch, find_branches
from fxprune.facts.costs import batch_size, node_macs, total_macs, total_params
from fxprune.facts.sites import ConvSite, find_conv_sites


@dataclass(frozen=True)
class Inspection:
    """The convs and sums of a graph. MACs are for one sample; printing it shows tables.

    ``removable_macs`` lie in eligible convs or branches, what is in both counted once.
    """

    convs: tuple[ConvSite, ...]
    branches: tuple[Branch, ...]
    macs: int
    params: int
    conv_macs: int
    branch_macs: int
    removable_macs: int

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        convs = [_as_data(site.path or site.node.name, site) for site in self.convs]
        branches = [_as_data(branch.path, branch) for branch in self.branches]
        return {
            "macs": self.macs,
            "params": self.params,
            "removable_macs": self.removable_macs,
            "removable_macs_in_convs": self.conv_macs,
            "removable_macs_in_branches": self.branch_macs,
            "convs": convs,
            "branches": branches,
        }

    def __str__(self) -> str:
        convs = [[s.path or s.node.name, _verdict(s), s.macs, s.params] for s in self.convs]
        branches = [[b.path, _verdict(b), b.macs, b.params] for b in self.branches]
        parts = [tabulate(convs, headers=["conv", "eligible", "MACs", "params"], intfmt=",")]
        if branches:
            parts.append(tabulate(branches, headers=["residual branch", "eligible", "MACs", "params"], intfmt=","))
        eligible = [sum(one.eligible for one in found) for found in (self.convs, self.branches)]
        parts.append(
            f"{eligible[0]} of {len(self.convs)} convs are eligible and hold {self._share(self.conv_macs)} of "
            f"{self.macs:,} MACs,\n{eligible[1]} of {len(self.branches)} sums end a removable branch and hold "
            f"{self._share(self.branch_macs)}; together "
            f"{self._share(self.removable_macs)}; {self.params:,} parameters"
        )
        return "\n\n".join(parts)

    def _share(self, macs: int) -> str:
        return f"{macs / self.macs if self.macs else 0:.1%}"


def _as_data(path: str, found: ConvSite | Branch) -> dict[str, Any]:
    costs = {"macs": found.macs, "params": found.params}
    return {"path": path, "eligible": found.eligible, "reason": found.reason, **costs}


def _verdict(found: ConvSite | Branch) -> str:
    return "yes" if found.eligible else f"no: {found.reason}"


def inspect_graph(graph_module: fx.GraphModule) -> Inspection:
    """Return what :class:`fxprune.passes.InsertResConv` and :class:`fxprune.passes.InsertBranchScale` would find."""
    convs, branches = find_conv_sites(graph_module), find_branches(graph_module)
    in_convs = {site.node for site in convs if site.eligible}
    in_branches = {node for branch in branches if branch.eligible for node in branch.nodes}
    batch = batch_size(graph_module)

    def cost(nodes: set[fx.Node]) -> int:
        return sum(node_macs(node) for node in nodes) // batch

    return Inspection(
        tuple(convs),
        tuple(branches),
        total_macs(graph_module),
        total_params(graph_module),
        cost(in_convs),
        cost(in_branches),
        cost(in_convs | in_branches),
    )
