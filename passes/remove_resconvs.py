"""Take out the ResConvs whose scale training has made small.

    s * norm(conv(x)) + a * x   ->   a * x          exact for s = 0

A layer at or below the threshold becomes a * x. A layer that is cut only because a target asks for it has its
gate closed first, so that the signal keeps its size: its shortcut is the one that it has at gate = 0.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from fxprune.errors import FxpruneError
from fxprune.facts.layers import count_for_target, resconvs
from fxprune.graph import inherit
from fxprune.rewriting import Contract, Log, Pass

DEFAULT_THRESHOLD = 1e-2


@dataclass(frozen=True)
class RemoveResConvs(Pass):
    """Remove each ResConv whose effective scale is at or below a threshold, or the smallest until a target is met.

    Args:
        threshold: remove layers with at most this effective scale (1e-2 if no target is given either).
        target_macs: the share of the graph's MACs to leave, between 0 and 1: the smallest effective scales go first
            until it is met. With a threshold too, both apply.

    Raises:
        TargetError: even without any ResConv more MACs than the target are left; says how many.
    """

    name: ClassVar[str] = "remove-resconvs"
    contract: ClassVar[Contract] = Contract.SIGNATURE
    threshold: float | None = None
    target_macs: float | None = None

    def __post_init__(self) -> None:
        if self.target_macs is not None and not 0 < self.target_macs <= 1:
            raise FxpruneError(f"target_macs is the share of MACs to leave, in (0, 1]; got {self.target_macs}")
        if self.threshold is not None and not self.threshold >= 0:
            raise FxpruneError(f"threshold must not be negative; got {self.threshold}")

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        """Replace the chosen ResConvs by their shortcuts."""
        ranked = sorted(resconvs(graph_module), key=lambda pair: pair[1].effective_scale)
        threshold = self.threshold
        if threshold is None:
            threshold = DEFAULT_THRESHOLD if self.target_macs is None else 0.0
        wanted = 0
        if self.target_macs is not None:
            wanted = count_for_target(graph_module, [node for node, _ in ranked], self.target_macs)
        cut: list[float] = []
        for rank, (node, resconv) in enumerate(ranked):
            scale = resconv.effective_scale
            if scale <= threshold:
                rule = f"scale {scale:.4g} is at most {threshold:g}"
                _, shortcut = resconv.coefficients()
            elif rank < wanted:
                rule = f"scale {scale:.4g} is among the {wanted} smallest, for target_macs={self.target_macs:g}"
                shortcut = resconv.closed_shortcut
                cut.append(scale)
            else:
                bound = f"above {threshold:g}" if self.target_macs is None else "larger than the target needs"
                log.decline(node, f"scale {scale:.4g} is {bound}")
                continue
            log.rewrote(node, f"{rule}; {shortcut:.4g} * x takes its place")
            _replace_by_shortcut(node, shortcut, self.name)
        if cut and max(cut) > DEFAULT_THRESHOLD:
            log.warn(
                f"{len(cut)} layers were cut for target_macs={self.target_macs:g} though their scales go up to "
                f"{max(cut):.3g}: expect to retrain, or shrink for longer before removing"
            )


def _replace_by_shortcut(node: fx.Node, shortcut: float, made_by: str) -> None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    if shortcut == 1:
        node.replace_all_uses_with(source, propagate_meta=False)
    else:
        with node.graph.inserting_before(node):
            product = node.graph.call_function(operator.mul, (source, shortcut))
        inherit(product, node, made_by=made_by)
        node.replace_all_uses_with(product, propagate_meta=False)
    node.graph.erase_node(node)
