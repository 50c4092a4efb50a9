"""Are two graphs the same function? Both run in float64 on the same inputs, and every output is compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxprune.ir.arguments import require_arguments
from fxprune.ir.nodes import called_module, example_inputs_of, graphs_of, origins, place, require_graph
from fxprune.rewriting.float64 import digests_of, run_both

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Verification:
    """The largest differences over all outputs, and the first node at which the graphs part (None: nowhere).

    ``max_relative`` is, per output tensor, max |a - b| over max(|a|, |b|).
    """

    max_absolute: float
    max_relative: float
    first_difference: str | None = None
    tolerance: float = TOLERANCE

    @property
    def equal(self) -> bool:
        """Whether the outputs agree within the tolerance."""
        return self.max_relative <= self.tolerance

    def __str__(self) -> str:
        verdict = "equal" if self.equal else f"different, first at {self.first_difference or 'the output'}"
        return f"{verdict}: max absolute {self.max_absolute:.3g}, max relative {self.max_relative:.3g} (float64)"


def difference(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> tuple[float, float]:
    """Return the largest absolute and relative difference; infinite if numbers or shapes of tensors differ.

    NaN equals NaN, and an infinity itself, in the same place only.
    """
    if len(before) != len(after):
        return float("inf"), float("inf")
    absolute = relative = 0.0
    for a, b in zip(before, after, strict=True):
        if a.shape != b.shape:
            return float("inf"), float("inf")
        if a.numel() == 0 or torch.equal(a, b):
            continue
        if a.is_complex() or b.is_complex():
            a, b = (torch.view_as_real(one.to(torch.complex128)) for one in (a, b))
        a, b = a.double(), b.double()
        same = (a == b) | (a.isnan() & b.isnan())
        gaps = (a - b).abs().nan_to_num(nan=float("inf"), posinf=float("inf")).masked_fill(same, 0.0)
        sizes = torch.stack([a, b]).abs().nan_to_num(nan=0.0, posinf=0.0)
        gap, size = float(gaps.max()), float(sizes.max())
        absolute = max(absolute, gap)
        relative = max(relative, gap / size if size else gap)
    return absolute, relative


def verify(
    a: fx.GraphModule, b: fx.GraphModule, example_inputs: Any, *, tolerance: float = TOLERANCE
) -> Verification:
    """Compare two graphs on ``example_inputs`` (one input or the tuple of inputs) in eval mode, in float64.

    Neither graph is changed. Where they differ, ``first_difference`` names the first node of ``b`` whose
    value is not that of the node of ``a`` with the same origin.
    """
    require_arguments(verify, locals())
    a, b = require_graph(a, "verify"), require_graph(b, "verify")
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    outputs = run_both(a, b, inputs)
    absolute, relative = difference(outputs.before, outputs.after)
    where = None if relative <= tolerance else first_difference(a, b, inputs, tolerance)
    return Verification(absolute, relative, where, tolerance)


def first_difference(a: fx.GraphModule, b: fx.GraphModule, inputs: Sequence[Any], tolerance: float) -> str | None:
    """Name the first node of ``b`` whose value differs from that of its origin in ``a``; regions come first."""
    graphs, others = graphs_of(a), graphs_of(b)
    if [path for path, _ in graphs] == [path for path, _ in others]:
        for (path, before), (_, after) in zip(graphs[1:], others[1:], strict=True):
            where = _first_difference(before, after, example_inputs_of(before), tolerance)
            if where is not None:
                return f"{where}, in {path}"
    where = _first_difference(a, b, inputs, tolerance)
    last = next((n for n in reversed(b.graph.nodes) if n.op != "output"), None)
    return where or (None if last is None else f"{place(last)}, before the output")


def _first_difference(a: fx.GraphModule, b: fx.GraphModule, inputs: Sequence[Any], tolerance: float) -> str | None:
    before, after = (digests_of(graph, inputs) for graph in (a, b))
    twins = {name: node for node in a.graph.nodes for name in origins(node)}
    for node in b.graph.nodes:
        twin = twins.get(origins(node)[-1])
        if twin is None or node.op in ("get_attr", "output"):
            continue
        _, relative = difference(before.get(twin, []), after.get(node, []))
        if relative > tolerance:
            kind = type(called_module(node)).__name__ if node.op == "call_module" else str(node.target)
            return f"{place(node)}, {kind}"
    return None
