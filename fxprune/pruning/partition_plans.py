"""Plans of partitions: chosen of one graph, and applied to another one of the same network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

from fxprune.choosing.partitions.plan import PartitionPlan
from fxprune.errors import FxpruneError
from fxprune.passes import MaskPartition, PartitionLinear
from fxprune.passes.chains import FINISHING, Norms
from fxprune.pipelines.pipeline import Pipeline
from fxprune.pipelines.result import PipelineResult


def plan_partition(
    graph_module: fx.GraphModule, blocks: int, data: Sequence[Any] | None, **options: Any
) -> tuple[PartitionPlan, list[str]]:
    """Return the blocks of a graph's linear layers, and what to say of them.

    Args:
        graph_module: the graph; it is not changed.
        blocks: how many, from 2 to 16.
        data: batches to choose on, by weight and activation; by weight alone without.
        options: others of :class:`fxprune.passes.MaskPartition`.

    Raises:
        FxpruneError: no chain of linear layers can be split (lists why).
        FxpruneValueError: a layer has fewer features than blocks.
    """
    chosen: dict[str, Any] = {"by": "weight"} if data is None else {"by": "activation", "data": data}
    result = MaskPartition(blocks, **chosen, **options)(graph_module)
    found = PartitionPlan.of(result.graph_module)
    require_any(found, result.declined)
    return found, [*map(str, result.rewritten), *result.warnings]


def require_any(plan: PartitionPlan, declined: Sequence[Any]) -> None:
    """Raise FxpruneError if a plan has no layer; says why those that were ``declined`` were."""
    if not plan.layers:
        reasons = "; ".join(map(str, declined)) or "there is no linear layer"
        raise FxpruneError(f"no chain of linear layers can be split: {reasons}")


def apply_partition(
    plan: PartitionPlan, graph_module: fx.GraphModule, *, norms: Norms = "keep", verify: bool = True
) -> PipelineResult:
    """Return a graph with a layer a block of ``plan``; what lies across is gone.

    Raises:
        FxpruneValueError: the plan is of another network.
    """
    return Pipeline([*FINISHING[norms], MaskPartition(plan=plan), PartitionLinear()], verify=verify)(graph_module)
