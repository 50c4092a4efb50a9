"""What a diff consists of, as plain data: nodes, what became of them, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

Kind = Literal["unchanged", "changed", "fused", "removed", "added"]
"""What became of a node. Fused: several nodes of ``before`` are one node of ``after``."""

What = Literal["op", "kernel", "bias", "scale", "value", "shape", "options", "input"]
"""What changed in a node:

- op: what it calls;
- kernel: its weight, whatever its layer; bias: its bias; value: any other tensor, as a norm's statistics;
- scale: the scale or the shortcut of a ResConv, the scale of a branch;
- shape: its output's shape or dtype;
- options: numbers and flags that it is called or built with, the dtype of its weights;
- input: it reads other nodes, in another order, or not what became of those that it read.
"""

MatchedBy = Literal["origin", "guess"]
"""How nodes of two graphs were found to be the same: by the nodes they come from, or by what they are and read."""

KINDS: tuple[Kind, ...] = get_args(Kind)
WHAT: tuple[What, ...] = get_args(What)


@dataclass(frozen=True)
class NodeInfo:
    """One node of one graph.

    Attributes:
        name: unique in its graph; of a node of a region inside an opaque module "REGION.name".
        op: what it calls, "Conv2d", "relu", "add", or "placeholder", "get_attr", "output".
        path: the path of its module, "" if it has none.
        inputs: the names of the nodes that it reads, in order, as often as it reads them.
        shape: of its output; None if unknown or not one tensor.
        macs: of one sample. What is inside a region counts at the region's nodes, not at the module that holds it.
        params: parameters that it reads, shared ones at each reader; scales are left out.
        scale: the effective scale of a ResConv or a BranchScale; None for all else.
        detail: what a person wants to know of a layer, "3x3, stride 2, 64 -> 128, groups 4"; "" for most.
    """

    name: str
    op: str
    path: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...] | None
    macs: int
    params: int
    scale: float | None
    detail: str


@dataclass(frozen=True)
class Reason:
    """A pass rewrote something by a rule, or left it alone for a reason.

    ``step`` is the pass's index in the pipelines between the two graphs, counted through; None for a pass alone.
    ``pass_name`` is "" where a pass's result does not tell it.
    """

    pass_name: str
    rule: str
    step: int | None

    def __str__(self) -> str:
        return f"{self.pass_name}: {self.rule}" if self.pass_name else self.rule


@dataclass(frozen=True)
class Change:
    """One entry of a diff; each node of both graphs is in exactly one.

    Attributes:
        kind: what became of the node.
        before: none if added, two or more if fused (in graph order), otherwise one.
        after: None if removed.
        what: what changed, in the order of ``WHAT``; empty if unchanged, removed or added.
        why: the rules behind it, in the order in which they were applied.
        declined: why passes left it alone, in the order in which they looked at it; empty if it was removed.
    """

    kind: Kind
    before: tuple[NodeInfo, ...]
    after: NodeInfo | None
    what: tuple[What, ...] = ()
    why: tuple[Reason, ...] = ()
    declined: tuple[Reason, ...] = ()

    @property
    def main(self) -> NodeInfo:
        """The node that stands for the entry: the one of ``after``, or else that of ``before``."""
        return self.after or self.before[0]

    @property
    def path(self) -> str:
        """The module path of the node that stands for the entry."""
        return self.main.path

    @property
    def op(self) -> str:
        """What the node that stands for the entry calls."""
        return self.main.op

    @property
    def macs(self) -> tuple[int, int]:
        """MACs of one sample, before and after."""
        return sum(node.macs for node in self.before), self.after.macs if self.after else 0

    @property
    def params(self) -> tuple[int, int]:
        """Parameters, before and after."""
        return sum(node.params for node in self.before), self.after.params if self.after else 0


@dataclass(frozen=True)
class Totals:
    """What a whole graph holds: nodes, MACs of one sample, parameters (shared ones once).

    The MACs are those that are known; ``unknown`` names the ops of the others.
    """

    nodes: int
    macs: int
    params: int
    unknown: tuple[str, ...] = ()


class Compared(Protocol):
    """Two graphs compared: what a diff holds, for whoever shows it (see :class:`GraphDiff`)."""

    @property
    def changes(self) -> tuple[Change, ...]:
        """The entries, in graph order."""

    @property
    def before(self) -> Totals:
        """What the earlier graph holds in all."""

    @property
    def after(self) -> Totals:
        """What the later one holds."""

    @property
    def matched_by(self) -> MatchedBy:
        """How nodes were matched."""

    def count(self, kind: Kind) -> int:
        """Return how many entries are of ``kind``."""
