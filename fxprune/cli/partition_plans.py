"""``fxprune plan --partition`` and ``fxprune apply`` of what that wrote: which features are in which block.

What takes torch is imported where it is used: help and errors of usage come at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fxprune.cli.options import print_json

if TYPE_CHECKING:
    from torch import fx

    from fxprune.passes.chains import Norms
    from fxprune.pipelines.result import PipelineResult

_CHOOSING = ("keep", "only", "seed")
_OWN = ("model", "weights", "pretrained", "classes", "input_shape", "data", "image_size", "count")
_ALSO = (*_OWN, *_CHOOSING, "file", "as_json", "partition")


def require_alone() -> None:
    """Raise UsageError if an option is given that says what else goes."""
    context = click.get_current_context()
    for name in context.params:
        is_given = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if is_given and name not in _ALSO:
            option = next(one for one in context.command.params if one.name == name)
            raise click.UsageError(f"{option.opts[-1]} is of layers or channels that go: not for --partition")


def plan_partition(
    graph_module: fx.GraphModule, blocks: int, data: Sequence[Any] | None, file: Path, options: Mapping[str, Any]
) -> None:
    """Choose the blocks of a graph, by weight and activation where there are images, and write them to a file."""
    from fxprune.pruning.partition_plans import plan_partition

    found, told = plan_partition(graph_module, blocks, data, **{name: options[name] for name in _CHOOSING})
    found.save(file)
    if options["as_json"]:
        print_json({"model": options["model"], "out": str(file), "blocks": told})
        return
    click.echo("\n".join([*told, f"written to {file}"]))


def is_partition(file: Path) -> bool:
    """Say whether a file is a plan of a partition; raises LoadError if it cannot be read."""
    from fxprune.choosing.partitions.plan import is_partition_plan

    return is_partition_plan(file)


def applied(file: Path, graph_module: fx.GraphModule, norms: Norms, verify: bool) -> PipelineResult:
    """Return a graph with the blocks of a file, each a layer."""
    from fxprune.choosing.partitions.plan import PartitionPlan
    from fxprune.pruning.partition_plans import apply_partition

    return apply_partition(PartitionPlan.load(file), graph_module, norms=norms, verify=verify)
