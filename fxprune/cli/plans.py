"""``fxprune plan | apply``: what goes, as a file to read and edit, and the network without it.

What takes torch is imported where it is used: help and errors of usage come at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tabulate import tabulate

from fxprune.cli.blend_search import Search, search_options
from fxprune.cli.graphs import Images, Output, image_options, output_options
from fxprune.cli.options import (
    MODEL_HELP,
    Given,
    collected,
    criterion_option,
    json_option,
    keeping_options,
    load_traced,
    model_options,
    print_json,
)
from fxprune.cli.partition_plans import applied, is_partition, plan_partition, require_alone
from fxprune.cli.progress import progress_line

if TYPE_CHECKING:
    from torch import fx

    from fxprune.choosing.targets import Targets
    from fxprune.pruning.pruning_plan import PruningPlan

SCOPES = ("uniform", "global")
AGGREGATES = ("sum", "mean")
NORMALIZATIONS = ("none", "mean", "max", "lamp")
GROUPS = ("within", "whole")
STATISTICS = ("exact", "approximate")
_SHARE = click.FloatRange(0, 1, min_open=True)


@dataclass(frozen=True)
class Asked:
    """How much of each cost is to be left."""

    target_macs: float | None
    target_params: float | None
    target_memory: float | None

    def targets(self) -> Targets:
        """Return it in one value."""
        from fxprune.choosing.targets import Targets

        return Targets(self.target_macs, self.target_params, self.target_memory)


@click.command(epilog=MODEL_HELP)
@click.argument("model")
@model_options
@click.option("--what", default="channels", help="convs, branches or channels, a mix (branches,channels), or all.")
@click.option("--target-macs", type=_SHARE, help="Share of the MACs to leave.")
@click.option("--target-params", type=_SHARE, help="Share of the parameters to leave.")
@click.option(
    "--target-memory", type=_SHARE, help="Share to leave of the most memory that activations take at a time."
)
@collected("asked", Asked)
@click.option("--ratio", type=float, help="Share of each group of channels that goes, in the place of targets.")
@click.option("--scope", type=click.Choice(SCOPES), default="uniform", help="One ratio everywhere, or one ranking.")
@click.option("--multiple-of", type=int, default=1, help="As many channels of each group are left as are a multiple.")
@click.option("--least", type=float, default=2, help="Channels left of each group at least: a number, or a share.")
@criterion_option
@search_options
@click.option("--aggregate", type=click.Choice(AGGREGATES), default="sum", help="Of all weights that make a channel.")
@click.option("--normalize", type=click.Choice(NORMALIZATIONS), help="How scores of unlike groups compare.")
@click.option("--seed", type=int, default=0, help="Of random choice, and of a search.")
@click.option(
    "--groups", type=click.Choice(GROUPS), default="within", help="Of groups and heads: parts, or whole ones."
)
@click.option(
    "--statistics", type=click.Choice(STATISTICS), default="exact", help="Whether layer norms may lose some."
)
@image_options
@keeping_options
@click.option(
    "--partition",
    type=click.IntRange(2, 16),
    metavar="K",
    help="Choose K blocks of linear layers, and nothing else: see fxprune prune --partition.",
)
@click.option("-o", "--out", "file", required=True, type=click.Path(path_type=Path), help="File to write: plan.json.")
@json_option("model, out, criterion, targets, sites, macs_left, params_left; with --partition model, out, blocks")
def plan(model: str, given: Given, asked: Asked, images: Images, file: Path, as_json: bool, **options: Any) -> None:
    """Choose what goes of MODEL, and write it to a file: sites, indices and scores, to be read, edited and applied.

    Nothing is removed; fxprune apply does that.
    """
    from fxprune.choosing.named import known_criteria, made
    from fxprune.pruning.choose import choose

    partition = options.pop("partition")
    if partition is not None:
        require_alone()
        graph_module = images.graph_of(model, given).eval()
        with progress_line("choosing"):
            plan_partition(
                graph_module, partition, images.batches(), file, {**options, "model": model, "as_json": as_json}
            )
        return
    search: Search = options.pop("search")
    what, criterion = options.pop("what"), search.criterion(options.pop("criterion") or "l1")
    looks = made(criterion, known_criteria(), "criterion").needs != "weights"
    graph_module = images.graph_of(model, given).eval()
    data = images.batches() if looks or images.data is None else None
    with progress_line("choosing"):
        found = choose(graph_module, what, asked.targets(), criterion=criterion, data=data, **options)
    found.save(file)
    search.write_page(model)
    _show(model, graph_module, found, file, as_json)


def _show(model: str, graph_module: fx.GraphModule, found: PruningPlan, file: Path, as_json: bool) -> None:
    """Print what a plan says, and what it leaves."""
    from fxprune.costs.macs import total_macs, total_params

    after = found.apply(graph_module, verify=False).graph_module
    left = [total(after) / max(total(graph_module), 1) for total in (total_macs, total_params)]
    if as_json:
        content = {"criterion": found.criterion, "targets": found.targets.options()}
        sites = [one.to_json() for one in found.sites]
        print_json(
            {
                "model": model,
                "out": str(file),
                **content,
                "sites": sites,
                "macs_left": left[0],
                "params_left": left[1],
            }
        )
        return
    rows = [[one.kind, one.path, f"{len(one.indices)} of {one.width}"] for one in found.sites]
    if rows:
        click.echo(tabulate(rows, headers=["what", "where", "goes"], colalign=("left", "left", "right")))
    click.echo(f"{found}; {left[0]:.1%} of the MACs and {left[1]:.1%} of the parameters are left")
    click.echo(f"written to {file}")


@click.command(epilog=MODEL_HELP)
@click.argument("plan_file", metavar="PLAN", type=click.Path(path_type=Path))
@click.argument("model")
@model_options
@output_options
@click.option("--no-verify", is_flag=True, help="Do not hold the passes to their contracts.")
@json_option("model, plan, before, steps, max_relative_difference, warnings, out")
def apply(plan_file: Path, model: str, given: Given, output: Output, no_verify: bool, as_json: bool) -> None:
    """Take out of MODEL what PLAN says, a file of fxprune plan; a plan for another network is refused.

    A plan of a partition (plan --partition, or partition.json of a run) splits its linear layers.
    Batch norms are kept, to train on, unless --norms says otherwise.
    """
    from fxprune.pruning.pruning_plan import PruningPlan

    found = None if is_partition(plan_file) else PruningPlan.load(plan_file)
    output.require_sense()
    graph_module, norms = load_traced(model, given).eval(), output.norms or "keep"
    if found is None:
        result = applied(plan_file, graph_module, norms, not no_verify)
    else:
        result = found.apply(graph_module, norms=norms, verify=not no_verify)
    if not as_json:
        click.echo(str(result))
    output.write(model, graph_module, result)
    if as_json:
        told = {"model": model, "plan": str(plan_file), **result.to_json()}
        print_json({**told, "out": output.out and str(output.out)})
    elif output.out is not None:
        click.echo(f"written to {output.out}")
