"""Shrinking the layer scales while a network trains, in the user's own loop.

    shrink = fxprune.ProximalL1(sparse, strength=1e-3)
    for ...:
        loss.backward(); optimizer.step(); shrink.step(lr)

L1 acts on the gate alone (see :mod:`fxprune.gates.resconv` and :mod:`fxprune.gates.branch_scale`), after the
optimizer's step, so that gates become exactly zero: removing such a layer changes nothing. An optimizer must have
been made from the sparse graph's parameters, not from those of the model that was traced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from fxprune.costs.macs import total_macs, total_params
from fxprune.costs.parameter_holders import Holders
from fxprune.errors import FxpruneError, FxpruneValueError
from fxprune.facts.input_rms import input_sizes
from fxprune.gates.data_parallel import is_distributed, keep_all_parameters_in_training
from fxprune.gates.gate import ScaledLayer, follow_together
from fxprune.ir.arguments import require_arguments
from fxprune.ir.module_tree import every_module
from fxprune.ir.nodes import TRACED_MACS, called_module, graphs_of, require_graph
from fxprune.structures.gated_layers import layers, macs_in_turn
from fxprune.structures.missing_scales import why_no_scales


class _Left(NamedTuple):
    """What follows from the layers that are closed: those that go with them, and shares of what is left."""

    closed: list[str]
    gone: list[str]
    macs: float
    params: float


class ProximalL1:
    """The proximal step of an L1 penalty on the layer scales, with a strength that the user fixes.

    In several processes (DistributedDataParallel) make it once the process group is there; wrap the graph before or
    after, without any option.

    Args:
        graph_module: a graph with ResConvs, BranchScales, or both; not a module around it.
        strength: the penalty's weight, one number or one a layer (by path, see :func:`macs_weighted`);
            a gate falls by ``lr * strength`` a step, against what the loss's gradient does.

    Raises:
        FxpruneError: the graph has no such layers, or a strength names none.
    """

    def __init__(self, graph_module: fx.GraphModule, strength: float | Mapping[str, float] = 1e-3) -> None:
        require_arguments(ProximalL1.__init__, locals())
        self.graph_module = graph_module = require_graph(graph_module, type(self).__name__)
        self._found = {layer.path: layer for layer in layers(graph_module)}
        self.layers = {path: layer.module for path, layer in self._found.items()}
        if not self.layers:
            raise FxpruneError(f"the graph has no layer with a scale to shrink; {why_no_scales(graph_module)}")
        for layer in self._found.values():
            layer.module.follow()
            if layer.module.resting:  # since a SteeredL1
                layer.wake()
        _train_in_processes(graph_module)
        self._measure()
        if isinstance(strength, Mapping):
            unknown = sorted(set(strength) - set(self.layers))
            if unknown:
                raise FxpruneValueError(
                    f"strength names {unknown[0]}, which is no scaled layer; see fxprune.pruning.report(graph)"
                )
            self.strength = {path: float(strength.get(path, 0.0)) for path in self.layers}
        else:
            self.strength = dict.fromkeys(self.layers, float(strength))
        if any(not one >= 0 for one in self.strength.values()):
            raise FxpruneValueError("the strength of an L1 penalty must not be negative")
        self.steps_done = 0
        self._known: _Left | None = None
        self._holders = Holders(graph_module)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._story()})"

    def _story(self) -> str:
        """Return how things stand, in a line."""
        strengths = sorted(set(self.strength.values()))
        told = f"{strengths[0]:g}" + (f" to {strengths[-1]:g}" if strengths[1:] else "")
        return f"strength {told}, step {self.steps_done}: {self._left_now()}"

    def _left_now(self) -> str:
        return (
            f"{len(self.zeros)} of {len(self.layers)} scales are 0, {self.left:.1%} of the MACs and "
            f"{self.params_left:.1%} of the parameters are left"
        )

    def _measure(self) -> None:
        measure_inputs(self.graph_module)

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Shrink every open layer by ``lr`` times its strength; call it after the optimizer's step."""
        require_arguments(ProximalL1.step, locals())
        self.steps_done += 1
        for path, layer in self.layers.items():
            if layer.closed:
                layer.close()  # momentum may have moved it
            else:
                layer.shrink(lr * self.strength[path])

    @property
    def zeros(self) -> list[str]:
        """The paths of the layers whose scale is exactly zero."""
        return [path for path, layer in self.layers.items() if layer.effective_scale == 0]

    @property
    def closed(self) -> list[str]:
        """The paths of the layers that were closed: zero for good."""
        return [path for path, layer in self.layers.items() if layer.closed]

    @property
    def gone(self) -> list[str]:
        """The paths of the layers that go with the closed ones: these, and what lies in closed branches."""
        return self._without_closed().gone

    @property
    def left(self) -> float:
        """The share of the traced graph's MACs that is left without the closed layers."""
        return self._without_closed().macs

    @property
    def params_left(self) -> float:
        """The share of the graph's parameters, those of scales left out, that is left without the closed layers."""
        return self._without_closed().params

    def _without_closed(self) -> _Left:
        """Return what follows, worked out anew only once another layer was closed: every step asks."""
        closed = self.closed
        if self._known is not None and self._known.closed == closed:
            return self._known
        macs, params = total_macs(self.graph_module), total_params(self.graph_module)
        shut = [self._found[path] for path in closed]
        nodes: set[fx.Node] = set().union(*(layer.nodes for layer in shut))
        gone = [path for path, layer in self._found.items() if layer.node in nodes]
        left = float((macs - sum(macs_in_turn(shut))) / self.graph_module.meta.get(TRACED_MACS, macs))
        self._known = _Left(closed, gone, left, 1 - self._holders.only_by(nodes) / max(1, params))
        return self._known

    def close_zeros(self) -> None:
        """Close the layers whose scale is exactly zero: they stay so, and need not be computed any more."""
        still_open = [layer for layer in self.layers.values() if not layer.closed]
        if still_open:
            scales = torch.stack([layer.trained_scale.detach() for layer in still_open]).tolist()  # one read for all
            for layer, scale in zip(still_open, scales, strict=True):
                if scale == 0:
                    layer.close()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside the graph's own state."""
        return {"steps_done": self.steps_done, "closed": self.closed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; load the graph's own state first."""
        self.steps_done = int(state["steps_done"])
        for path in state["closed"]:
            self.layers[path].close()


def _train_in_processes(graph_module: fx.GraphModule) -> None:
    """Have ``graph_module`` train in DistributedDataParallel as it is, whatever rests or closes."""
    keep_all_parameters_in_training(graph_module)
    if is_distributed() and _follow_first_process not in graph_module._forward_pre_hooks.values():
        graph_module.register_forward_pre_hook(_follow_first_process)


def _follow_first_process(graph_module: nn.Module, inputs: Any) -> None:
    """Read what is closed anew: torch gives every process the buffers of the first, and leaves no trace of it."""
    if not torch.compiler.is_compiling():
        follow_together([module for module in every_module(graph_module) if isinstance(module, ScaledLayer)])


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

    A plain L1 term never makes a scale exactly zero; :class:`ProximalL1` does.
    """
    require_arguments(l1_term, locals())
    graph_module = require_graph(graph_module, "l1_term")
    terms = [layer.module.penalty() for layer in layers(graph_module)]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def macs_weighted(graph_module: fx.GraphModule, strength: float) -> dict[str, float]:
    """Return a strength per layer, proportional to its MACs, with mean ``strength``."""
    require_arguments(macs_weighted, locals())
    graph_module = require_graph(graph_module, "macs_weighted")
    macs = {layer.path: layer.macs for layer in layers(graph_module)}
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
    """Return a table of the layers: effective scale, shortcut (of a branch: 1), MACs a sample that it holds."""
    from tabulate import tabulate

    require_arguments(report, locals())
    graph_module = require_graph(graph_module, "report")
    rows = [[one.path, one.module.effective_scale, one.coefficients()[1], one.macs] for one in layers(graph_module)]
    return tabulate(rows, headers=["layer", "scale", "shortcut", "MACs"], floatfmt=".4f", intfmt=",")
