"""What a pipeline returns: every step, what it cost and changed, and what verification saw."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import fx

from fxprune.costs.macs import tell_unknown, total_macs, total_params, unknown_places
from fxprune.diffing.diff import diff
from fxprune.ir.nodes import node_count
from fxprune.rewriting.contract import Contract, PassResult

if TYPE_CHECKING:
    from fxprune.diffing.graph_diff import GraphDiff


@dataclass(frozen=True)
class Step:
    """One pass of a pipeline: its input, its result and its time; what the graph costs after it, when asked for."""

    name: str
    contract: Contract
    before: fx.GraphModule
    result: PassResult
    milliseconds: float

    @cached_property
    def diff(self) -> GraphDiff:
        """What the pass changed; worked out when it is first asked for."""
        return diff(self.before, self.result.graph_module, results=[self])

    @cached_property
    def nodes(self) -> int:
        """Nodes of the graph after the pass, those of regions included."""
        return node_count(self.result.graph_module)

    @cached_property
    def macs(self) -> int:
        """MACs a sample after the pass; those that are known, see ``unknown_macs``."""
        return total_macs(self.result.graph_module)

    @cached_property
    def unknown_macs(self) -> tuple[str, ...]:
        """What ``macs`` leaves out after the pass: the ops whose MACs nobody knows, and where they are."""
        return unknown_places(self.result.graph_module)

    @cached_property
    def params(self) -> int:
        """Parameters after the pass."""
        return total_params(self.result.graph_module)


@dataclass(frozen=True, repr=False)
class PipelineResult(PassResult):
    """A PassResult with every step; printing it shows a table.

    ``max_relative`` is the largest relative difference that verification saw in float64 between graphs
    that must be equal; None if it did not run. ``diff`` is what all steps together changed, each step's own is in it.
    """

    steps: tuple[Step, ...] = ()
    max_relative: float | None = None

    @cached_property
    def diff(self) -> GraphDiff:
        """What all passes together changed; worked out when it is first asked for."""
        before = self.steps[0].before if self.steps else self.graph_module
        return diff(before, self.graph_module, results=[self])

    def to_json(self) -> dict[str, Any]:
        """Return what each pass did and what the graph costs after it, as plain data."""
        first = self.steps[0].before if self.steps else self.graph_module
        steps = [
            {"pass": s.name, "sites": len(s.result.rewritten), "ms": s.milliseconds, **_costs(s.result.graph_module)}
            for s in self.steps
        ]
        return {
            "before": _costs(first),
            "steps": steps,
            "max_relative_difference": self.max_relative,
            "warnings": list(self.warnings),
        }

    def __repr__(self) -> str:
        last = _costs(self.graph_module)
        return (
            f"<PipelineResult: {', '.join(step.name for step in self.steps) or 'no passes'}; {last['nodes']} nodes, "
            f"{last['macs']:,} MACs, {last['params']:,} parameters; {self._verdict()}>"
        )

    def __str__(self) -> str:
        if not self.steps:
            return "an empty pipeline: nothing was done"
        return "\n".join([self._table("simple"), *self._notes()])

    def _repr_html_(self) -> str:
        notes = "".join(f"<div>{html.escape(note)}</div>" for note in self._notes())
        return f"{self._table('html')}{notes}" if self.steps else html.escape(str(self))

    def _table(self, form: str) -> str:
        from tabulate import tabulate

        first = self.steps[0].before
        macs = _told(total_macs(first), unknown_places(first))
        rows: list[list[Any]] = [["(input)", "", node_count(first), macs, total_params(first), ""]]
        for s in self.steps:
            costs = [s.nodes, _told(s.macs, s.unknown_macs), s.params]
            rows.append([s.name, len(s.result.rewritten), *costs, f"{s.milliseconds:.1f}"])
        headers = ["pass", "sites", "nodes", "MACs", "params", "ms"]
        return str(tabulate(rows, headers, form, colalign=("left", *["right"] * 5), intfmt=","))

    def _notes(self) -> list[str]:
        left_out = self.steps[-1].unknown_macs or unknown_places(self.steps[0].before)
        told = [f"MACs are at least these: {tell_unknown(left_out)}"] if left_out else []
        return [*told, self._verdict(), *(f"warning: {message}" for message in self.warnings)]

    def _verdict(self) -> str:
        if self.max_relative is None:
            return "not verified"
        others = [step.name for step in self.steps if step.result.modified and step.contract is not Contract.VALUES]
        exempt = f"; {', '.join(dict.fromkeys(others))} may change values" if others else ""
        return f"verified in float64: largest relative difference {self.max_relative:.2g}{exempt}"


def _told(macs: int, unknown: tuple[str, ...]) -> int | str:
    return f">= {macs:,}" if unknown else macs


def _costs(graph: fx.GraphModule) -> dict[str, Any]:
    macs = {"macs": total_macs(graph), "unknown_macs": list(unknown_places(graph))}
    return {"nodes": node_count(graph), **macs, "params": total_params(graph)}


def joined(results: Sequence[PipelineResult]) -> PipelineResult:
    """Return the results of one pipeline after the other as that of one."""
    return PipelineResult(
        results[-1].graph_module,
        any(one.modified for one in results),
        tuple(site for one in results for site in one.rewritten),
        tuple(site for one in results for site in one.declined),
        tuple(dict.fromkeys(message for one in results for message in one.warnings)),
        tuple(step for one in results for step in one.steps),
        max((one.max_relative for one in results if one.max_relative is not None), default=None),
    )
