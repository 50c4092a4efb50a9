"""The layers that training can shrink, ResConvs and scaled branches, and how many of them must go for a target."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import fx

from fxprune.branch_scale import BranchScale
from fxprune.errors import TargetError
from fxprune.facts.costs import batch_size, node_macs, total_macs
from fxprune.facts.liveness import Liveness
from fxprune.graph import TRACED_MACS, attribute, called_module
from fxprune.resconv import ResConv


@dataclass(frozen=True)
class Layer:
    """A ResConv or a BranchScale in a graph.

    ``node`` calls ``module`` at ``path``; ``nodes`` are those that nobody needs once the layer is removed, with their
    ``macs`` a sample. The nodes of a branch hold those of the layers inside it.
    """

    node: fx.Node
    module: ResConv | BranchScale
    path: str
    nodes: frozenset[fx.Node]
    macs: int

    @property
    def scale(self) -> float:
        """The effective scale: 1 at insertion, and the gate as it is trained."""
        return self.module.effective_scale

    def macs_beside(self, gone: Collection[fx.Node]) -> int:
        """Return the MACs a sample that removing the layer saves once the nodes ``gone`` are removed already."""
        graph_module = self.node.graph.owning_module
        assert isinstance(graph_module, fx.GraphModule)
        return sum(node_macs(node) for node in self.nodes if node not in gone) // batch_size(graph_module)

    def coefficient(self) -> float:
        """Return the factor s of the conv path or the branch, as a Python float."""
        if isinstance(self.module, ResConv):
            return self.module.coefficients()[0]
        owner = self.node.graph.owning_module
        assert owner is not None
        weights = [attribute(owner, str(read.target)) for read in self.node.args[2:] if isinstance(read, fx.Node)]
        return self.module.coefficient(*weights)


def layers(graph_module: fx.GraphModule) -> list[Layer]:
    """Return the ResConvs and BranchScales of the graph, in graph order."""
    live = Liveness(graph_module.graph)
    batch = batch_size(graph_module)
    return [
        _layer(node, module, live, batch)
        for node in graph_module.graph.nodes
        if isinstance(module := called_module(node), (ResConv, BranchScale))
    ]


def _layer(node: fx.Node, module: ResConv | BranchScale, live: Liveness, batch: int) -> Layer:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    nodes = live.dead_once_passed_by(node, source)
    macs = sum(node_macs(one) for one in nodes) // batch
    return Layer(node, module, str(node.target), frozenset(nodes), macs)


def branch_scales(graph_module: fx.GraphModule) -> list[Layer]:
    """Return the scaled branches of the graph, in graph order."""
    return [layer for layer in layers(graph_module) if isinstance(layer.module, BranchScale)]


def resconvs(graph_module: fx.GraphModule) -> list[tuple[fx.Node, ResConv]]:
    """Return the nodes that call a ResConv, with the modules, in graph order."""
    calls = ((node, called_module(node)) for node in graph_module.graph.nodes)
    return [(node, module) for node, module in calls if isinstance(module, ResConv)]


def count_for_target(graph_module: fx.GraphModule, ranked: Sequence[Layer], target_macs: float) -> int:
    """Return how many of ``ranked``, from its start, must go to leave at most ``target_macs`` of the traced MACs.

    Raises TargetError if all of them are not enough.
    """
    left = total_macs(graph_module)
    total = graph_module.meta.get(TRACED_MACS, left)
    batch = batch_size(graph_module)
    if left <= target_macs * total:
        return 0
    gone: set[fx.Node] = set()
    for count, layer in enumerate(ranked, start=1):
        left -= sum(node_macs(node) for node in layer.nodes - gone) // batch
        gone |= layer.nodes
        if left <= target_macs * total:
            return count
    raise TargetError(
        f"target_macs={target_macs:g} cannot be met: without all {len(ranked)} removable layers "
        f"{left / total:.3f} of the MACs are left; ask for at least {left / total + 5e-4:.3f}"
    )
