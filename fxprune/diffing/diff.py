"""What changed between two graphs, as data: every node of both, in exactly one entry.

    print(fxprune.diff(before, after))

A node is unchanged, changed (another kernel, bias, scale or input), fused (several nodes of ``before`` are one now),
removed or added. With pipeline results at hand, each entry carries the passes and the rules behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import fx

from fxprune.costs.macs import batch_size
from fxprune.facts.shapes import require_shapes
from fxprune.ir.arguments import require_arguments
from fxprune.ir.nodes import TRACE, graphs_of, require_graph
from fxprune.rewriting.contract import PassResult, StepResult

if TYPE_CHECKING:
    from fxprune.diffing.entries import Change
    from fxprune.diffing.graph_diff import GraphDiff


def diff(
    before: fx.GraphModule, after: fx.GraphModule, *, results: Sequence[PassResult | StepResult] = ()
) -> GraphDiff:
    """Compare two graphs, and the regions inside their opaque modules.

    Graphs of one trace, or of two traces of one network, are matched by the origins of their nodes, however much was
    rewritten in between; others by name, op, shape and neighbourhood, and then ``matched_by`` is "guess". Takes time
    linear in the nodes, and compares the tensors that are not the same objects.

    Args:
        before: the earlier graph.
        after: the later one.
        results: what the passes in between returned, in order, for the reasons; they also tell that ``after`` was
            made from ``before``.
    """
    from fxprune.diffing.changes import Changes  # loaded when two graphs are first compared
    from fxprune.diffing.graph_diff import GraphDiff
    from fxprune.diffing.guessing import match_by_guess
    from fxprune.diffing.matching import match_by_origin
    from fxprune.diffing.nodes import describe, totals
    from fxprune.diffing.reasons import reasons_of

    require_arguments(diff, locals())
    before, after = require_graph(before, "diff"), require_graph(after, "diff")
    for graph in (before, after):
        require_shapes(graph)
    traces = before.meta.get(TRACE), after.meta.get(TRACE)
    by_origin = before is after or bool(results) or (traces[0] is not None and traces[0] == traces[1])
    reasons = reasons_of(results)
    batches = batch_size(before), batch_size(after)
    old, new = dict(graphs_of(before)), dict(graphs_of(after))
    changes: list[Change] = []
    for region in {**new, **old}:
        first, second = (describe(graphs[region], region) if region in graphs else {} for graphs in (old, new))
        matches = match_by_origin(first, second) if by_origin else match_by_guess(first, second)
        changes += Changes(first, second, matches, batches, region, reasons)
    return GraphDiff(tuple(changes), totals(before), totals(after), "origin" if by_origin else "guess")
