"""Take out the layers, convs and residual branches, whose scale training has made small.

    s * norm(conv(x)) + a * x   ->   a * x          exact for s = 0
    x + s * R(x)                ->   x              exact for s = 0

A conv at or below the threshold becomes a * x. One that is cut only because a target asks for it has its gate closed
first, so that the signal keeps its size: its shortcut is the one that it has at gate = 0.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import fx

from fxprune.choosing.keeping import KEPT
from fxprune.choosing.named import known_criteria
from fxprune.choosing.ranking import BY_SCALE
from fxprune.choosing.removal import Removal, choose, named, sizes_of_untrained
from fxprune.costs.macs import warn_of_unknown_macs
from fxprune.errors import FxpruneValueError, did_you_mean, require_share
from fxprune.facts.updated_buffers import updated_values
from fxprune.gates.base import known_kinds
from fxprune.gates.channel_gate import ChannelScale
from fxprune.ir.nodes import input_at
from fxprune.rewriting.contract import Contract, Log
from fxprune.rewriting.keeping_pass import KeepingPass
from fxprune.rewriting.rewriter import Rewriter
from fxprune.structures.gated_layers import Gate, gates_of, layers_of_graph
from fxprune.structures.missing_scales import why_no_scales


@dataclass(frozen=True)
class RemoveLayers(KeepingPass):
    """Remove each conv or branch whose scale is at or below a threshold, or the smallest until a target is met.

    Args:
        threshold: remove layers with at most this effective scale (1e-2 if no target is given either).
        target_macs: the share of the graph's MACs to leave, between 0 and 1: the layers that rank lowest go first
            until it is met, the last such that it overshoots little
            (:func:`fxprune.structures.gated_layers.enough_for_target`). With a threshold too, both apply.
        rank: by "scale", the effective scale, by "scale-per-mac", the same over the MACs that removal saves, or by a
            criterion's name, its value over these: "half-gate" is the damage on the graph's example inputs. By
            default by scale, or, where no scale was trained, by "weight-norm", and a warning says so.
        kinds: the kinds of gates that may go, ("conv",) or ("branch",) say; all by default.
        paths: remove these and no others, whatever their scale, by the paths of their gates (fxprune.gates_of).
        keep, only: which layers stay, whatever their scale (see :mod:`fxprune.choosing.keeping`).

    Raises:
        FxpruneValueError: ``paths`` names what has no gate, or is kept.
        TargetError: even without any layer that may go more MACs than the target are left; says how many.

    Warns:
        FxpruneWarning: the graph has ops whose MACs nobody knows; a target counts the others.
    """

    name: ClassVar[str] = "remove-layers"
    after: ClassVar[tuple[str, ...]] = ("insert-resconv", "insert-branch-scale")
    changes_shapes: ClassVar[bool] = False
    threshold: float | None = None
    target_macs: float | None = None
    rank: str | None = None
    kinds: Sequence[str] = ()
    paths: Sequence[str] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        require_share("target_macs", "MACs", self.target_macs)
        if self.threshold is not None and not self.threshold >= 0:
            raise FxpruneValueError(f"threshold must not be negative; got {self.threshold}")
        if self.paths and (self.threshold, self.target_macs, self.rank) != (None, None, None):
            raise FxpruneValueError("paths says what goes: it excludes threshold, target_macs and rank")
        ranks = (*BY_SCALE, *known_criteria())
        if self.rank is not None and self.rank not in ranks:
            hint = did_you_mean(self.rank, ranks)
            raise FxpruneValueError(f"unknown rank {self.rank!r}{hint}; known: {', '.join(ranks)}")
        known = sorted(set(known_kinds()))
        unknown = [kind for kind in self.kinds if kind not in known]
        if unknown:
            raise FxpruneValueError(
                f"kinds names some of {', '.join(known)}; got {unknown[0]!r}{did_you_mean(unknown[0], known)}"
            )
        if self.target_macs is None and self.rank not in (None, *BY_SCALE):
            raise FxpruneValueError(f"rank={self.rank!r} says what goes first for target_macs: give that too")

    @property
    def contract(self) -> Contract:  # type: ignore[override]  # depends on the option
        """Equal values where only exact zeros go, an equal signature otherwise."""
        return Contract.VALUES if self.threshold == 0 and self.target_macs is None else Contract.SIGNATURE

    def rewrite_all(self, graphs: Sequence[tuple[str, fx.GraphModule]], log: Log) -> None:
        """Take the chosen layers out: those of all graphs are ranked together."""
        self.kept.require_sense(graphs)
        found = [one for path, graph in graphs for one in layers_of_graph(graph, path)]
        found = [one for one in found if not self.kinds or one.kind in self.kinds]
        kept = {one.node for one in found if self.kept.holds(one.nodes, one.region)}
        for layer in found:
            if layer.node in kept:
                log.region = layer.region
                log.decline(layer.node, KEPT)
        free = [one for one in found if one.node not in kept]
        if self.paths:
            removal = named(graphs[0][1], free, self.paths)
        else:
            removal = choose(graphs[0][1], free, self.rank, self.threshold, self.target_macs, len(kept))
        if self.target_macs is not None:
            warn_of_unknown_macs(graphs[0][1], stacklevel=3)
        taken = _take_out(removal, {region: Rewriter(graph, log, self.name) for region, graph in graphs}, log)
        has_channels = any(gate.kind == ChannelScale.kind for gate in gates_of(graphs[0][1]))
        if not found and not has_channels:
            log.warn(f"nothing can be removed: the graph has no layer with a scale; {why_no_scales(graphs[0][1])}")
        if taken or not has_channels:  # it need not be layers that were trained to zero
            log.warnings += removal.warnings(taken)


def _take_out(removal: Removal, rewriters: Mapping[str, Rewriter], log: Log) -> set[fx.Node]:
    """Take out what goes and decline the rest; return what was taken out itself, not with a branch around it."""
    layers = [*removal.small, *removal.others]
    updated = {node for rewriter in rewriters.values() for node in rewriter.facts(updated_values)}
    copies = {layer.node: input_at(layer.node) for layer in layers if layer.node.args[0] in updated}
    cut = _Cut(removal.cut, copies, sizes_of_untrained(removal.wanted))
    taken: set[fx.Node] = set()
    # branches first: what lies in them goes with them
    for layer in sorted(layers, key=lambda one: one.module.operands == 1):
        if layer.node in cut.gone:
            continue
        log.region = layer.region
        if layer.node in removal.going:
            taken.add(layer.node)
            cut.remove(layer, removal.why(layer), rewriters[layer.region])
        else:
            log.decline(layer.node, removal.why(layer))
    log.region = ""
    return taken


@dataclass
class _Cut:
    """How layers are taken out, and the nodes that are ``gone`` with them.

    Those ``closed`` first keep their signal's size: in units of ``sizes``, where these are known; ``copies`` are
    inputs to be copied, as forward writes to them.
    """

    closed: Collection[fx.Node]
    copies: Mapping[fx.Node, fx.Node]
    sizes: Mapping[fx.Node, float]
    gone: set[fx.Node] = field(default_factory=set)

    def remove(self, layer: Gate, rule: str, rewriter: Rewriter) -> None:
        """Replace ``layer`` by its shortcut."""
        node, source = layer.node, input_at(layer.node)
        going = layer.nodes - self.gone
        shortcut = layer.module.left_over(cut=node in self.closed, input_rms=self.sizes.get(node))
        told = f"{rule}; {shortcut:.4g} * x takes its place"
        if layer.module.operands > 1:
            cost = f"{len(going) - 1} nodes and {layer.macs_beside(self.gone):,} MACs"
            told = f"{layer.subject}: {rule}, so all of it is removed, with {cost}"
        rewriter.log.rewrote(node, told, sorted(going))
        by = source
        if shortcut != 1:
            by = rewriter.insert("call_function", operator.mul, (source, shortcut), before=node, of=[node])
        elif self.copies.get(node) is source:
            by = rewriter.copy(source, node)
        rewriter.replace(node, by)
        rewriter.erase(going - {node})
        self.gone |= going
