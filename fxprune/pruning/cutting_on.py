"""Cutting a graph while it shrinks: what is closed leaves the computation, and the training goes on as it was.

    sparse, optimizer   ->   sparse', optimizer'        weights, momentum, averages: those of the rows that stay

What was cut is plain data in the numbers of the uncut graph: from that and this the cut graph is made again.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from fxprune.choosing.remaining import Remaining
from fxprune.errors import FxpruneError, LoadError
from fxprune.gates.gate import ScaledLayer
from fxprune.pruning.closed_removal import Shortened, narrowed_state, shortened, tensors_of
from fxprune.structures.gated_layers import gates_of
from fxprune.weights.optimizer_state import narrower_optimizer

Shapes = dict[str, tuple[int, ...]]


class Cutting:
    """What was cut of ``whole``, a graph with gates.

    Attributes:
        layers: the units of the gates of layers that were removed, by path: what takes their place follows.
        channels: the places that gates of channels lost, by path.
    """

    def __init__(self, whole: fx.GraphModule) -> None:
        self.whole = whole
        self.layers: dict[str, dict[str, float]] = {}
        self.channels: dict[str, list[int]] = {}
        self._last: tuple[Shapes, dict[str, Any]] | None = None  # what the last cut was of, and made
        _explain_states(whole)

    def cut(
        self, graph_module: fx.GraphModule, optimizer: torch.optim.Optimizer
    ) -> tuple[fx.GraphModule, torch.optim.Optimizer] | None:
        """Return ``graph_module`` without what is closed in it, and the optimizer for that; None if nothing is.

        Raises FxpruneError where the optimizer is not that of ``graph_module``, or cannot follow.
        """
        names = {parameter: name for name, parameter in graph_module.named_parameters()}
        self._require_own(optimizer, graph_module, names)
        made = shortened(graph_module)
        if made is None:
            return None
        follows = narrower_optimizer(optimizer, {one.whole: one for one in made.slices}, made.gone, names)
        return self._take(made, graph_module), follows

    def _take(self, made: Shortened, before: fx.GraphModule) -> fx.GraphModule:
        """Take note of a cut; return the graph."""
        gates = {gate.path: gate for gate in gates_of(self.whole)}
        widths = {path: gate.width for path, gate in gates.items()}
        gone = {path: module.unit_numbers() for path, module in made.layers.items()}
        for path, units in gone.items():
            _close(gates[path].module, units)  # what went may be a copy of that, which a cut before made narrower
        self.layers = self.layers | gone
        for path, places in made.channels.items():
            left = np.setdiff1d(np.arange(widths[path]), self.channels.get(path, []))
            if places:
                self.channels[path] = sorted([*self.channels.get(path, ()), *left[places].tolist()])
        self._last = _shapes(before), made.sources
        _explain_states(made.graph_module)
        return made.graph_module

    def _require_own(
        self, optimizer: torch.optim.Optimizer, graph_module: fx.GraphModule, names: Mapping[Any, str]
    ) -> None:
        held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        of = type(optimizer).__name__
        if held.isdisjoint(names):
            raise FxpruneError(
                f"cut: this {of} holds no parameter of the graph that shrinks: it was made of another model; make it "
                "of shrink.graph_module.parameters()"
            )
        if not held.isdisjoint({*self.whole.parameters()} - names.keys()):
            raise FxpruneError(
                f"cut: this {of} is of the graph before it was cut: take the optimizer that cut returned with it"
            )
        scales = {one.trained_scale for one in graph_module.modules() if isinstance(one, ScaledLayer)}
        for parameter, name in names.items():
            if parameter.requires_grad and parameter not in held and parameter not in scales:
                raise FxpruneError(
                    f"cut: this {of} does not hold {name}, which is trained: give one of all parameters of the "
                    "graph, and freeze what shall stay (requires_grad_(False))"
                )

    def copy_of(self, duplicate: nn.Module, graph_module: fx.GraphModule) -> nn.Module:
        """Return a copy of the graph before the last cut as one of ``graph_module``, which came of it.

        Raises FxpruneError if it is none.
        """
        if _path_of(duplicate, _shapes(graph_module)) is not None:
            return duplicate  # nothing was cut since
        path = None if self._last is None else _path_of(duplicate, self._last[0])
        if path is None or self._last is None:
            raise FxpruneError(
                f"copies: this {type(duplicate).__name__} is no copy of the graph as it was before the last cut: "
                "give averages to copies after every cut, or make them anew"
            )
        before = duplicate.get_submodule(path)
        made = copy.deepcopy(graph_module).to(next(before.parameters()).device)
        state = _tied(narrowed_state(tensors_of(before), self._last[1]), tensors_of(made))
        trained = {key: one.requires_grad for key, one in state.items()}
        made.load_state_dict(state, assign=True)
        for key, parameter in made.named_parameters():
            parameter.requires_grad_(trained[key])  # those of gates follow their state
        return _with(duplicate, path, made.train(before.training))

    def again(self, state: Mapping[str, Any] | None, whole: Remaining, now: fx.GraphModule) -> fx.GraphModule | None:
        """Return the graph cut as ``state`` says; None where it is so already.

        Raises LoadError if it was cut otherwise, or cannot be cut so.
        """
        wanted: dict[str, Any] = {"layers": {}, "channels": {}} if state is None else {**state}
        if wanted == self.state_dict():
            return None
        if now is not self.whole:
            when = "before it was cut" if not wanted["layers"] and not wanted["channels"] else "cut otherwise"
            raise LoadError(
                f"this state is of the graph {when}: load it into a new one, made of the uncut graph with scales "
                "(fxprune.insert_scales)"
            )
        if not (
            wanted["layers"].keys() <= whole.layers.keys() and wanted["channels"].keys() <= whole.channels.keys()
        ):
            raise LoadError("this state is of another network: what was cut of it has no gate here")
        for path, units in wanted["layers"].items():
            _close(whole.layers[path].module, units)
        for path, places in wanted["channels"].items():
            gate = whole.chunk(path, places)
            if gate.module.resting:  # what rests is read as 1
                gate.gate.wake()
            gate.module.close_classes(places)
        made = shortened(now)
        graph_module = now if made is None else self._take(made, now)
        if (self.layers.keys(), self.channels) != (wanted["layers"].keys(), wanted["channels"]):
            raise LoadError("this state is of another network: what was cut of it cannot be cut here")
        return graph_module

    def state_dict(self) -> dict[str, Any]:
        """Return what was cut, as plain data."""
        return {"layers": dict(self.layers), "channels": {path: [*places] for path, places in self.channels.items()}}


def _close(layer: Any, units: Mapping[str, float]) -> None:
    """Close a layer that goes, in the units that it has."""
    if not layer.closed:
        layer.close()
        layer.set_units(**units)


def _shapes(module: nn.Module) -> Shapes:
    return {key: tuple(one.shape) for key, one in module.state_dict().items() if isinstance(one, torch.Tensor)}


def _path_of(module: nn.Module, shapes: Shapes) -> str | None:
    """Return the path of the module in ``module`` whose state has these keys and shapes; None if there is none."""
    return next((path for path, one in module.named_modules() if _shapes(one) == shapes), None)


def _tied(state: Mapping[str, torch.Tensor], like: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return ``state`` with one tensor for all keys that have one in ``like``."""
    firsts: dict[int, torch.Tensor] = {}
    return {key: firsts.setdefault(id(like[key]), one) for key, one in state.items()}


def _with(module: nn.Module, path: str, made: nn.Module) -> nn.Module:
    """Return ``module`` with another one at ``path``; with its own buffers, all else is shared."""
    if not path:
        return made
    name, _, rest = path.partition(".")
    duplicate = copy.copy(module)
    duplicate.__dict__ = {
        **vars(module),
        "_modules": {**module._modules, name: _with(module.get_submodule(name), rest, made)},
        "_buffers": {key: one if one is None else one.clone() for key, one in module._buffers.items()},
    }
    return duplicate


def _explain_states(graph_module: fx.GraphModule) -> None:
    """Have states of other widths refused in one line."""
    if _require_same_widths not in _hooks(graph_module):
        graph_module.register_load_state_dict_pre_hook(_require_same_widths)  # type: ignore[no-untyped-call]


def _hooks(graph_module: nn.Module) -> Iterator[Any]:
    for hook in graph_module._load_state_dict_pre_hooks.values():
        yield getattr(hook, "hook", hook)


def _require_same_widths(
    graph_module: nn.Module, state: Mapping[str, Any], prefix: str, metadata: Any, strict: bool, *_: Any
) -> None:
    """Raise LoadError if the gates in ``state`` are not those of ``graph_module``: one of the two was cut."""
    mine, theirs = _gates_in(graph_module.state_dict(), ""), _gates_in(state, prefix)
    both = mine.keys() & theirs.keys()
    differs = [key for key in mine if key in both and mine[key] != theirs[key]]
    differs += [key for key in {**mine, **theirs} if key not in both and strict and mine and theirs]
    if differs:
        raise LoadError(
            f"the state is of a graph with other gates, {differs[0]} for one: of another network, or from before or "
            "after a cut; load shrink's state first, and this one into shrink.graph_module"
        )


def _gates_in(state: Mapping[str, Any], prefix: str) -> dict[str, tuple[int, ...]]:
    keys = {key.removeprefix(prefix): key for key in state if key.startswith(prefix) and key.endswith(".gate")}
    return {name: tuple(state[key].shape) for name, key in keys.items()}
