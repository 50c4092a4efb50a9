"""What a loop of the user's own takes beside what shrinks its gates: groups of parameters, strengths, an L1 term.

loss + strength * l1_term(sparse)       torch.optim.SGD(parameter_groups(sparse, 1e-4), lr=0.05)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from fxprune.choosing.remaining import Remaining, Site
from fxprune.facts.input_rms import input_sizes
from fxprune.gates.channel_gate import ChannelScale
from fxprune.gates.gate import ScaledLayer
from fxprune.ir.arguments import require_arguments
from fxprune.ir.nodes import called_module, graphs_of, require_graph
from fxprune.structures.channels.labels import LEAST
from fxprune.structures.gated_layers import Gate, gates_of


def _shrinkable(graph_module: fx.GraphModule) -> list[Gate]:
    """Return the gates that shrinking acts on, in graph order: of layers that can go, and of channels."""
    return [gate for gate in gates_of(graph_module) if gate.removable or isinstance(gate.module, ChannelScale)]


def measure_inputs(graph_module: fx.GraphModule) -> None:
    """Give every ResConv whose shortcut is still zero the unit of its shortcut: the size of what it reads.

    One forward pass on the graph's example inputs; no output changes. :class:`ProximalL1` does this when it is made;
    a loop that shrinks gates by other means (:func:`l1_term`) calls it before the first step.
    """
    require_arguments(measure_inputs, locals())
    graph_module = require_graph(graph_module, "measure_inputs")
    for _, graph in graphs_of(graph_module):
        modules = {node: called_module(node) for node in graph.graph.nodes}
        untouched = {n: m for n, m in modules.items() if isinstance(m, ScaledLayer) and m.untouched}
        for node, size in input_sizes(graph, untouched).items():
            untouched[node].restate(input_rms=size)


def l1_term(graph_module: fx.GraphModule) -> torch.Tensor:
    """Return the sum of all gates ("gain-gate") or |scales| ("free"), differentiable, to add to a loss.

    Those of channels too.

    A plain L1 term never makes a scale exactly zero; :class:`ProximalL1` does.
    """
    require_arguments(l1_term, locals())
    graph_module = require_graph(graph_module, "l1_term")
    terms = [gate.module.penalty() for gate in _shrinkable(graph_module)]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def macs_weighted(graph_module: fx.GraphModule, strength: float) -> dict[str, float]:
    """Return a strength per gate, proportional to the MACs that go with a scale of it, with mean ``strength``."""
    require_arguments(macs_weighted, locals())
    graph_module = require_graph(graph_module, "macs_weighted")
    remaining = Remaining(graph_module)
    ones: list[Site] = [*remaining.layers.values(), *(remaining.chunk(path, [0]) for path in remaining.channels)]
    macs = {path: cost.macs for path, cost in remaining.saved(ones, ()).items()}
    mean = sum(macs.values()) / max(len(macs), 1)
    return {path: strength * count / mean for path, count in macs.items()}


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return optimizer groups in which layer scales, norms and biases have no weight decay.

    Frozen parameters are left out, but for layer scales: whether those are trained may change at any step.
    """
    require_arguments(parameter_groups, locals())
    scaled = (module for module in model.modules() if isinstance(module, ScaledLayer))
    scales = {id(module.trained_scale) for module in scaled}
    trained = [p for p in model.parameters() if p.requires_grad or id(p) in scales]
    decayed = [p for p in trained if p.dim() > 1]
    rest = [p for p in trained if p.dim() <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def report(graph_module: fx.GraphModule) -> str:
    """Return a table of the gates: effective scale, shortcut (of a branch: 1), MACs a sample that it holds.

    Of channels the mean of their scales, and the MACs that go with all of them but two.
    """
    from tabulate import tabulate

    require_arguments(report, locals())
    graph_module = require_graph(graph_module, "report")
    remaining = Remaining(graph_module)
    macs = {path: round(cost.macs) for path, cost in remaining.saved(remaining.all_but(LEAST), ()).items()}
    gates = _shrinkable(graph_module)
    rows = [[one.path, one.module.effective_scale, one.coefficients()[1], macs.get(one.path, 0)] for one in gates]
    return tabulate(rows, headers=["layer", "scale", "shortcut", "MACs"], floatfmt=".4f", intfmt=",")
