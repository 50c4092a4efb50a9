"""What can be pruned in a graph, and why the rest cannot: each conv, residual sum and linear layer, with its cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tabulate import tabulate
from torch import fx

from fxprune.choosing.keeping import Kept
from fxprune.choosing.partitions.sites import LinearSite, linear_sites
from fxprune.costs.macs import (
    at_least,
    batch_size,
    node_macs,
    tell_unknown,
    total_macs,
    total_params,
    unknown_places,
)
from fxprune.facts.shapes import require_shapes
from fxprune.ir.nodes import EXAMPLE_INPUTS, graphs_of
from fxprune.ir.pytrees import tensors_in
from fxprune.ir.trace_notes import Assumption, Opaque, Tier, all_assumptions, convs, opaque_modules, tier_of
from fxprune.structures.branches import Branch
from fxprune.structures.conv_sites import ConvSite

_TIERS: dict[Tier, str] = {
    "symbolic": "traced symbolically",
    "values": "traced with the example's values at hand",
    "opaque": "traced in part: what could not be is opaque",
}


@dataclass(frozen=True)
class Inspection:
    """The convs, sums and linear layers of a graph, each with its path. MACs are for one sample; printing it shows
    tables.

    ``removable_macs`` lie in eligible convs or branches, what is in both counted once. ``tier`` is how the graph was
    traced, ``opaque`` what could not be, ``assumptions`` what the graph takes for granted about its inputs. ``macs``
    are those that are known; ``unknown`` names the ops of the others. ``inputs`` are the shapes of the tensors that
    the graph was traced on: MACs depend on them.
    """

    convs: tuple[tuple[str, ConvSite], ...]
    branches: tuple[tuple[str, Branch], ...]
    macs: int
    params: int
    conv_macs: int
    branch_macs: int
    removable_macs: int
    tier: Tier
    opaque: tuple[Opaque, ...] = ()
    assumptions: tuple[Assumption, ...] = ()
    unknown: tuple[str, ...] = ()
    inputs: tuple[tuple[int, ...], ...] = ()
    linears: tuple[LinearSite, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        convs = [_as_data(path, site) for path, site in self.convs]
        branches = [_as_data(path, branch) for path, branch in self.branches]
        return {
            "macs": self.macs,
            "unknown_macs": list(self.unknown),
            "inputs": [list(shape) for shape in self.inputs],
            "params": self.params,
            "removable_macs": self.removable_macs,
            "removable_macs_in_convs": self.conv_macs,
            "removable_macs_in_branches": self.branch_macs,
            "convs": convs,
            "branches": branches,
            "linears": [one.to_json() for one in self.linears],
            "traced": self.tier,
            "opaque": [asdict(one) for one in self.opaque],
            "assumptions": [asdict(one) for one in self.assumptions],
        }

    def __str__(self) -> str:
        convs = [[path, _verdict(s), s.macs, s.params] for path, s in self.convs]
        branches = [[path, _verdict(b), b.macs, b.params] for path, b in self.branches]
        parts = [tabulate(convs, headers=["conv", "eligible", "MACs", "params"], intfmt=",")]
        if branches:
            parts.append(tabulate(branches, headers=["residual branch", "eligible", "MACs", "params"], intfmt=","))
        if self.linears:
            linears = [[one.path, one.verdict, one.macs, one.params] for one in self.linears]
            parts.append(tabulate(linears, headers=["linear layer", "partition", "MACs", "params"], intfmt=","))
        eligible = [sum(one.eligible for _, one in found) for found in (self.convs, self.branches)]
        parts.append(
            f"{eligible[0]} of {len(self.convs)} convs are eligible and hold {self._share(self.conv_macs)} of "
            f"{at_least(f'{self.macs:,}', self.unknown)} MACs,\n{eligible[1]} of {len(self.branches)} sums end a "
            f"removable branch and hold {self._share(self.branch_macs)}; together "
            f"{self._share(self.removable_macs)}; {self.params:,} parameters"
        )
        if self.inputs:
            parts[-1] += f"\ncounted on {' and '.join('x'.join(map(str, shape)) for shape in self.inputs)}"
        return "\n\n".join([*parts, "\n".join(self.notes)] if self.notes else parts)

    @property
    def notes(self) -> list[str]:
        """What MACs leave out, how the graph was traced, if not symbolically, what is opaque, what is assumed."""
        notes = [f"MACs: {tell_unknown(self.unknown)}"] if self.unknown else []
        notes += [_TIERS[self.tier]] if self.tier != "symbolic" else []
        notes += [f"opaque: {one.path}, which hides {convs(one.hidden_convs)}: {one.why}" for one in self.opaque]
        notes += [f"assumed, and checked whenever it runs: {one.what} ({one.source})" for one in self.assumptions]
        return notes

    def _share(self, macs: int) -> str:
        return f"{macs / self.macs if self.macs else 0:.1%}"


def _as_data(path: str, found: ConvSite | Branch) -> dict[str, Any]:
    costs = {"macs": found.macs, "params": found.params}
    return {"path": path, "eligible": found.eligible, "reason": found.reason, **costs}


def _verdict(found: ConvSite | Branch) -> str:
    return "yes" if found.eligible else f"no: {found.reason}"


def inspect_graph(graph_module: fx.GraphModule, keep: Sequence[str] = (), only: Sequence[str] = ()) -> Inspection:
    """Return what :class:`fxprune.passes.InsertResConv` and :class:`fxprune.passes.InsertBranchScale` would find.

    Of linear layers, what :class:`fxprune.passes.MaskPartition` would.

    ``keep`` and ``only`` are theirs (see :mod:`fxprune.choosing.keeping`).
    """
    require_shapes(graph_module)
    kept = Kept(keep, only)
    kept.require_sense(graphs_of(graph_module))
    convs: list[tuple[str, ConvSite]] = []
    branches: list[tuple[str, Branch]] = []
    costs = [0, 0, 0]
    for region, graph in graphs_of(graph_module):
        sites, sums = kept.conv_sites(graph, region), kept.branches(graph, region)
        prefix = f"{region}." if region else ""
        convs += [(prefix + (site.path or site.node.name), site) for site in sites]
        branches += [(prefix + branch.path, branch) for branch in sums]
        in_convs = {site.node for site in sites if site.eligible}
        in_branches = {node for branch in sums if branch.eligible for node in branch.nodes}
        for index, nodes in enumerate((in_convs, in_branches, in_convs | in_branches)):
            costs[index] += int(sum(node_macs(node) for node in nodes) // batch_size(graph))
    return Inspection(
        linears=tuple(
            site for region, graph in graphs_of(graph_module) for site in linear_sites(graph, region, kept)
        ),
        convs=tuple(convs),
        branches=tuple(branches),
        macs=total_macs(graph_module),
        params=total_params(graph_module),
        conv_macs=costs[0],
        branch_macs=costs[1],
        removable_macs=costs[2],
        tier=tier_of(graph_module),
        opaque=tuple(opaque_modules(graph_module)),
        assumptions=tuple(all_assumptions(graph_module)),
        unknown=unknown_places(graph_module),
        inputs=tuple(tuple(one.shape) for one in tensors_in(graph_module.meta.get(EXAMPLE_INPUTS, ()))),
    )
