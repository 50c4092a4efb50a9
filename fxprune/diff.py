"""What changed between two graphs, as data: every node of both, matched by origin.

    print(fxprune.diff(before, after))

A node is unchanged, changed (another kernel, bias or input), fused (several nodes of ``before`` are now one),
removed or added. With pipeline results at hand, each change carries the pass and the rule behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from tabulate import tabulate
from torch import fx

from fxprune.facts.costs import batch_size, node_macs, node_params, total_macs, total_params
from fxprune.facts.shapes import shape
from fxprune.graph import attribute, called_module, module_path, origins
from fxprune.rewriting import PassResult

Kind = Literal["unchanged", "changed", "fused", "removed", "added"]


@dataclass(frozen=True)
class Change:
    """One node of the diff; ``before`` lists the node names it stands for, ``after`` its name now."""

    kind: Kind
    path: str
    op: str
    before: tuple[str, ...]
    after: str | None
    shape: tuple[int, ...] | None
    macs: tuple[int, int]
    params: tuple[int, int]
    why: tuple[str, ...] = ()


@dataclass(frozen=True)
class GraphDiff:
    """All changes, in graph order; printing it shows what is not unchanged, and the totals."""

    changes: tuple[Change, ...]
    macs: tuple[int, int]
    params: tuple[int, int]

    def count(self, kind: Kind) -> int:
        """Return how many entries are of ``kind``."""
        return sum(change.kind == kind for change in self.changes)

    def __str__(self) -> str:
        marks = {"removed": "-", "added": "+", "changed": "~", "fused": "*"}
        rows = [
            [
                marks[c.kind],
                c.path or (c.after or c.before[0]),
                c.op,
                _pair(c.macs),
                _pair(c.params),
                "; ".join(c.why),
            ]
            for c in self.changes
            if c.kind != "unchanged"
        ]
        table = tabulate(rows, headers=["", "layer", "op", "MACs", "params", "why"], maxcolwidths=[None] * 5 + [60])
        kinds: tuple[Kind, ...] = ("unchanged", "changed", "fused", "removed", "added")
        counts = ", ".join(f"{self.count(kind)} {kind}" for kind in kinds)
        return f"{table}\n\n{counts}\nMACs {_pair(self.macs)}, params {_pair(self.params)}"


def _pair(numbers: tuple[int, int]) -> str:
    before, after = numbers
    return f"{after:,}" if before == after else f"{before:,} -> {after:,}"


def diff(before: fx.GraphModule, after: fx.GraphModule, *, results: Sequence[PassResult] = ()) -> GraphDiff:
    """Compare two graphs of which ``after`` was made from ``before`` by passes.

    Args:
        before: the earlier graph.
        after: the later one; its nodes carry the origins that passes kept.
        results: what the passes in between returned, for the reasons.
    """
    reasons = _reasons(results)
    batch = batch_size(before)
    old = {node.name: node for node in before.graph.nodes if node.op != "output"}
    taken: set[str] = set()
    entries: list[tuple[int, Change]] = []
    position = {name: index for index, name in enumerate(old)}
    for node in after.graph.nodes:
        if node.op == "output":
            continue
        sources = tuple(name for name in origins(node) if name in old and name not in taken)
        taken.update(sources)
        twins = [old[name] for name in sources]
        kind: Kind = "added"
        if len(twins) > 1:
            kind = "fused"
        elif twins:
            kind = "unchanged" if _same(twins[0], node) else "changed"
        costs = [sum(cost(t) for t in twins) // each for cost, each in ((node_macs, batch), (node_params, 1))]
        now = (node_macs(node) // batch, node_params(node))
        why = () if kind == "unchanged" else tuple(dict.fromkeys(r for n in sources for r in reasons.get(n, ())))
        at = max((position[name] for name in sources), default=len(position))
        entries.append(
            (at, Change(kind, module_path(node), _kind_of(node), sources, node.name, shape(node),
                        (costs[0], now[0]), (costs[1], now[1]), why))
        )  # fmt: skip
    for name, node in old.items():
        if name not in taken:
            change = Change(
                "removed", module_path(node), _kind_of(node), (name,), None, shape(node),
                (node_macs(node) // batch, 0), (node_params(node), 0), tuple(dict.fromkeys(reasons.get(name, ()))),
            )  # fmt: skip
            entries.append((position[name], change))
    entries.sort(key=lambda entry: entry[0])
    return GraphDiff(
        tuple(change for _, change in entries),
        (total_macs(before), total_macs(after)),
        (total_params(before), total_params(after)),
    )


def _reasons(results: Sequence[PassResult]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for result in results:
        for step in getattr(result, "steps", ()) or [None]:
            name = "" if step is None else f"{step.name}: "
            for site in (result if step is None else step.result).rewritten:
                for origin in site.origins:
                    found.setdefault(origin, []).append(name + site.why)
    return found


def _kind_of(node: fx.Node) -> str:
    if node.op == "call_module":
        return type(called_module(node)).__name__
    return node.op if node.op == "placeholder" else str(getattr(node.target, "__name__", node.target))


def _same(a: fx.Node, b: fx.Node) -> bool:
    if a.op != b.op or _kind_of(a) != _kind_of(b):
        return False
    if a.op == "get_attr":
        return _equal(_attribute(a), _attribute(b))
    first, second = called_module(a), called_module(b)
    if first is not None and second is not None and first is not second:
        states = (first.state_dict(), second.state_dict())
        if states[0].keys() != states[1].keys() or any(
            not torch.equal(states[0][key], states[1][key]) for key in states[0]
        ):
            return False
    return _argument_names(a) == _argument_names(b)


def _argument_names(node: fx.Node) -> str:
    def name(read: fx.Node) -> Any:
        return f"%{origins(read)[-1]}"

    return str(fx.map_arg((node.args, node.kwargs), name))


def _attribute(node: fx.Node) -> Any:
    assert node.graph.owning_module is not None
    return attribute(node.graph.owning_module, str(node.target))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    return bool(a == b)
