"""Shrinking layer scales so that targets are met: which layer next, how fast, until enough of them are zero.

shrink = fxprune.SteeredL1(sparse, targets=fxprune.Targets(macs=0.5), meet_after=4000)
for ...:
    loss.backward(); optimizer.step(); shrink.step(lr)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import distributed, fx

from fxprune.choosing.named import known_criteria, known_searches, made
from fxprune.choosing.plan import Plan
from fxprune.choosing.samples import Samples
from fxprune.choosing.schedule import Schedule
from fxprune.choosing.targets import Targets
from fxprune.errors import FxpruneError, TargetError
from fxprune.facts.shapes import shape
from fxprune.ir.arguments import require_arguments
from fxprune.ir.nodes import example_inputs_of
from fxprune.pruning.old_names import old_steps, old_targets, takes_old_names
from fxprune.pruning.proximal import ProximalL1
from fxprune.pruning.surplus import Surplus
from fxprune.structures.gated_layers import Gate

_USUAL = Plan()


class SteeredL1(ProximalL1):
    """A proximal L1 whose strength is steered so that targets are met by exact zeros after a number of steps.

    One layer after the other is shrunk, each over a window of steps, while the others train on as they were at
    insertion: they rest, and cost nothing beside what they scale. Shrinking all at once pulls every layer down before
    any reaches zero, and a gate that nobody asked for can overthrow the training. The next layer is the one whose
    half-closed gate changes the graph's outputs least at that moment, per MAC that its removal saves, weighed by what
    the network cannot learn again: times the square root of the layer's parameters per MAC saved (of two that cost
    the same, the one that reads a larger image with fewer parameters goes first), and over the number of layers left
    whose outputs have its shape (the last of a stage is worth more than the first). The last one is, of those that
    each save all that is still missing, the one for which this, times what it saves over what it leaves, is least: it
    overshoots little. Gates and shortcuts are in units of the weights and the input at the choice. A chosen gate
    falls evenly, by the schedule alone (:class:`fxprune.choosing.schedule.Schedule`): weights are trained, gates are
    not. A layer that reached zero is closed. Under torch.distributed, the first process chooses for all.

    With a target of memory the layers whose removal lowers the peak of activation memory go first, in the same order
    among themselves, until that target is met. With one of parameters a layer is weighed by the mean of what it saves
    of the two, in shares of what is to be saved; until it is met, parameters are nothing that had better stay.

    Args:
        graph_module: a graph with BranchScales, or ResConvs in the "gain-gate" parametrisation, or both.
        targets: the shares of the graph's costs to leave; one at least.
        meet_after: after how many steps the targets are met: a quarter of the training, say. A training that ends
            before has fewer zeros than the targets need; ``left`` tells.
        probe_inputs: the inputs on which layers are compared; the graph's example inputs by default.
        plan: by which criterion layers are compared, how the next is searched, and how fast it closes.

    Attributes:
        comparing: called before a layer is compared, with how many were before it and how many may be; the first step
            compares all.

    Raises:
        TargetError: a target cannot be met; says what can.
        FxpruneError: there is no target, no such criterion or search, or as :class:`ProximalL1`.
    """

    @takes_old_names(targets=old_targets, meet_after=old_steps, plan=Plan)
    def __init__(
        self,
        graph_module: fx.GraphModule,
        *,
        targets: Targets,
        meet_after: int,
        probe_inputs: Sequence[Any] | None = None,
        plan: Plan = _USUAL,
    ) -> None:
        require_arguments(SteeredL1.__init__, locals())
        if meet_after < 1:
            raise FxpruneError(f"meet_after is the number of steps after which targets are met; got {meet_after}")
        if targets.is_empty:
            raise FxpruneError("SteeredL1 needs a target: give one in Targets, as Targets(macs=0.5)")
        super().__init__(graph_module, 0.0)
        graph_module = self.graph_module
        if any(layer.parametrization == "free" for layer in self.layers.values()):
            raise FxpruneError("SteeredL1 needs the gain-gate parametrisation; insert with it, or use ProximalL1")
        self.targets = targets
        self.meet_after = meet_after
        self.plan = plan
        self.criterion = made(plan.criterion, known_criteria(), "criterion")
        self.search = made(plan.search, known_searches(), "search")
        self.order: list[str] = []
        self.comparing: Callable[[int, int], None] = _say_nothing
        self._damages: dict[str, float] = {}
        self._no_relief: set[str] = set()
        for layer in self._found.values():
            layer.module.train_scale(False)
            if float(layer.module.gate.detach()) == 1 and abs(layer.coefficient() - 1) < 1e-6:
                layer.module.rest()
        self._gates = self._gates_now()
        self._probe = tuple(probe_inputs) if probe_inputs is not None else example_inputs_of(graph_module)
        self._surplus = Surplus(graph_module, targets, self._holders)
        self._params = {path: max(1, self._holders.only_by(one.nodes)) for path, one in self._found.items()}
        self._enough_chosen = self._surplus.is_met(())
        self._schedule = Schedule(meet_after, plan.window, self._surplus.shares(self._found.values(), ()).values())

    def _story(self) -> str:
        return f"{self.targets} after {self.meet_after} steps, step {self.steps_done}: {self._left_now()}"

    def _measure(self) -> None:
        """Nothing: a layer's input is measured when the layer is compared, on the probe."""

    @property
    def is_met(self) -> bool:
        """Whether the graph without its closed layers meets all targets."""
        return self._enough_chosen and all(self.layers[path].closed for path in self.order)

    @torch.no_grad()
    def step(self, lr: float | None = None) -> None:
        """Move every chosen gate towards zero as the schedule asks; the others stay as they are.

        A learning rate may be given, as :meth:`ProximalL1.step` needs it, so that one loop serves both: it changes
        nothing.
        """
        require_arguments(SteeredL1.step, locals())
        self.steps_done += 1
        for path, layer in self.layers.items():
            if path not in self.order and not layer.closed and (not layer.resting or layer.gate.requires_grad):
                layer.gate.fill_(self._gates[path])  # before the choice, which compares layers as they are
        while self._schedule.wants_another(self.steps_done) and not self._enough_chosen:
            self._choose()
        for path, layer in self.layers.items():
            if layer.closed:
                layer.close()  # momentum may have moved it
            elif path in self.order:
                self._lower(path)

    def _choose(self) -> None:
        for path, layer in self.layers.items():
            if layer.resting:  # an optimizer may have moved its gate, which costs nothing till now
                layer.gate.fill_(self._gates[path])
        path, share = self._next_layer()
        self.order.append(path)
        self._schedule.shares.append(share)
        self._enough_chosen = self._surplus.is_met(self._chosen())
        if self.layers[path].resting:
            self._found[path].wake()
            self.layers[path].train_scale(False)

    def _lower(self, path: str) -> None:
        """Lower a chosen gate to where the schedule has it now."""
        layer = self.layers[path]
        highest = self._schedule.gate(self.order.index(path), self.steps_done)
        if not highest:
            layer.close()
            return
        self._gates[path] = min(self._gates[path], highest)
        layer.gate.fill_(self._gates[path])

    def _chosen(self) -> list[Gate]:
        return [self._found[path] for path in self.order]

    def _next_layer(self) -> tuple[str, float]:
        """Return the layer that is missed least for what it saves, and its share of all that is to be saved."""
        left = self._left_beside(self._chosen())
        shares = self._surplus.shares(left, self._chosen())
        samples = Samples.of_inputs(self._probe)
        with self.criterion.measuring(self.graph_module, self._found.values(), samples) as missed:
            path = self._searched(left, self._weights(left, shares), missed)
        path = self._agreed(path)
        return path, shares[path]

    def _left_beside(self, chosen: Sequence[Gate]) -> list[Gate]:
        """Return the layers that may still go: those that lie in a chosen branch go with it."""
        gone: set[fx.Node] = set().union(*(layer.nodes for layer in chosen))
        left = [layer for path, layer in self._found.items() if layer.node not in gone and path not in self.order]
        if not left:
            raise TargetError(f"the targets cannot be met, {self.targets}: no layer is left to remove; ask for more")
        return left

    def _searched(self, left: Sequence[Gate], weights: Mapping[str, float], missed: Callable[[Gate], float]) -> str:
        """Return the path of the next: of those that relieve the memory, if that is asked for."""
        damage = cache(lambda path: missed(self._found[path]))

        def search(weights: Mapping[str, float], may_go: Callable[[str], bool] = _is_candidate) -> str | None:
            return self.search.next_layer(weights, self._damages, damage, may_go, self.comparing)

        chosen, relieves = self._chosen(), self._relief()
        path = search(weights, relieves or _is_candidate)
        if path is None:
            self._no_relief.clear()  # it takes more than one of them
            path = search(weights)
        assert path is not None
        if relieves is None and self._surplus.is_met([*chosen, self._found[path]]):
            beyond = self._surplus.overshoots(left, chosen)
            path = search({one: weights[one] * beyond[one] for one in beyond}) or path
        return path

    def _weights(self, left: Sequence[Gate], shares: Mapping[str, float]) -> dict[str, float]:
        """Return by path what a layer's damage counts times: the less it saves and can be learnt again, the more."""
        params = self._surplus.params
        params_must_go = params is not None and params.excess(self._chosen()) > 0
        alike = Counter(shape(layer.node) for layer in left)
        weights = {}
        for layer in left:
            share = max(shares[layer.path], 1e-9)
            kept = 1.0 if params_must_go else (self._params[layer.path] / share) ** 0.5
            weights[layer.path] = kept / share / alike[shape(layer.node)]
        return weights

    def _relief(self) -> Callable[[str], bool] | None:
        """Return what says of a layer whether its removal brings memory nearer to its target; None if that is met."""
        if self._surplus.memory is None:
            return None
        memory, chosen = self._surplus.memory, self._chosen()
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

    def _gates_now(self) -> dict[str, float]:
        return {path: float(layer.trained_scale.detach()) for path, layer in self.layers.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside the graph's own state."""
        return {
            **super().state_dict(),
            "order": list(self.order),
            "shares": list(self._schedule.shares),
            "damages": dict(self._damages),
            "no_relief": sorted(self._no_relief),
            "gates": dict(self._gates),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; load the graph's own state too, before or afterwards."""
        super().load_state_dict(state)
        self.order = list(state["order"])
        self._schedule.shares = list(state["shares"])
        self._damages = dict(state["damages"])
        self._no_relief = set(state.get("no_relief", ()))
        for path, layer in self.layers.items():
            if path in self.order and layer.resting:  # it was chosen in the last step, and its gate is still 1
                self._found[path].wake()
            layer.train_scale(False)
        self._gates = {**self._gates_now(), **state.get("gates", {})}
        self._enough_chosen = self._surplus.is_met(self._chosen())


def _is_candidate(path: str) -> bool:
    return True


def _say_nothing(done: int, of: int) -> None:
    """Take note of nothing."""
