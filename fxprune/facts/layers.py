"""The layers that training can shrink, ResConvs and scaled branches, and how many of them must go for a target."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import fx

from fxprune.branch_scale import BranchScale
from fxprune.errors import TargetError
from fxprune.facts.costs import batch_size, node_macs, total_macs
from fxprune.facts.liveness import Liveness
from fxprune.facts.missing_scales import why_no_scales
from fxprune.graph import TRACED_MACS, called_module, graphs_of
from fxprune.node_targets import attribute
from fxprune.resconv import ResConv


@dataclass(frozen=True)
class Layer:
    """A ResConv or a BranchScale in a graph.

    ``node`` calls ``module`` at ``path``, in the graph of ``region`` (see :func:`fxprune.graph.graphs_of`); ``nodes``
    are those that nobody needs once the layer is removed. The nodes of a branch hold those of the layers inside it.
    """

    node: fx.Node
    module: ResConv | BranchScale
    region: str
    path: str
    nodes: frozenset[fx.Node]

    @cached_property
    def macs(self) -> int:
        """The MACs a sample of its nodes; ask for them before the graph changes."""
        return self.macs_beside(())

    @property
    def scale(self) -> float:
        """The effective scale: 1 at insertion, and the gate as it is trained."""
        return self.module.effective_scale

    def macs_beside(self, gone: Collection[fx.Node]) -> int:
        """Return the MACs a sample that removing the layer saves once the nodes ``gone`` are removed already."""
        graph_module = self.node.graph.owning_module
        assert isinstance(graph_module, fx.GraphModule)
        return int(sum(node_macs(node) for node in self.nodes if node not in gone) // batch_size(graph_module))

    def coefficient(self) -> float:
        """Return the factor s of the conv path or the branch, as a Python float."""
        if isinstance(self.module, ResConv):
            return self.module.coefficients()[0]
        return self.module.coefficient(*gauge_weights(self.node))

    def wake(self) -> None:
        """Open the gate of a layer that rests, in units of the weights as they are now."""
        if isinstance(self.module, ResConv):
            self.module.wake()
        else:
            self.module.wake(*gauge_weights(self.node))


@contextmanager
@torch.no_grad()
def awake(layer: Layer) -> Iterator[None]:
    """Inside, ``layer`` is open, and its gate and units may be set; afterwards all is as before."""
    module = layer.module
    trains = module.gate.requires_grad
    before = [(tensor, tensor.clone()) for tensor in (module.gate, *module.buffers())]
    if module.resting or module.closed:
        layer.wake()
    try:
        yield
    finally:
        for tensor, value in before:
            tensor.copy_(value)
        module.gate.requires_grad_(trains)


def gauge_weights(node: fx.Node) -> list[torch.Tensor]:
    """Return the weights that the scale of the branch that ends at ``node``, a BranchScale, is in units of."""
    owner = node.graph.owning_module
    assert owner is not None
    return [attribute(owner, str(read.target)) for read in node.args[2:] if isinstance(read, fx.Node)]


def layers(graph_module: fx.GraphModule) -> list[Layer]:
    """Return the ResConvs and BranchScales of a graph and of its regions, in graph order."""
    return [layer for region, graph in graphs_of(graph_module) for layer in layers_of_graph(graph, region)]


def layers_of_graph(graph_module: fx.GraphModule, region: str = "") -> list[Layer]:
    """Return the removable ResConvs and the BranchScales of one graph, those of its regions left out."""
    live = Liveness(graph_module.graph)
    found = []
    for node in graph_module.graph.nodes:
        module = called_module(node)
        if isinstance(module, BranchScale) or (isinstance(module, ResConv) and module.removable):
            source = node.args[0]
            assert isinstance(source, fx.Node)
            nodes = live.dead_once_passed_by(node, source)
            path = f"{region}.{node.target}" if region else str(node.target)
            found.append(Layer(node, module, region, path, frozenset(nodes)))
    return found


def macs_in_turn(removed: Iterable[Layer]) -> Iterator[int]:
    """Yield the MACs a sample that each saves beside those before it: what lies in both is saved once."""
    gone: set[fx.Node] = set()
    for layer in removed:
        yield layer.macs_beside(gone)
        gone |= layer.nodes


def count_for_target(graph_module: fx.GraphModule, ranked: Sequence[Layer], target_macs: float, kept: int = 0) -> int:
    """Return how many of ``ranked``, from its start, must go to leave at most ``target_macs`` of the traced MACs.

    ``kept`` is how many others the user keeps, for what is said.
    Raises TargetError if all of them are not enough, or there are none.
    """
    left = total_macs(graph_module)
    total = graph_module.meta.get(TRACED_MACS, left)
    if left <= target_macs * total:
        return 0
    for count, saved in enumerate(macs_in_turn(ranked), start=1):
        left -= saved
        if left <= target_macs * total:
            return count
    if not ranked:
        why = f"all {kept} layers with a scale are kept by the user"
        if not kept:
            why = f"the graph has no layer with a scale; {why_no_scales(graph_module)}"
        raise TargetError(f"target_macs={target_macs:g} cannot be met: {why}")
    raise TargetError(
        f"target_macs={target_macs:g} cannot be met: without all {len(ranked)} removable layers "
        f"{left / total:.3f} of the MACs are left; ask for at least {left / total + 5e-4:.3f}"
    )
