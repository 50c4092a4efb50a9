"""Compute no more of linear layers than their blocks: what lies across them is zero.

W = P' diag(W_1 ... W_k) Q   ->   cat([W_b x_b + b_b for b])       P, Q: permutations, in the rows and columns of the
                                                                   neighbours, or an index_select
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import fx, nn

from fxprune.facts.module_uses import CallSites
from fxprune.facts.own_layers import own_module
from fxprune.ir.nodes import called_module, graphs_of
from fxprune.ir.weight_blocks import Assignment, WeightBlocks, blocks_of, forget_blocks
from fxprune.ops.call import Call, is_a
from fxprune.rewriting.block_products import FORMS, BlockWriter, Form, takes_form
from fxprune.rewriting.block_timing import fastest_form
from fxprune.rewriting.contract import Contract, Log, Pass
from fxprune.rewriting.permuting import Permutation
from fxprune.rewriting.rewriter import Rewriter
from fxprune.structures.channels.groups import Channels
from fxprune.structures.partitions.chains import find_chains
from fxprune.structures.partitions.movable import Movable, in_order_of_making
from fxprune.structures.partitions.zero_blocks import blocks_in_zeros


class _Site(NamedTuple):
    """A call of a layer with blocks."""

    node: fx.Node
    layer: nn.Linear
    blocks: WeightBlocks


@dataclass(frozen=True)
class PartitionLinear(Pass):
    """Make layers of the blocks of linear layers that :class:`MaskPartition` has masked.

    Blocks that are in the weights and were noted by nothing are found where a chain of layers has them
    (:mod:`fxprune.structures.partitions.zero_blocks`), if they leave out a quarter: of a network that was masked,
    trained and loaded.

    Args:
        form: how the product is written (:mod:`fxprune.rewriting.block_products`): "linears", a layer a block;
            "conv", a grouped one; "bmm", a batched product; or what is "measured" to be the fastest here, on inputs
            of the example's shape. What needs equal blocks or a matrix as input is "linears" elsewhere.
    """

    name: ClassVar[str] = "partition-linear"
    contract: ClassVar[Contract] = Contract.VALUES
    after: ClassVar[tuple[str, ...]] = ("mask-partition", "repair", "freeze-weights", "fold-batch-norm")
    form: Literal["linears", "conv", "bmm", "measured"] = "linears"

    def may_apply(self, graph_module: fx.GraphModule) -> bool:
        """Say whether there is any linear layer."""
        return any(is_a(node, "linear") for _, graph in graphs_of(graph_module) for node in graph.graph.nodes)

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        """Write all layers with blocks anew."""
        channels = Channels(graph_module)
        sites = _sites(graph_module, channels, log)
        if not sites:
            return
        rewriter = Rewriter(graph_module, log, self.name)
        folding = _Folding(channels)
        folded = [folding.sides(site) for site in sites]
        own = {site.node for site in sites}
        for node in folding.permutation.apply():
            if node not in own:
                log.rewrote(node, "its channels are in the order of the blocks that read them")
        for site, sides in zip(sites, folded, strict=True):
            self._write(site, sides, rewriter)

    def _write(self, site: _Site, folded: tuple[bool, bool], rewriter: Rewriter) -> None:
        """Write one layer anew; ``folded`` says of its rows and columns whether they are in order already."""
        node, layer = site.node, called_module(site.node)
        assert isinstance(layer, nn.Linear)
        forget_blocks(node)
        source = Call(node).operand(0)
        form = self._form(site, source)
        rows, columns = (
            np.sort(side) if is_folded else side
            for side, is_folded in zip((site.blocks.rows, site.blocks.columns), folded, strict=True)
        )
        blocks = WeightBlocks(rows, columns)
        writer = BlockWriter(node, layer, list(blocks.places()), rewriter)
        picked = [name for name, side in (("inputs", columns), ("outputs", rows)) if not _is_sorted(side)]
        told = f"{blocks}, as {form}" + "".join(f"; its {name} are picked by index" for name in picked)
        rewriter.log.rewrote(node, told)
        if "inputs" in picked:
            source = writer.select(source, _order(columns), "inputs")
        output = writer.write(form, source)
        if "outputs" in picked:
            output = writer.select(output, torch.argsort(_order(rows)), "outputs")
        rewriter.replace(node, output)

    def _form(self, site: _Site, source: fx.Node) -> Form:
        forms = [form for form in FORMS if takes_form(form, source, site.blocks)]
        if self.form == "measured":
            return fastest_form(site.layer, site.blocks, source, forms)
        return self.form if self.form in forms else "linears"


def _sites(graph_module: fx.GraphModule, channels: Channels, log: Log) -> list[_Site]:
    """Return the layers with blocks, in the order of the graph."""
    sites = CallSites(graph_module)
    found: dict[fx.Node, _Site] = {}
    for node in graph_module.graph.nodes:
        layer: Any = called_module(node)
        blocks = blocks_of(node, layer.weight) if is_a(node, "linear") and layer is not None else None
        if blocks is None:
            continue
        obstacle = own_module(layer, (nn.Linear,), sites)
        if obstacle is None and 0 in {one for size in blocks.sizes for one in size}:
            obstacle = f"nothing is left of one of its blocks: {blocks}"
        if obstacle is None and bool(layer.weight.detach()[~blocks.mask().to(layer.weight.device)].any()):
            obstacle = "its weight is not zero across its blocks: fxprune.HeldPartition holds it in a training"
        if obstacle is None:
            found[node] = _Site(node, layer, blocks)
        else:
            log.decline(node, obstacle)
    for chain in find_chains(channels).chains:
        known = None if found.keys() & set(chain.nodes) else blocks_in_zeros(chain)
        for node, layer, blocks in zip(chain.nodes, chain.layers, known or (), strict=False):
            found[node] = _Site(node, layer, blocks)
    return [found[node] for node in graph_module.graph.nodes if node in found]


class _Folding:
    """Which rows and columns are put in order by moving those of the neighbours."""

    def __init__(self, channels: Channels) -> None:
        self.permutation = Permutation(channels)
        self._channels = channels
        self._movable = Movable(channels)
        self._readers = {one.node: one for one in channels.walk.readers}
        self._chosen: dict[bytes, Assignment | None] = {}

    def sides(self, site: _Site) -> tuple[bool, bool]:
        """Note where the rows and the columns of a layer go; say of each whether it can be so."""
        rows = self._channels.outputs.get(str(site.node.target))
        reader = self._readers.get(site.node)
        columns = None
        if reader is not None and len(reader.vectors) == 1:
            columns = self._channels.class_of[reader.vectors[0]]
        return self._moves(rows, site.blocks.rows), self._moves(columns, site.blocks.columns)

    def _moves(self, classes: Assignment | None, blocks: Assignment) -> bool:
        """Have the channels on one side of a layer be in the order of their blocks, if that can be."""
        if classes is None:
            return False
        units = in_order_of_making(classes)
        of_class = np.zeros(len(self._channels.labels), dtype=np.int64)
        of_class[classes] = blocks
        if not (of_class[classes] == blocks).all():
            return False
        key = units.tobytes()
        if key not in self._chosen:
            can_move = self._movable.obstacle(units) is None
            self._chosen[key] = of_class[units] if can_move else None
            if can_move:
                self.permutation.move(units, of_class[units])
        chosen = self._chosen[key]
        return chosen is not None and np.array_equal(chosen, of_class[units])


def _is_sorted(side: Assignment) -> bool:
    return bool((side[1:] >= side[:-1]).all())


def _order(side: Assignment) -> torch.Tensor:
    return torch.from_numpy(np.argsort(side, kind="stable"))
