"""Shrinking the layer scales while a network trains, in the user's own loop.

    shrink = fxprune.ProximalL1(sparse, strength=1e-3)
    for ...:
        loss.backward(); optimizer.step(); shrink.step(lr)

L1 acts on the gate alone (see :mod:`fxprune.resconv` and :mod:`fxprune.branch_scale`), after the optimizer's step,
so that gates become exactly zero: removing such a layer changes nothing. An optimizer must have been made from the
sparse graph's parameters, not from those of the model that was traced.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tabulate import tabulate
from torch import distributed, fx, nn

from fxprune.branch_scale import BranchScale
from fxprune.errors import FxpruneError
from fxprune.facts.costs import total_macs
from fxprune.facts.layers import Layer, count_for_target, layers
from fxprune.graph import TRACED_MACS, evaluating, example_inputs_of, graphs_of
from fxprune.nests import map_tensors, tensors_in
from fxprune.resconv import ResConv

__all__ = [
    "ProximalL1",
    "SteeredL1",
    "l1_term",
    "macs_weighted",
    "parameter_groups",
    "report",
]


class ProximalL1:
    """The proximal step of an L1 penalty on the layer scales, with a strength that the user fixes.

    Args:
        graph_module: a graph with ResConvs, BranchScales, or both.
        strength: the penalty's weight, one number or one a layer (by path, see :func:`macs_weighted`);
            a gate falls by ``lr * strength`` a step, against what the loss's gradient does.

    Raises:
        FxpruneError: the graph has no such layers, or a strength names none.
    """

    def __init__(self, graph_module: fx.GraphModule, strength: float | Mapping[str, float] = 1e-3) -> None:
        self.graph_module = graph_module
        self._found = {layer.path: layer for layer in layers(graph_module)}
        self.layers = {path: layer.module for path, layer in self._found.items()}
        if not self.layers:
            raise FxpruneError(
                "the graph has no layers to shrink; apply passes.InsertResConv or passes.InsertBranchScale first"
            )
        if isinstance(strength, Mapping):
            unknown = sorted(set(strength) - set(self.layers))
            if unknown:
                raise FxpruneError(
                    f"strength names {unknown[0]}, which is no scaled layer; see sparsity.report(graph)"
                )
            self.strength = {path: float(strength.get(path, 0.0)) for path in self.layers}
        else:
            self.strength = dict.fromkeys(self.layers, float(strength))
        self.steps_done = 0

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Shrink every open layer by ``lr`` times its strength; call it after the optimizer's step."""
        self.steps_done += 1
        for path, layer in self.layers.items():
            if layer.closed:
                layer.close()  # momentum may have moved it
            else:
                _shrink(layer, lr * self.strength[path])

    @property
    def zeros(self) -> list[str]:
        """The paths of the layers whose scale is exactly zero."""
        return [path for path, layer in self.layers.items() if layer.effective_scale == 0]

    @property
    def closed(self) -> list[str]:
        """The paths of the layers that were closed: zero for good."""
        return [path for path, layer in self.layers.items() if layer.closed]

    @property
    def left(self) -> float:
        """The share of the traced graph's MACs that is left without the closed layers."""
        macs = total_macs(self.graph_module)
        gone: set[fx.Node] = set()
        saved = 0
        for path in self.closed:
            saved += self._found[path].macs_beside(gone)
            gone |= self._found[path].nodes
        return float((macs - saved) / self.graph_module.meta.get(TRACED_MACS, macs))

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


def _is_free(layer: ResConv | BranchScale) -> bool:
    return isinstance(layer, ResConv) and layer.parametrization == "free"


def _shrink(layer: ResConv | BranchScale, amount: float) -> None:
    if isinstance(layer, ResConv) and layer.parametrization == "free":
        scale = layer.free_scale
        scale.copy_(scale.sign() * (scale.abs() - amount).clamp(min=0))
    else:
        layer.gate.sub_(amount).clamp_(0, 1)


class SteeredL1(ProximalL1):
    """A proximal L1 whose strength is steered so that a target is met by exact zeros after a number of steps.

    One layer after the other is shrunk, each over a window of steps, while the others train on: shrinking all
    at once pulls every layer down before any reaches zero. The next layer is the one whose half-closed
    gate changes the graph's outputs least at that moment, per MAC that its removal saves. A layer that reached zero
    is closed. Under torch.distributed, the first process chooses for all.

    Args:
        graph_module: a graph with BranchScales, or ResConvs in the "gain-gate" parametrisation, or both.
        target_macs: the share of the graph's MACs to leave.
        steps: after how many steps the target is met.
        probe_inputs: the inputs on which layers are compared; the graph's example inputs by default.
        window: over how many turns a layer is shrunk (2: the next starts when the last is half closed).

    Raises:
        TargetError: the target cannot be met; says what can.
        FxpruneError: as :class:`ProximalL1`.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        *,
        target_macs: float,
        steps: int,
        probe_inputs: Sequence[Any] | None = None,
        window: float = 1.5,
    ) -> None:
        super().__init__(graph_module, 0.0)
        if any(_is_free(layer) for layer in self.layers.values()):
            raise FxpruneError("SteeredL1 needs the gain-gate parametrisation; insert with it, or use ProximalL1")
        self.target_macs = target_macs
        self.steps = max(1, steps)
        self.window = window
        self.order: list[str] = []
        self._damages: dict[str, float] = {}
        self._probe = tuple(probe_inputs) if probe_inputs is not None else example_inputs_of(graph_module)
        count_for_target(graph_module, list(self._found.values()), target_macs)  # raises if it cannot be met
        macs = total_macs(graph_module)
        self._surplus = macs - target_macs * graph_module.meta.get(TRACED_MACS, macs)
        mean = sum(layer.macs for layer in self._found.values()) / len(self._found)
        self._turns = min(len(self._found), max(0, math.ceil(self._surplus / mean)))

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move every chosen gate towards zero as the schedule asks, and keep the others in [0, 1]."""
        self.steps_done += 1
        turn = self.steps_done / self.steps * (max(self._turns, 1) - 1 + self.window)
        while (len(self.order) <= turn or self.steps_done >= self.steps) and not self._target_is_met():
            self.order.append(self._next_layer())
        for path, layer in self.layers.items():
            if layer.closed:
                layer.close()  # momentum may have moved it
                continue
            highest = 1.0
            if path in self.order:
                highest = min(1.0, 1 - (turn - self.order.index(path)) / self.window)
                if highest <= 1e-9 or self.steps_done >= self.steps:
                    layer.close()
                    continue
            layer.gate.clamp_(0, highest)

    def _target_is_met(self) -> bool:
        chosen = [self._found[path] for path in self.order]
        rest = [layer for path, layer in self._found.items() if path not in self.order]
        return count_for_target(self.graph_module, chosen + rest, self.target_macs) <= len(chosen)

    def _next_layer(self) -> str:
        """Return the layer, per MAC saved, whose half-closed gate changes the outputs least."""
        gone: set[fx.Node] = set()
        surplus = self._surplus
        for path in self.order:
            surplus -= self._found[path].macs_beside(gone)
            gone |= self._found[path].nodes
        # What lies in a chosen branch goes with it, and what saves more than is asked for is worth no more.
        saved = {
            path: min(layer.macs_beside(gone), surplus)
            for path, layer in self._found.items()
            if layer.node not in gone
        }
        candidates = [path for path in saved if path not in self.order]
        damages = self._damages_of(candidates, saved)
        return _agreed(min(damages, key=lambda path: damages[path] / max(saved[path], 1)))

    def _damages_of(self, candidates: list[str], saved: Mapping[str, int]) -> dict[str, float]:
        """Return the output change of each candidate that may be the least, per MAC saved.

        Closing a layer seldom makes another one easier to miss, so those known from an earlier turn to do more damage
        than the best so far are not tried again (lazy greedy, Minoux 1978).
        """
        graphs = dict(graphs_of(self.graph_module))
        device = self.layers[candidates[0]].gate.device
        references: dict[str, list[torch.Tensor]] = {}
        found: dict[str, float] = {}
        best = math.inf
        with evaluating(self.graph_module):
            for path in sorted(candidates, key=lambda path: self._damages.get(path, 0.0) / max(saved[path], 1)):
                if self._damages.get(path, 0.0) / max(saved[path], 1) > best:
                    break
                region, gate = self._found[path].region, self.layers[path].gate
                # What opaque code returns may jump with the data: a region is compared by its own outputs.
                inputs = example_inputs_of(graphs[region]) if region else self._probe
                probe = map_tensors(tuple(inputs), lambda tensor: tensor.to(device))
                if region not in references:
                    references[region] = tensors_in(graphs[region](*probe))
                before = gate.clone()
                gate.div_(2)
                found[path] = _relative_difference(references[region], tensors_in(graphs[region](*probe)))
                gate.copy_(before)
                best = min(best, found[path] / max(saved[path], 1))
        self._damages |= found
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside the graph's own state."""
        return {**super().state_dict(), "order": list(self.order), "damages": dict(self._damages)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; load the graph's own state first."""
        super().load_state_dict(state)
        self.order = list(state["order"])
        self._damages = dict(state["damages"])


def _agreed(choice: str) -> str:
    """Return the first process's choice; arithmetic may differ by a last bit between devices."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return choice
    choices = [choice]
    distributed.broadcast_object_list(choices, src=0)
    return choices[0]


def _relative_difference(reference: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """Return the root mean square of the difference over that of ``reference``; infinite for other shapes."""
    gap = size = 0.0
    for a, b in zip(reference, other, strict=True):
        if a.shape != b.shape:
            return math.inf
        if a.is_floating_point():
            gap += float((a.double() - b.double()).square().mean())
            size += float(a.double().square().mean())
    return math.sqrt(gap / size) if size else math.sqrt(gap)


def l1_term(graph_module: fx.GraphModule) -> torch.Tensor:
    """Return the sum of all gates ("gain-gate") or |scales| ("free"), differentiable, to add to a loss.

    A plain L1 term never makes a scale exactly zero; :class:`ProximalL1` does.
    """
    terms = [
        layer.module.free_scale.abs()
        if isinstance(layer.module, ResConv) and layer.module.parametrization == "free"
        else layer.module.gate
        for layer in layers(graph_module)
    ]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def macs_weighted(graph_module: fx.GraphModule, strength: float) -> dict[str, float]:
    """Return a strength per layer, proportional to its MACs, with mean ``strength``."""
    macs = {layer.path: layer.macs for layer in layers(graph_module)}
    mean = sum(macs.values()) / max(len(macs), 1)
    return {path: strength * count / mean for path, count in macs.items()}


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return optimizer groups in which layer scales, norms and biases have no weight decay."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    rest = [p for p in model.parameters() if p.requires_grad and p.dim() <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def report(graph_module: fx.GraphModule) -> str:
    """Return a table of the layers: effective scale, shortcut (of a branch: 1), MACs a sample that it holds."""
    rows = [[layer.path, layer.scale, _shortcut(layer), layer.macs] for layer in layers(graph_module)]
    return tabulate(rows, headers=["layer", "scale", "shortcut", "MACs"], floatfmt=".4f", intfmt=",")


def _shortcut(layer: Layer) -> float:
    return layer.module.coefficients()[1] if isinstance(layer.module, ResConv) else 1.0
