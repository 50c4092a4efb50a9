"""Shrinking scales so that targets are met: which layer or channels next, how fast, until enough of them are zero.

shrink = fxprune.SteeredL1(sparse, targets=fxprune.Targets(macs=0.5), meet_after=4000)
for ...:
    loss.backward(); optimizer.step(); shrink.step(lr)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import distributed, fx

from fxprune.choosing.criteria.base import Criterion
from fxprune.choosing.plan import Plan
from fxprune.choosing.remaining import Site
from fxprune.choosing.schedule import Schedule
from fxprune.choosing.search.base import Search
from fxprune.choosing.targets import Targets
from fxprune.choosing.time_asked import require_latency
from fxprune.costs.latency.latency_table import table_of
from fxprune.errors import FxpruneError, FxpruneWarning, TargetError
from fxprune.ir.arguments import require_arguments
from fxprune.ir.nodes import example_inputs_of
from fxprune.ir.processes import is_distributed
from fxprune.pruning.clock import Clock
from fxprune.pruning.closing import Closing, shares_of
from fxprune.pruning.next_site import NextSite
from fxprune.pruning.old_names import old_steps, old_targets, takes_old_names
from fxprune.pruning.predictions import Latency, of_the_first
from fxprune.pruning.proximal import ProximalL1
from fxprune.structures.channel_chunk import Chunk

_USUAL = Plan()
_NOTHING = Targets()


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

    Channels go in chunks: of each group of them those that are worth least at that moment
    (:mod:`fxprune.choosing.chunks`), an eighth of it. A chunk is compared as a layer is; of its kind are left as many
    as its group has chunks left, so that groups get narrower together. A conv's removal would tie the channels that
    it reads to those that it makes: where one goes, channels of neither do, and the other way round.

    With a target of memory the layers whose removal lowers the peak of activation memory go first, in the same order
    among themselves, until that target is met. With one of parameters a layer is weighed by the mean of what it saves
    of the two, in shares of what is to be saved; until it is met, parameters are nothing that had better stay. With
    one in time milliseconds are saved, as ``latency`` predicts them, and channels go in steps that save any.

    Args:
        graph_module: a graph with BranchScales, ResConvs in the "gain-gate" parametrisation, gates of channels, or
            several of these.
        targets: the shares of the graph's costs to leave; one at least, unless ``closing`` says what goes.
        meet_after: after how many steps the targets are met: a quarter of the training, say. A training that ends
            before has fewer zeros than the targets need; ``left`` tells.
        probe_inputs: the inputs on which layers are compared; the graph's example inputs by default.
        plan: by which criterion layers are compared, how the next is searched, and how fast it closes.
        closing: what closes, in turn, and nothing else (:func:`fxprune.pruning.closing.closing_of` a plan); what each
            saves of the MACs is its share of the time.
        latency: what predicts times, for a target of these: a :class:`fxprune.LatencyModel`, whose conditions say on
            what device, and for how large a batch. As the target comes near the network is timed as it would be
            emitted, and predictions are corrected (:class:`fxprune.pruning.clock.Clock`). In several processes that
            of the first one counts.

    Attributes:
        order: what was chosen, in turn: the paths of layers, and the keys of ``chunks``.
        chunks: the places, in the gate of their group, of the channels that were chosen together.
        clock: what was timed, beside what was predicted.
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
        targets: Targets = _NOTHING,
        meet_after: int,
        probe_inputs: Sequence[Any] | None = None,
        plan: Plan = _USUAL,
        closing: Closing | None = None,
        latency: Latency | None = None,
    ) -> None:
        require_arguments(SteeredL1.__init__, locals())
        require_latency(targets, table_of(latency), "SteeredL1")
        if meet_after < 1:
            raise FxpruneError(f"meet_after is the number of steps after which targets are met; got {meet_after}")
        if targets.is_empty and closing is None:
            raise FxpruneError("SteeredL1 needs a target: give one in Targets, as Targets(macs=0.5)")
        if not targets.is_empty and closing is not None:
            raise FxpruneError(f"{targets}: closing says what goes; leave one of the two out")
        self.latency = of_the_first(latency)
        super().__init__(graph_module, 0.0)
        graph_module = self.graph_module
        if any(layer.parametrization == "free" for layer in self.layers.values()):
            raise FxpruneError("SteeredL1 needs the gain-gate parametrisation; insert with it, or use ProximalL1")
        self.targets = targets
        self.meet_after = meet_after
        self.plan = plan
        self.order: list[str] = []
        self.chunks: dict[str, list[int]] = {}
        self.comparing: Callable[[int, int], None] = _say_nothing
        for layer in self._found.values():
            layer.module.train_scale(False)
            if float(layer.module.gate.detach()) == 1 and abs(layer.coefficient() - 1) < 1e-6:
                layer.module.rest()
        for group in self._groups.values():
            group.module.train_scale(False)
            if bool((group.module.gate.detach() == 1).all()):
                group.module.rest()
        self._gates = self._gates_now()
        self._shut_before = super().closed_channels
        self._scales = self._scales_now()
        self._probe = tuple(probe_inputs) if probe_inputs is not None else example_inputs_of(graph_module)
        self.clock = Clock(self._remaining, targets, self.latency)
        self._next = NextSite(graph_module, self._remaining, targets, plan, self._probe)
        self._closing = closing
        self._planned = self._planned_sites()
        self._planned_shares = shares_of(self._planned or (), self._remaining)
        if self.clock.look(self._chosen()) and self._next.surplus.time is not None:
            self._next.surplus.time.require_possible()  # as corrected, while nothing is lost
        self._enough_chosen, self._is_short = self._is_enough(), False
        shares = self._planned_shares or self._next.surplus.shares(self._next.first(), ()).values()
        self._schedule = Schedule(meet_after, plan.window, shares)

    def _is_enough(self) -> bool:
        """Say whether nothing else has to be chosen."""
        if self._planned is not None:
            return len(self.order) == len(self._planned)
        return self._next.surplus.is_met(self._chosen())

    @property
    def criterion(self) -> Criterion:
        """By which layers and chunks of channels are compared."""
        return self._next.criterion

    @property
    def within(self) -> Criterion:
        """By which the channels of a group are."""
        return self._next.within

    @property
    def search(self) -> Search:
        """Which of what was compared is next."""
        return self._next.search

    def _planned_sites(self) -> list[Site] | None:
        """Return what a plan closes, in turn."""
        return None if self._closing is None else [*self._closing.sites(self._remaining, self._next.chunks.sizes)]

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and files hold: nothing that follows from the graph."""
        known = self._next.damages, self._next.no_relief
        return {**super().__getstate__(), "_planned": None, "_next": known, "clock": self.clock.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`__getstate__` returned."""
        super().__setstate__(state)
        damages, no_relief = state["_next"]
        self.clock = Clock(self._remaining, self.targets, self.latency, state.get("clock"))
        given = self.graph_module, self._remaining, self.targets, self.plan, self._probe
        self._next = NextSite(*given, training=True)
        self._next.limit_time(self.clock.targets.milliseconds)
        self._next.damages, self._next.no_relief = damages, no_relief
        self._planned = self._planned_sites()

    def _story(self) -> str:
        what = self.targets if self._planned is None else "a plan"
        return f"{what} after {self.meet_after} steps, step {self.steps_done}: {self._left_now()}"

    def _measure(self) -> None:
        """Nothing: a layer's input is measured when the layer is compared, on the probe."""

    @property
    def is_met(self) -> bool:
        """Whether the graph without its closed layers meets all targets, or all of a plan is closed."""
        return self.is_settled and not self._is_short

    @property
    def is_settled(self) -> bool:
        """Whether all is closed that will be: targets are met, or a time cannot be, by the clock."""
        return self._enough_chosen and all(
            self._is_shut(key) if key in self.chunks else self.layers[key].closed for key in self.order
        )

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
        for path, scales in self._scales.items():
            if not self.channels[path].resting or self.channels[path].gate.requires_grad:
                self.channels[path].gate.copy_(scales)
        while self._schedule.wants_another(self.steps_done) and not self._enough_chosen:
            self._choose_if_possible()
        for path, layer in self.layers.items():
            if layer.closed:
                layer.close()  # momentum may have moved it
            elif path in self.order:
                self._lower(path)
        for key in self.chunks:
            self._lower_chunk(key)

    def _choose_if_possible(self) -> None:
        """Choose; where the clock says what no prediction did, that nothing left meets a time, warn and train on."""
        try:
            self._choose()
        except TargetError as error:
            if not self.clock.points:
                raise
            self._enough_chosen = self._is_short = True
            warnings.warn(f"{error}; the training goes on without", FxpruneWarning, stacklevel=4)

    def _choose(self) -> None:
        for path, layer in self.layers.items():
            if layer.resting:  # an optimizer may have moved its gate, which costs nothing till now
                layer.gate.fill_(self._gates[path])
        for path, group in self.channels.items():
            if group.resting:
                group.gate.copy_(self._scales[path])
        site, share = self._next_site()
        gate = site.gate if isinstance(site, Chunk) else site
        key = site.path
        if isinstance(site, Chunk):
            key = f"{site.path}[{sum(one.startswith(f'{site.path}[') for one in self.chunks)}]"
            self.chunks[key] = list(site.places)
        self.order.append(key)
        self._schedule.shares.append(share)
        self.clock.look(self._chosen())
        self._enough_chosen = self._is_enough()
        if gate.module.resting:
            gate.wake()
            gate.module.train_scale(False)

    def _lower(self, path: str) -> None:
        """Lower a chosen gate to where the schedule has it now."""
        layer = self.layers[path]
        highest = self._schedule.gate(self.order.index(path), self.steps_done)
        if not highest:
            layer.close()
            return
        self._gates[path] = min(self._gates[path], highest)
        layer.gate.fill_(self._gates[path])

    def _lower_chunk(self, key: str) -> None:
        """Lower the scales of chosen channels to where the schedule has them now."""
        path, places = _group_of(key), self.chunks[key]
        scales, group = self._scales[path], self.channels[path]
        highest = self._schedule.gate(self.order.index(key), self.steps_done)
        if not highest and not self._is_shut(key):
            group.close_classes(places)
            scales.copy_(group.gate.detach())
        elif highest:
            scales[places] = scales[places].clamp(max=highest)
            group.gate.copy_(scales)

    def _is_shut(self, key: str) -> bool:
        return float(self._scales[_group_of(key)][self.chunks[key][0]]) < 0

    def _chosen(self) -> list[Site]:
        """Return what was chosen, and what was closed before."""
        chosen: list[Site] = [self._remaining.chunk(*one) for one in self._shut_before.items()]
        for key in self.order:
            chunk = self.chunks.get(key)
            chosen.append(self._found[key] if chunk is None else self._remaining.chunk(_group_of(key), chunk))
        return chosen

    def _next_site(self) -> tuple[Site, float]:
        """Return what is missed least for what it saves, or is next of a plan, and its share of all that goes."""
        if self._planned is not None:
            number = len(self.order)
            return self._agreed(self._next.measured(self._planned[number])), self._planned_shares[number]
        site, share = self._next.beside(self._chosen(), self.comparing)
        agreed = self._agreed(site)
        if agreed.path == site.path:
            return agreed, share
        return agreed, self._next.surplus.shares([agreed], self._chosen())[agreed.path]

    def _agreed(self, site: Site) -> Site:
        """Return the first process's choice, and take over its units: each process has statistics of its own."""
        if not is_distributed():
            return site
        resconvs = {path: layer for path, layer in self.layers.items() if layer.has_shortcut}
        places = site.places if isinstance(site, Chunk) else None
        known: list[Any] = [
            site.path,
            {path: float(layer.unit("input_rms")) for path, layer in resconvs.items()},
            places,
        ]
        distributed.broadcast_object_list(known, src=0)
        for path, layer in resconvs.items():
            layer.set_units(input_rms=known[1][path])
        return self._found[known[0]] if known[2] is None else self._remaining.chunk(known[0], known[2])

    def _gates_now(self) -> dict[str, float]:
        return {path: float(layer.trained_scale.detach()) for path, layer in self.layers.items()}

    def _scales_now(self) -> dict[str, torch.Tensor]:
        return {path: group.gate.detach().cpu().clone() for path, group in self.channels.items()}

    @property
    def closed_channels(self) -> dict[str, list[int]]:
        """The places of the classes that were closed, zero for good, by the path of their group's gate."""
        known = dict(self._shut_before)
        for key, places in self.chunks.items():
            if self._is_shut(key):
                known[_group_of(key)] = sorted([*known.get(_group_of(key), ()), *places])
        return known

    @property
    def closed_in_turn(self) -> list[Site]:
        """What was closed, in the order of the choice: gates of layers, and channels that closed together."""
        closed, shut = set(self.closed), [key for key in self.chunks if self._is_shut(key)]
        found: list[Site] = [self._remaining.chunk(*one) for one in self._shut_before.items()]
        found += [self._found[path] for path in self.layers if path in closed and path not in self.order]
        for key in self.order:
            if key in shut:
                found.append(self._remaining.chunk(_group_of(key), self.chunks[key]))
            elif key in closed:
                found.append(self._found[key])
        return found

    @property
    def candidates(self) -> str:
        """How many layers and groups of channels are compared at first, in words."""
        counts = {"layer": len(self._found), "group of channels": len(self._groups)}
        plural = {"layer": "layers", "group of channels": "groups of channels"}
        told = " and ".join(f"{n} {kind if n == 1 else plural[kind]}" for kind, n in counts.items() if n)
        sizes = sorted(set(self._next.chunks.sizes.values()))
        if not sizes:
            return told
        return f"{told} (which close {sizes[0]}{f' to {sizes[-1]}' if sizes[1:] else ''} channels at a time)"

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside the graph's own state."""
        return {
            **super().state_dict(),
            "order": list(self.order),
            "chunks": {key: list(places) for key, places in self.chunks.items()},
            "shut_before": dict(self._shut_before),
            "channel_scales": {path: scales.clone() for path, scales in self._scales.items()},
            "shares": list(self._schedule.shares),
            "damages": dict(self._next.damages),
            "no_relief": sorted(self._next.no_relief),
            "gates": dict(self._gates),
            "clock": self.clock.state_dict(),
            "is_short": self._is_short,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; load the graph's own state too, before or afterwards."""
        super().load_state_dict(state)
        self.order = list(state["order"])
        self.chunks = {key: list(places) for key, places in state.get("chunks", {}).items()}
        self._shut_before = dict(state.get("shut_before", {}))
        for path, scales in state.get("channel_scales", {}).items():
            self._scales[path].copy_(scales)
            if self.channels[path].resting and any(_group_of(key) == path for key in self.chunks):
                self._groups[path].wake()
            self.channels[path].train_scale(False)
        self._schedule.shares = list(state["shares"])
        self._next.damages = dict(state["damages"])
        self._next.no_relief = set(state.get("no_relief", ()))
        if "clock" in state:
            self.clock.load_state_dict(state["clock"])
            self._next.limit_time(self.clock.targets.milliseconds)
        for path, layer in self.layers.items():
            if path in self.order and layer.resting:  # it was chosen in the last step, and its gate is still 1
                self._found[path].wake()
            layer.train_scale(False)
        self._gates = {**self._gates_now(), **state.get("gates", {})}
        self._is_short = state.get("is_short", False)
        self._enough_chosen = self._is_short or self._is_enough()


def _group_of(key: str) -> str:
    """Return the path of the gate that a chunk is of."""
    return key.rpartition("[")[0]


def _say_nothing(done: int, of: int) -> None:
    """Take note of nothing."""
