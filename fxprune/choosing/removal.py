"""Which gates go: those at or below a threshold, and the lowest-ranked of the others until a target is met."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import fx

from fxprune.choosing.ranking import BY_SCALE, Ranking, ranked_by
from fxprune.costs.macs import total_macs
from fxprune.errors import FxpruneValueError, did_you_mean
from fxprune.facts.input_rms import input_sizes
from fxprune.ir.nodes import TRACED_MACS
from fxprune.structures.gated_layers import Gate, enough_for_target, macs_in_turn

DEFAULT_THRESHOLD = 1e-2
OVERSHOOT = 0.02


@dataclass(frozen=True)
class Removal:
    """What goes and what stays, of gates in this ``ranking``.

    ``small`` are at most at the threshold; of the ``others``, the ``wanted`` go too, for the target; all ranked.
    """

    ranking: Ranking
    small: list[Gate]
    others: list[Gate]
    wanted: list[Gate]
    threshold: float
    target_macs: float | None
    left: float | None = None
    """The share of the traced MACs that is left, where a target asks for one."""

    @cached_property
    def cut(self) -> frozenset[fx.Node]:
        """The nodes of those that go for the target alone."""
        return frozenset(gate.node for gate in self.wanted)

    @cached_property
    def going(self) -> frozenset[fx.Node]:
        """The nodes of all that go."""
        return self.cut | {gate.node for gate in self.small}

    def why(self, gate: Gate) -> str:
        """Return why ``gate`` goes, or stays."""
        scale = self.ranking.scales[gate.node]
        if scale == 0:
            return "its scale is 0"
        if scale <= self.threshold:
            rule = f"at most {self.threshold:g}"
        elif gate.node in self.cut and self.target_macs is None:
            return "it was named"
        elif gate.node in self.cut:
            rule = f"among the {len(self.cut)} smallest, for target_macs={self.target_macs:g}"
            if self.ranking.name not in BY_SCALE:
                return f"its {self.ranking.name} per MAC {self.ranking.values[gate.node]:.3g} is {rule}"
        elif self.cut and self.target_macs is None:
            return "it was not named"
        else:
            rule = f"above {self.threshold:g}" if self.target_macs is None else "larger than the target needs"
        return f"its scale {scale:.4g} is {rule}"

    def warnings(self, taken: Collection[fx.Node]) -> Iterator[str]:
        """Yield what the user should know once those at ``taken`` are out, and the others went with them."""
        scales = self.ranking.scales
        if scales and not taken and self.target_macs is None:
            smallest, count = min(scales.values()), len(scales)
            yield f"nothing was removed: the smallest of {count} scales is {smallest:.3g}; train them to zero"
        cut = [scales[node] for node in self.cut if node in taken]
        if cut and self.ranking.is_guess:
            yield self.ranking.advice
        if cut and self.target_macs is None and max(cut) > DEFAULT_THRESHOLD:
            yield f"{len(cut)} layers were cut though their scales go up to {max(cut):.3g}: outputs change; train on"
        elif cut and max(cut) > DEFAULT_THRESHOLD:
            yield (
                f"{len(cut)} layers were cut for target_macs={self.target_macs:g} though their scales go up to "
                f"{max(cut):.3g}: expect to retrain, or shrink for longer before removing"
            )
        wanted = self.target_macs or 0.0
        if cut and self.left is not None and wanted - self.left > OVERSHOOT:
            yield (
                f"{self.left:.1%} of the MACs are left where target_macs={wanted:g} was asked for: layers "
                "go as a whole, and of those that meet the target the ones that rank lowest went"
            )


def choose(
    graph_module: fx.GraphModule,
    gates: Sequence[Gate],
    rank: str | None,
    threshold: float | None,
    target_macs: float | None,
    kept: int,
) -> Removal:
    """Rank ``gates``, and choose.

    Args:
        graph_module: the whole graph, of whose MACs ``target_macs`` is a share (None: no target).
        gates: those that may go, of the graph and of its regions.
        rank: by what, the lowest first, see :func:`fxprune.choosing.ranking.ranked_by`.
        threshold: None is DEFAULT_THRESHOLD without a target, 0 with one.
        target_macs: what share of the traced MACs is to be left.
        kept: how many other gates the user keeps, for what is said.

    Raises:
        TargetError: without all of ``gates`` more MACs than the target are left.
    """
    if threshold is None:
        threshold = DEFAULT_THRESHOLD if target_macs is None else 0.0
    matters = target_macs is not None or rank in BY_SCALE
    ranking = ranked_by(graph_module, gates, rank if matters else BY_SCALE[0])
    scales, ranked = ranking.scales, sorted(gates, key=lambda gate: ranking.values[gate.node])
    small = [gate for gate in ranked if scales[gate.node] <= threshold]
    others = [gate for gate in ranked if scales[gate.node] > threshold]
    wanted: list[Gate] = []
    left: float | None = None
    if target_macs is not None:
        wanted = enough_for_target(graph_module, [*small, *others], target_macs, ranking.missed, kept)[len(small) :]
        total = total_macs(graph_module)
        left = (total - sum(macs_in_turn([*small, *wanted]))) / graph_module.meta.get(TRACED_MACS, total)
    return Removal(ranking, small, others, wanted, threshold, target_macs, left)


def named(graph_module: fx.GraphModule, gates: Sequence[Gate], paths: Sequence[str]) -> Removal:
    """Return the removal of those of ``gates`` that have these paths; raises FxpruneValueError if one has none."""
    known = [gate.path for gate in gates]
    for path in paths:
        if path not in known:
            hint = did_you_mean(path, known)
            raise FxpruneValueError(f"paths has {path!r}, where no layer with a gate that may go is{hint}")
    wanted = [gate for gate in gates if gate.path in paths]
    return Removal(ranked_by(graph_module, gates, BY_SCALE[0]), [], [*gates], wanted, 0.0, None)


def sizes_of_untrained(cut: Iterable[Gate]) -> dict[fx.Node, float]:
    """Return the size of what each gate with a shortcut of its own reads that is ``cut`` as it was inserted."""
    graphs: dict[fx.GraphModule, list[fx.Node]] = {}
    for gate in cut:
        owner = gate.node.graph.owning_module
        if gate.module.untouched and isinstance(owner, fx.GraphModule):
            graphs.setdefault(owner, []).append(gate.node)
    return {node: size for owner, nodes in graphs.items() for node, size in input_sizes(owner, nodes).items()}
