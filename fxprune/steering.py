"""Shrinking layer scales so that a target is met: which layer next, how fast, until enough of them are zero.

shrink = fxprune.SteeredL1(sparse, target_macs=0.5, steps=4000)
for ...:
    loss.backward(); optimizer.step(); shrink.step(lr)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed, fx, nn

from fxprune.arguments import require_arguments
from fxprune.cost_targets import Surplus
from fxprune.errors import FxpruneError, TargetError
from fxprune.facts.input_sizes import root_mean_square
from fxprune.facts.layers import awake
from fxprune.facts.shapes import shape
from fxprune.graph import as_taken_now, example_inputs_of, graphs_of
from fxprune.kept_state import keeping_state
from fxprune.memory_target import MemoryTarget
from fxprune.module_tree import evaluating
from fxprune.nests import tensors_in
from fxprune.scaled_layer import ScaledLayer
from fxprune.sparsity import ProximalL1


class SteeredL1(ProximalL1):
    """A proximal L1 whose strength is steered so that a target is met by exact zeros after a number of steps.

    One layer after the other is shrunk, each over a window of steps, while the others train on as they were at
    insertion: they rest, and cost nothing beside what they scale. Shrinking all at once pulls every layer down before
    any reaches zero, and a gate that nobody asked for can overthrow the training. The next layer is the one whose
    half-closed gate changes the graph's outputs least at that moment, per MAC that its removal saves, weighed by what
    the network cannot learn again: times the square root of the layer's parameters per MAC saved (of two that cost
    the same, the one that reads a larger image with fewer parameters goes first), and over the number of layers left
    whose outputs have its shape (the last of a stage is worth more than the first). Its gate and its shortcut are in
    units of its weights and its input as they are then. A chosen gate falls evenly, by the schedule alone: weights
    are trained, gates are not. A layer that reached zero is closed.
    Under torch.distributed, the first process chooses for all.

    With ``target_memory`` the layers whose removal lowers the peak of activation memory go first, in the same order
    among themselves, until that target is met. With ``target_params`` a layer is weighed by the mean of what it saves
    of the two, in shares of what is to be saved; until it is met, parameters are nothing that had better stay.

    Args:
        graph_module: a graph with BranchScales, or ResConvs in the "gain-gate" parametrisation, or both.
        target_macs: the share of the graph's MACs to leave; all may stay unless it is given.
        target_memory: the share to leave of the most memory that activations take at a time in inference, beside
            weights and inputs, in the network that will be emitted.
        target_params: the share of the graph's parameters to leave, those of scales left out.
        steps: after how many steps the target is met: a quarter of the training, say. A training that ends before has
            fewer zeros than the target needs; ``left`` tells.
        probe_inputs: the inputs on which layers are compared; the graph's example inputs by default.
        window: how long a layer is shrunk: its share of the MACs to save, times the steps, times this (1.5: the next
            starts when the last is two thirds closed).

    Attributes:
        comparing: called before a layer is compared, with how many were before it and how many may be; the first step
            compares all.

    Raises:
        TargetError: a target cannot be met; says what can.
        FxpruneError: there is no target, a share is not in (0, 1], or as :class:`ProximalL1`.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        *,
        steps: int,
        target_macs: float | None = None,
        target_memory: float | None = None,
        target_params: float | None = None,
        probe_inputs: Sequence[Any] | None = None,
        window: float = 1.5,
    ) -> None:
        require_arguments(SteeredL1.__init__, locals())
        if steps < 1:
            raise FxpruneError(f"steps is the number of steps after which the target is met; got {steps}")
        if target_macs is None and target_memory is None and target_params is None:
            raise FxpruneError("SteeredL1 needs a target: give target_macs, target_memory or target_params")
        super().__init__(graph_module, 0.0)
        graph_module = self.graph_module
        if any(layer.parametrization == "free" for layer in self.layers.values()):
            raise FxpruneError("SteeredL1 needs the gain-gate parametrisation; insert with it, or use ProximalL1")
        self.target_macs = target_macs
        self.target_memory = target_memory
        self.target_params = target_params
        self.steps = steps
        self.window = window
        self.order: list[str] = []
        self.comparing: Callable[[int, int], None] = _say_nothing
        self._shares: list[float] = []
        self._damages: dict[str, float] = {}
        self._no_relief: set[str] = set()
        for layer in self._found.values():
            layer.module.train_scale(False)
            if float(layer.module.gate.detach()) == 1 and abs(layer.coefficient() - 1) < 1e-6:
                layer.module.rest()
        self._gates = self._gates_now()
        self._probe = tuple(probe_inputs) if probe_inputs is not None else example_inputs_of(graph_module)
        self._memory = None if target_memory is None else MemoryTarget(graph_module, target_memory)
        self._surplus = Surplus(
            graph_module,
            target_macs=target_macs,
            target_params=target_params,
            least_macs=0 if self._memory is None else self._memory.macs_to_meet_it(),
            holders=self._holders,
        )
        self._params = {path: max(1, self._surplus.params_of(layer)) for path, layer in self._found.items()}
        self._enough_chosen = self._is_enough_chosen()
        shares = self._surplus.shares(self._found.values(), ())
        self._end = 1 + (window - 1) * sum(shares.values()) / len(shares)  # when the last layer is about closed

    def _measure(self) -> None:
        """Nothing: a layer's input is measured when the layer is compared, on the probe."""

    @property
    def is_met(self) -> bool:
        """Whether the graph without its closed layers meets all targets."""
        return self._enough_chosen and all(self.layers[path].closed for path in self.order)

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move every chosen gate towards zero as the schedule asks; the others stay as they are."""
        require_arguments(SteeredL1.step, locals())
        self.steps_done += 1
        for path, layer in self.layers.items():
            if path not in self.order and not layer.closed and (not layer.resting or layer.gate.requires_grad):
                layer.gate.fill_(self._gates[path])  # before the choice, which compares layers as they are
        time = self.steps_done / self.steps * self._end  # in shares of the MACs to save
        while (time >= sum(self._shares) or self.steps_done >= self.steps) and not self._enough_chosen:
            for path, layer in self.layers.items():
                if layer.resting:
                    layer.gate.fill_(
                        self._gates[path]
                    )  # an optimizer may have moved it, which costs nothing till now
            path, share = self._next_layer()
            self.order.append(path)
            self._shares.append(share)
            self._enough_chosen = self._is_enough_chosen()
            if self.layers[path].resting:
                self._wake(path)
        for path, layer in self.layers.items():
            if layer.closed:
                layer.close()  # momentum may have moved it
            elif path in self.order:
                index = self.order.index(path)
                span = max(self.window * self._shares[index], self._end / self.steps)
                highest = 1 - (time - sum(self._shares[:index])) / span
                if highest <= 1e-9 or self.steps_done >= self.steps:
                    layer.close()
                    continue
                self._gates[path] = min(self._gates[path], highest)
                layer.gate.fill_(self._gates[path])

    def _wake(self, path: str) -> None:
        self._found[path].wake()
        self.layers[path].train_scale(False)

    def _is_enough_chosen(self) -> bool:
        chosen = [self._found[path] for path in self.order]
        return self._surplus.is_met(chosen) and (self._memory is None or not self._memory.excess(chosen))

    def _next_layer(self) -> tuple[str, float]:
        """Return the layer whose half-closed gate changes the outputs least for what it saves, and that share."""
        chosen = [self._found[path] for path in self.order]
        gone: set[fx.Node] = set().union(*(layer.nodes for layer in chosen))  # with what lies in a chosen branch
        left = [layer for path, layer in self._found.items() if layer.node not in gone and path not in self.order]
        shares = self._surplus.shares(left, chosen)
        candidates = list(shares)
        if not candidates:
            raise TargetError(
                f"target_memory={self.target_memory:g} cannot be met: no layer is left to remove; ask for more"
            )
        params_must_go = self._surplus.params_left(chosen) > 0
        alike = Counter(shape(layer.node) for layer in left)
        weights = {}
        for layer in left:
            share = max(shares[layer.path], 1e-9)
            kept = 1.0 if params_must_go else (self._params[layer.path] / share) ** 0.5
            weights[layer.path] = kept / share / alike[shape(layer.node)]
        damages = self._damages_of(candidates, weights, self._relief())
        path = self._agreed(min(damages, key=lambda path: damages[path] * weights[path]))
        return path, shares[path]

    def _relief(self) -> Callable[[str], bool] | None:
        """Return what says of a layer whether its removal brings memory nearer to its target; None if that is met."""
        if self._memory is None:
            return None
        memory, chosen = self._memory, [self._found[path] for path in self.order]
        excess = memory.excess(chosen)

        def relieves(path: str) -> bool:
            if path not in self._no_relief and memory.excess([*chosen, self._found[path]]) >= excess:
                self._no_relief.add(path)  # the less is left, the less likely it will
            return path not in self._no_relief

        return relieves if excess else None

    def _agreed(self, choice: str) -> str:
        """Return the first process's choice, and take over its units: each process has statistics of its own."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return choice
        resconvs = {path: layer for path, layer in self.layers.items() if layer.has_shortcut}
        known: list[Any] = [choice, {path: float(layer.unit("input_rms")) for path, layer in resconvs.items()}]
        distributed.broadcast_object_list(known, src=0)
        for path, layer in resconvs.items():
            layer.set_units(input_rms=known[1][path])
        agreed: str = known[0]
        return agreed

    def _damages_of(
        self, candidates: list[str], weights: Mapping[str, float], relieves: Callable[[str], bool] | None = None
    ) -> dict[str, float]:
        """Return the output change of each candidate that may be the least, times its weight.

        Only of those that relieve the memory, if there are any.
        Closing a layer seldom makes another one easier to miss, so those known from an earlier turn to do more damage
        than the best so far are not tried again (lazy greedy, Minoux 1978).
        """
        graphs = dict(graphs_of(self.graph_module))
        references: dict[str, list[torch.Tensor]] = {}
        found: dict[str, float] = {}
        best = math.inf
        with evaluating(self.graph_module):
            ranked = sorted(candidates, key=lambda path: self._damages.get(path, 0.0) * weights[path])
            for number, path in enumerate(ranked):
                if self._damages.get(path, 0.0) * weights[path] > best:
                    break
                self.comparing(number, len(ranked))
                if relieves is not None and not relieves(path):
                    continue
                region = self._found[path].region
                # What opaque code returns may jump with the data: a region is compared by its own outputs.
                probe = example_inputs_of(graphs[region]) if region else as_taken_now(graphs[""], self._probe)
                if region not in references:
                    with self._measuring_inputs(region):
                        references[region] = _outputs(graphs[region], probe)
                with awake(self._found[path]):
                    self.layers[path].gate.div_(2)
                    found[path] = _relative_difference(references[region], _outputs(graphs[region], probe))
                best = min(best, found[path] * weights[path])
        self._damages |= found
        if not found and relieves is not None:
            self._no_relief.clear()  # it takes more than one of them
            return self._damages_of(candidates, weights)
        return found

    @contextmanager
    def _measuring_inputs(self, region: str) -> Iterator[None]:
        """Take the size of what ResConvs read as their shortcut's unit, where that changes nothing."""

        def measuring(module: ScaledLayer) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
            def measure(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:  # a copy may stand in for it
                rms = root_mean_square(inputs[0])
                if 0 < rms < math.inf:
                    module.set_units(input_rms=rms)

            return measure

        modules = [self.layers[path] for path, layer in self._found.items() if layer.region == region]
        untouched = [one for one in modules if one.untouched]
        handles = [one.register_forward_pre_hook(measuring(one)) for one in untouched]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _gates_now(self) -> dict[str, float]:
        return {path: float(layer.trained_scale.detach()) for path, layer in self.layers.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside the graph's own state."""
        return {
            **super().state_dict(),
            "order": list(self.order),
            "shares": list(self._shares),
            "damages": dict(self._damages),
            "no_relief": sorted(self._no_relief),
            "gates": dict(self._gates),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; load the graph's own state too, before or afterwards."""
        super().load_state_dict(state)
        self.order = list(state["order"])
        self._shares = list(state["shares"])
        self._damages = dict(state["damages"])
        self._no_relief = set(state.get("no_relief", ()))
        for path, layer in self.layers.items():
            if path in self.order and layer.resting:  # it was chosen in the last step, and its gate is still 1
                self._found[path].wake()
            layer.train_scale(False)
        self._gates = {**self._gates_now(), **state.get("gates", {})}
        self._enough_chosen = self._is_enough_chosen()


def _say_nothing(done: int, of: int) -> None:
    """Take note of nothing."""


def _outputs(graph: fx.GraphModule, probe: Any) -> list[torch.Tensor]:
    """Return what ``graph`` returns in its present state, which stays."""
    with keeping_state(graph):
        return tensors_in(graph(*probe))


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
