"""Zero what lies across blocks of linear layers, so that the blocks of a chain need nothing of each other.

fc1 -> relu -> fc2 -> relu -> fc3   ->   fc1 and fc2 with W_ij = 0 wherever i and j are in two blocks; fc3 as it was
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import fx, nn

from fxprune.choosing.keeping import KEPT
from fxprune.choosing.partitions.choose import (
    SEARCHES,
    ChosenBlocks,
    SearchName,
    choose_blocks,
    require_blocks,
    uneven,
)
from fxprune.choosing.partitions.masses import By
from fxprune.choosing.partitions.plan import PartitionPlan
from fxprune.choosing.partitions.reads import rows_read
from fxprune.choosing.partitions.sites import chains_of
from fxprune.choosing.samples import Samples
from fxprune.errors import FxpruneValueError
from fxprune.facts.shapes import note_shape, shape
from fxprune.ir.node_targets import free_target
from fxprune.ir.nodes import PASSES, called_module
from fxprune.ir.weight_blocks import WeightBlocks, blocks_of, note_blocks
from fxprune.ops.call import Call
from fxprune.rewriting.contract import Contract, Log
from fxprune.rewriting.keeping_pass import KeepingPass
from fxprune.rewriting.rewriter import Rewriter
from fxprune.structures.partitions.chains import Chain
from fxprune.weights.masking import LowRank, low_rank, masked

_REST = "is of what was kept across blocks"
_IN_REGION = "it is in an opaque module, whose inputs are not known one by one: choose by weight"


@dataclass(frozen=True)
class MaskPartition(KeepingPass):
    """Share the features of linear layers out to blocks, and zero the weights that lie across them.

    Partition pruning after Shahhosseini et al. (arXiv 1901.11391), of whom only the aim is known: how blocks are
    chosen is ours, or of the papers that the files of searches name. The last layer of a chain stays whole. Which
    blocks a layer has is noted with it: :class:`fxprune.passes.Repair` fits inside of them,
    :class:`fxprune.HeldPartition` holds them in a training, :class:`fxprune.passes.PartitionLinear` computes no more
    than them.

    Args:
        blocks: how many, from 2 to 16; where that does not divide, their sizes differ by one.
        search: how they are found: "alternating" assignment, "spectral" co-clustering, "min-cut", or "random".
        by: what should not be lost: "weight", W_ij^2; "activation", W_ij^2 E[x_j^2]; "cap", each input's share of the
            variance of the output, W S W^T.
        data: for the last two: an iterable of inputs, or of pairs of these and labels; by default the graph's example
            inputs.
        keep_cross: a rest of low rank of what lies across each layer's blocks is added to it, in two layers with at
            most this share of the weights across. Such layers are not repaired, and parts are no networks apart.
        seed: of what is drawn.
        plan: the blocks of layers, by their paths, in the place of all the above.
        keep, only: chains with layers that stay (see :mod:`fxprune.choosing.keeping`).

    Raises:
        FxpruneValueError: a layer has fewer features than blocks, or the plan is of other layers.
        FxpruneError: scipy or scikit-learn is missing.
    """

    name: ClassVar[str] = "mask-partition"
    contract: ClassVar[Contract] = Contract.SIGNATURE
    changes_shapes: ClassVar[bool] = False
    after: ClassVar[tuple[str, ...]] = ("freeze-weights",)
    blocks: int = 2
    search: SearchName = "alternating"
    by: By = "weight"
    data: Any = field(default=None, hash=False, compare=False, repr=False)
    seed: int = 0
    keep_cross: float = 0.0
    plan: PartitionPlan | None = field(default=None, hash=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_blocks(self.blocks)
        if not 0 <= self.keep_cross < 1:
            raise FxpruneValueError(f"keep_cross is a share of at least 0 and below 1; got {self.keep_cross}")

    def rewrite_all(self, graphs: Sequence[tuple[str, fx.GraphModule]], log: Log) -> None:
        """Mask the layers of all graphs; raises FxpruneValueError if the plan has layers that none of them has."""
        self.kept.require_sense(graphs)
        planned: set[str] = set()
        for log.region, graph in graphs:
            planned |= self._mask(graph, log)
        missing = [] if self.plan is None else sorted(set(self.plan.layers) - planned)
        if missing:
            raise FxpruneValueError(
                f"the plan has blocks of {missing[0]}, which is no layer of a chain here: fxprune inspect lists them"
            )
        log.region = ""

    def _mask(self, graph: fx.GraphModule, log: Log) -> set[str]:
        """Mask the chains of one graph; return the paths of what the plan has of it."""
        chains, reasons = chains_of(graph, self.kept, log.region)
        for node, why in reasons.items():
            log.decline(node, why)
        if not chains and not log.region and not any(why == KEPT for why in reasons.values()):
            log.warn("nothing is split: no two linear layers follow each other feature by feature")
        rewriter = Rewriter(graph, log, self.name)
        planned = set()
        for chain in chains:
            where = [f"{log.region}.{path}" if log.region else path for path in chain.paths[:-1]]
            planned.update(where)
            chosen = self._chosen(chain, where, graph, log)
            for node, blocks, why in chosen:
                self._mask_layer(node, blocks, why, rewriter)
        return planned

    def _chosen(
        self, chain: Chain, where: Sequence[str], graph: fx.GraphModule, log: Log
    ) -> list[tuple[fx.Node, WeightBlocks, str]]:
        """Return the layers of a chain that get blocks, with these and what is told of them."""
        split = list(zip(chain.nodes[:-1], chain.layers[:-1], strict=True))
        if any(self.name in node.meta.get(PASSES, ()) for node in chain.nodes):
            for node, layer in split:
                blocks = blocks_of(node, layer.weight)
                log.decline(node, _REST if blocks is None else f"is in blocks already: {blocks}")
            return []
        if self.plan is not None:
            return _planned(chain, [self.plan.layers.get(path) for path in where])
        if self.by != "weight" and log.region:
            for node, _ in split:
                log.decline(node, _IN_REGION)
            return []
        for line in uneven(chain, self.blocks):
            log.warn(line)
        found = choose_blocks(
            chain, self.blocks, SEARCHES[self.search](), self.by, self._reads(chain, graph, log), self.seed
        )
        return [(node, one, why) for (node, _), one, why in zip(split, found.layers, self._told(found), strict=True)]

    def _mask_layer(self, node: fx.Node, blocks: WeightBlocks, why: str, rewriter: Rewriter) -> None:
        """Mask one layer, and add the rest that is asked for."""
        layer: Any = called_module(node)
        mask = blocks.mask()
        rest = low_rank(layer, ~mask, self.keep_cross, self.seed) if self.keep_cross else None
        if self.keep_cross and rest is None:
            rewriter.log.warn(f"keep_cross={self.keep_cross:g} of {node.target} is less than a rank: nothing is kept")
        told = (
            ""
            if rest is None
            else f"; rank {rest.up.in_features} of what lies across, {rest.kept:.1%} of it, is added"
        )
        rewriter.log.rewrote(node, f"{blocks}; {why}{told}")
        rewriter.set_layer(node, masked(layer, mask))
        if rest is not None:
            _add(node, rest, rewriter)
        note_blocks(node, replace(blocks, has_rest=rest is not None))

    def _told(self, found: ChosenBlocks) -> list[str]:
        return [f"{share:.1%} of its {self.by} lies in them ({self.search})" for share in found.kept]

    def _reads(self, chain: Chain, graph: fx.GraphModule, log: Log) -> list[torch.Tensor | None]:
        """Return what the layers read on the images, if that counts."""
        if self.by == "weight":
            return [None] * (len(chain.nodes) - 1)
        samples = Samples.of(graph, self.data)
        batches = list(samples)
        if not batches:
            raise FxpruneValueError(f"there are no images to choose by {self.by}: give data=")
        if samples.advice:
            log.warn(f"blocks were chosen on {samples.advice}")
        return list(rows_read(graph, chain.nodes[:-1], batches))


def _planned(chain: Chain, given: Sequence[WeightBlocks | None]) -> list[tuple[fx.Node, WeightBlocks, str]]:
    """Return what the plan says of a chain; raises FxpruneValueError if it is of another one."""
    found: list[tuple[fx.Node, WeightBlocks, str]] = []
    rows = None
    for node, layer, blocks in zip(chain.nodes, chain.layers, given, strict=False):
        if blocks is None:
            break
        if blocks.shape != tuple(layer.weight.shape):
            raise FxpruneValueError(f"the plan has {node.target} as {blocks}, and it is {tuple(layer.weight.shape)}")
        if rows is not None and not (rows == blocks.columns).all():
            raise FxpruneValueError(f"the plan has other blocks of what {node.target} reads than of what is computed")
        found.append((node, blocks, "as planned"))
        rows = blocks.rows
    return found


def _add(node: fx.Node, rest: LowRank, rewriter: Rewriter) -> None:
    """Have those who read ``node`` read its sum with what ``rest`` makes of its input."""
    readers = list(node.users)
    path, behind = free_target(rewriter.graph_module, f"{node.target}_cross"), node.next
    rewriter.put(path, nn.Module().train(rest.up.training))
    read = Call(node).operand(0)
    down = rewriter.insert("call_module", rewriter.put(f"{path}.down", rest.down), (read,), before=behind, of=[node])
    sizes = shape(node)
    if sizes is not None:
        note_shape(
            down, torch.empty((*sizes[:-1], rest.down.out_features), dtype=rest.up.weight.dtype, device="meta")
        )
    up = rewriter.insert("call_module", rewriter.put(f"{path}.up", rest.up), (down,), before=behind, of=[node])
    total = rewriter.insert("call_function", operator.add, (node, up), before=behind, of=[node])
    rewriter.replace(node, total, readers)
