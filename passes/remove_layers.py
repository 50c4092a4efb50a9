"""Take out the layers, convs and residual branches, whose scale training has made small.

    s * norm(conv(x)) + a * x   ->   a * x          exact for s = 0
    x + s * R(x)                ->   x              exact for s = 0

A conv at or below the threshold becomes a * x. One that is cut only because a target asks for it has its gate closed
first, so that the signal keeps its size: its shortcut is the one that it has at gate = 0.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import fx

from fxprune.choosing.keeping import KEPT
from fxprune.costs.macs import warn_of_unknown_macs
from fxprune.errors import FxpruneValueError, did_you_mean, require_share
from fxprune.facts.input_rms import input_sizes
from fxprune.facts.updated_buffers import updated_values
from fxprune.gates.base import known_kinds
from fxprune.ir.nodes import copied, erase, inherit
from fxprune.rewriting.contract import Contract, Log
from fxprune.rewriting.keeping_pass import KeepingPass
from fxprune.structures.gated_layers import Gate, enough_for_target, layers_of_graph
from fxprune.structures.missing_scales import why_no_scales

DEFAULT_THRESHOLD = 1e-2


@dataclass(frozen=True)
class RemoveLayers(KeepingPass):
    """Remove each conv or branch whose scale is at or below a threshold, or the smallest until a target is met.

    Args:
        threshold: remove layers with at most this effective scale (1e-2 if no target is given either).
        target_macs: the share of the graph's MACs to leave, between 0 and 1: the layers that rank lowest go first
            until it is met, the last such that it overshoots little
            (:func:`fxprune.structures.gated_layers.enough_for_target`). With a threshold too, both apply.
        rank: by "scale", the effective scale, or by "scale-per-mac", the same over the MACs that removal saves.
        kinds: the kinds of gates that may go, ("conv",) or ("branch",) say; all by default.
        keep, only: which layers stay, whatever their scale (see :mod:`fxprune.choosing.keeping`).

    Raises:
        TargetError: even without any layer that may go more MACs than the target are left; says how many.

    Warns:
        FxpruneWarning: the graph has ops whose MACs nobody knows; a target counts the others.
    """

    name: ClassVar[str] = "remove-layers"
    after: ClassVar[tuple[str, ...]] = ("insert-resconv", "insert-branch-scale")
    changes_shapes: ClassVar[bool] = False
    threshold: float | None = None
    target_macs: float | None = None
    rank: Literal["scale", "scale-per-mac"] = "scale"
    kinds: Sequence[str] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        require_share("target_macs", "MACs", self.target_macs)
        if self.threshold is not None and not self.threshold >= 0:
            raise FxpruneValueError(f"threshold must not be negative; got {self.threshold}")
        known = sorted(set(known_kinds()))
        unknown = [kind for kind in self.kinds if kind not in known]
        if unknown:
            raise FxpruneValueError(
                f"kinds names some of {', '.join(known)}; got {unknown[0]!r}{did_you_mean(unknown[0], known)}"
            )

    @property
    def contract(self) -> Contract:  # type: ignore[override]  # depends on the option
        """Equal values where only exact zeros go, an equal signature otherwise."""
        return Contract.VALUES if self.threshold == 0 and self.target_macs is None else Contract.SIGNATURE

    def rewrite_all(self, graphs: Sequence[tuple[str, fx.GraphModule]], log: Log) -> None:
        """Take the chosen layers out: those of all graphs are ranked together."""
        self.kept.require_sense(graphs)
        found = [one for path, graph in graphs for one in layers_of_graph(graph, path)]
        found = [one for one in found if not self.kinds or one.kind in self.kinds]
        kept = {one.node: one for one in found if self.kept.holds(one.nodes, one.region)}
        found = [one for one in found if one.node not in kept]
        for layer in kept.values():
            log.region = layer.region
            log.decline(layer.node, KEPT)
        scales = {one.node: one.module.effective_scale for one in found}
        ranked = sorted(found, key=lambda one: self._key(one, scales[one.node]))
        threshold = self.threshold
        if threshold is None:
            threshold = DEFAULT_THRESHOLD if self.target_macs is None else 0.0
        zeros = [one for one in ranked if scales[one.node] <= threshold]
        others = [one for one in ranked if scales[one.node] > threshold]
        wanted: list[Gate] = []
        if self.target_macs is not None:
            enough = enough_for_target(graphs[0][1], [*zeros, *others], self.target_macs, scales, kept=len(kept))
            wanted = enough[len(zeros) :]
            warn_of_unknown_macs(graphs[0][1], stacklevel=3)
        chosen = {layer.node for layer in [*zeros, *wanted]}
        small = {layer.node for layer in zeros}
        sizes = _sizes_of_untrained(layer for layer in others if layer.node in chosen)
        updated = {node for _, graph in graphs for node in updated_values(graph)}
        gone: set[fx.Node] = set()
        taken: set[fx.Node] = set()  # themselves, not with a branch that they lie in
        # branches first: what lies in them goes with them
        for layer in sorted([*zeros, *others], key=lambda one: one.module.operands == 1):
            if layer.node in gone:
                continue
            log.region = layer.region
            if layer.node not in chosen:
                bound = f"above {threshold:g}" if self.target_macs is None else "larger than the target needs"
                log.decline(layer.node, f"scale {scales[layer.node]:.4g} is {bound}")
                continue
            taken.add(layer.node)
            rule = f"at most {threshold:g}"
            if layer.node not in small:
                rule = f"among the {len(wanted)} smallest, for target_macs={self.target_macs:g}"
            rule = f"scale {scales[layer.node]:.4g} is {rule}"
            size = sizes.get(layer.node)
            gone |= _remove(layer, gone, updated, layer.node not in small, size, rule, log, self.name)
        log.region = ""
        if not found and not kept:
            log.warn(f"nothing can be removed: the graph has no layer with a scale; {why_no_scales(graphs[0][1])}")
        elif found and not chosen and self.target_macs is None:
            smallest = scales[ranked[0].node]
            log.warn(
                f"nothing was removed: the smallest of {len(found)} scales is {smallest:.3g}; train them to zero"
            )
        cut = [scales[layer.node] for layer in wanted if layer.node in taken]
        if cut and max(cut) > DEFAULT_THRESHOLD:
            log.warn(
                f"{len(cut)} layers were cut for target_macs={self.target_macs:g} though their scales go up to "
                f"{max(cut):.3g}: expect to retrain, or shrink for longer before removing"
            )

    def _key(self, layer: Gate, scale: float) -> float:
        return scale / max(layer.macs, 1) if self.rank == "scale-per-mac" else scale


def _sizes_of_untrained(cut: Iterable[Gate]) -> dict[fx.Node, float]:
    """Return the size of what each layer with a shortcut of its own reads that is cut as it was inserted."""
    graphs: dict[fx.GraphModule, list[fx.Node]] = {}
    for layer in cut:
        owner = layer.node.graph.owning_module
        if layer.module.untouched and isinstance(owner, fx.GraphModule):
            graphs.setdefault(owner, []).append(layer.node)
    return {node: size for owner, nodes in graphs.items() for node, size in input_sizes(owner, nodes).items()}


def _remove(
    layer: Gate,
    gone: set[fx.Node],
    updated: set[fx.Node],
    cut: bool,
    size: float | None,
    rule: str,
    log: Log,
    made_by: str,
) -> set[fx.Node]:
    """Replace the layer by its shortcut, in units of ``size`` if that is given; return the nodes that went."""
    node, source = layer.node, layer.node.args[0]
    assert isinstance(source, fx.Node)
    going = layer.nodes - gone
    shortcut = layer.module.left_over(cut=cut, input_rms=size)
    what = f"{shortcut:.4g} * x takes its place"
    if layer.module.operands > 1:
        what = f"the {layer.kind} goes, with {len(going) - 1} nodes and {layer.macs_beside(gone):,} MACs"
    log.rewrote(node, f"{rule}; {what}", going)
    replacement = source
    if shortcut != 1:
        with node.graph.inserting_before(node):
            replacement = node.graph.call_function(operator.mul, (source, shortcut))
        inherit(replacement, node, made_by=made_by)
    elif source in updated:
        replacement = copied(source, node, made_by)
    node.replace_all_uses_with(replacement, propagate_meta=False)
    erase(going)
    return set(going)
