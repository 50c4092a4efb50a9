"""Which linear layers can be split into partitions, and why the others cannot."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import fx

from fxprune.choosing.keeping import KEPT, Kept
from fxprune.costs.macs import batch_size, node_macs, node_params
from fxprune.ops.call import is_a
from fxprune.structures.channels.groups import Channels
from fxprune.structures.partitions.chains import Chain, find_chains


@dataclass(frozen=True)
class LinearSite:
    """A linear layer. MACs are for one sample.

    Attributes:
        path: where it is.
        chain: the paths of the chain that it is in, itself included; () if it is in none.
        enters_by: the path of the layer whose channels enter the chain; "" where features enter one by one.
        reason: why it is in none; "" if it is in one.
    """

    path: str
    chain: tuple[str, ...]
    enters_by: str
    reason: str
    macs: int
    params: int

    @property
    def verdict(self) -> str:
        """What can be done with it, in words."""
        if not self.chain:
            return f"no: {self.reason}"
        number = self.chain.index(self.path)
        by = f", by channels of {self.enters_by}" if number == 0 and self.enters_by else ""
        last = ", split by its inputs" if number == len(self.chain) - 1 else ""
        return f"yes: {number + 1} of {len(self.chain)}{by}{last}"

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**asdict(self), "chain": list(self.chain)}


def chains_of(graph_module: fx.GraphModule, kept: Kept, region: str) -> tuple[list[Chain], dict[fx.Node, str]]:
    """Return the chains of one graph that the user does not keep, and a reason for every other linear layer.

    A chain of which any layer is kept stays as a whole.
    """
    if not any(is_a(node, "linear") for node in graph_module.graph.nodes):
        return [], {}
    chains, reasons = find_chains(Channels(graph_module))
    reasons = dict(reasons)
    free = []
    for chain in chains:
        if any(kept.holds([node], region) for node in chain.nodes):
            reasons |= dict.fromkeys(chain.nodes, KEPT)
        else:
            free.append(chain)
    return free, reasons


def linear_sites(graph_module: fx.GraphModule, region: str, kept: Kept) -> list[LinearSite]:
    """Return the linear layers of one graph, or of the region of that path, in its order."""
    chains, reasons = chains_of(graph_module, kept, region)
    of_node = {node: chain for chain in chains for node in chain.nodes}
    per_sample = batch_size(graph_module)

    def at(path: str) -> str:
        return f"{region}.{path}" if region and path else path

    found = []
    for node in graph_module.graph.nodes:
        if node not in of_node and node not in reasons:
            continue
        chain = of_node.get(node)
        found.append(
            LinearSite(
                path=at(str(node.target) if node.op == "call_module" else node.name),
                chain=() if chain is None else tuple(map(at, chain.paths)),
                enters_by="" if chain is None else at(chain.enters_by),
                reason=reasons.get(node, ""),
                macs=int(node_macs(node) // per_sample),
                params=node_params(node),
            )
        )
    return found
