"""Convs and branches as plans name them, and the gates that stand for them in a graph with gates."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from torch import fx

from fxprune.errors import FxpruneValueError, did_you_mean
from fxprune.ir.nodes import graphs_of, origins
from fxprune.passes import InsertBranchScale, InsertResConv, RemoveChannels, RemoveLayers
from fxprune.pipelines.pipeline import Pipeline
from fxprune.rewriting.contract import Pass
from fxprune.structures.branches import find_branches
from fxprune.structures.conv_sites import find_conv_sites
from fxprune.structures.gated_layers import Gate, layers

Names = Mapping[tuple[str, str, str], str]
"""What plans call a conv or a branch, by its kind, region, and the traced node that it is, or is summed at."""


def names_of_layers(graph_module: fx.GraphModule) -> Names:
    """Return what plans call the convs and branches of a traced graph, as ``fxprune inspect`` lists them."""
    return dict(_named(graph_module))


def _named(graph_module: fx.GraphModule) -> Iterator[tuple[tuple[str, str, str], str]]:
    for region, graph in graphs_of(graph_module):
        prefix = f"{region}." if region else ""
        for site in find_conv_sites(graph):
            yield ("conv", region, origins(site.node)[-1]), prefix + (site.path or site.node.name)
        for branch in find_branches(graph):
            if branch.eligible:
                yield ("branch", region, origins(branch.addition)[-1]), prefix + branch.path


def name_of(gate: Gate, names: Names) -> str:
    """Return what plans call what ``gate`` stands for, in a graph with gates."""
    found = (names.get((gate.kind, gate.region, name)) for name in reversed(origins(gate.node)))
    return next((name for name in found if name is not None), gate.path)


def gates_by_name(
    graph_module: fx.GraphModule, kinds: Collection[str]
) -> tuple[fx.GraphModule, dict[tuple[str, str], Gate]]:
    """Return a copy of a traced graph with gates on all convs and branches that can go, of these kinds.

    And its gates, by kind and name.
    """
    names = names_of_layers(graph_module)
    inserted = [kind() for name, kind in _INSERTIONS.items() if name in kinds]
    gated = Pipeline(inserted, verify=False)(graph_module).graph_module
    return gated, {(gate.kind, name_of(gate, names)): gate for gate in layers(gated)}


def removing(
    graph_module: fx.GraphModule, cut: RemoveChannels | None, going: Mapping[str, Sequence[str]]
) -> list[Pass]:
    """Return the passes that take out of a traced graph the channels of ``cut``, then the layers that are ``going``.

    These are by kind, "conv" or "branch"; raises FxpruneValueError for what is not there, or cannot go.
    """
    kinds = [kind for kind, names in going.items() if names]
    steps: list[Pass] = [cut] if cut is not None else []
    if not kinds:
        return steps
    _, gates = gates_by_name(graph_module, kinds)
    for kind in kinds:
        known = [name for one, name in gates if one == kind]
        for name in going[kind]:
            if name not in known:
                hint = did_you_mean(name, known) or "; fxprune inspect lists what can"
                raise FxpruneValueError(f"the {kind} {name} of the plan is not there, or cannot go{hint}")
    convs = going.get("conv", ())
    steps += [InsertResConv(only=convs)] if convs else []
    steps += [InsertBranchScale()] if going.get("branch") else []
    return [*steps, RemoveLayers(paths=[gates[kind, name].path for kind in kinds for name in going[kind]])]


_INSERTIONS: dict[str, type[InsertResConv | InsertBranchScale]] = {"conv": InsertResConv, "branch": InsertBranchScale}
