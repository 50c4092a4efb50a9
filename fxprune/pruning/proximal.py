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
from typing import Any, NamedTuple, overload

import torch
from torch import fx, nn

from fxprune.choosing.remaining import Remaining, Site
from fxprune.choosing.time_terms import fit_of
from fxprune.costs.macs import total_macs, total_params
from fxprune.errors import FxpruneError, FxpruneValueError
from fxprune.gates.data_parallel import keep_all_parameters_in_training
from fxprune.gates.gate import ScaledLayer, follow_together
from fxprune.ir.arguments import require_arguments
from fxprune.ir.module_tree import every_module
from fxprune.ir.nodes import TRACED_MACS, require_graph
from fxprune.ir.processes import is_distributed
from fxprune.pruning.cutting_on import Cutting
from fxprune.pruning.kept_sites import KeptSites
from fxprune.pruning.own_loops import measure_inputs
from fxprune.pruning.predictions import Latency, table_of
from fxprune.pruning.split import Split, split_of
from fxprune.structures.channels.labels import LEAST
from fxprune.structures.missing_scales import why_no_scales

_OF_GRAPH = {"_remaining", "_found", "_groups", "_sites", "layers", "channels", "_known"}


class _Left(NamedTuple):
    """What follows from the sites that are closed: the layers that go with them, and shares of what is left."""

    closed: tuple[list[str], dict[str, list[int]]]
    gone: list[str]
    macs: float
    params: float
    saved_by: Split


class ProximalL1:
    """The proximal step of an L1 penalty on the scales of layers and channels, with a strength that the user fixes.

    In several processes (DistributedDataParallel) make it once the process group is there; wrap the graph before or
    after, without any option.

    Args:
        graph_module: a graph with ResConvs, BranchScales, gates of channels, or several; not a module around it.
        strength: the penalty's weight, one number or one a gate (by path, see :func:`macs_weighted`);
            a scale falls by ``lr * strength`` a step, against what the loss's gradient does.

    Attributes:
        graph_module: the graph that is trained: after :meth:`cut` another one than it was made of.
        whole: the graph that it was made of. Sites, shares and plans are of that one, whatever was cut since.
        layers: the gates of layers, by path.
        channels: those of groups of channels, by path, with a scale a class.

    Raises:
        FxpruneError: the graph has no gates, or a strength names none.
    """

    latency: Latency | None = None

    def __init__(self, graph_module: fx.GraphModule, strength: float | Mapping[str, float] = 1e-3) -> None:
        require_arguments(ProximalL1.__init__, locals())
        self.graph_module = self.whole = graph_module = require_graph(graph_module, type(self).__name__)
        self._cutting = Cutting(graph_module)
        self._find_gates()
        if not self.layers and not self.channels:
            raise FxpruneError(f"the graph has no layer with a scale to shrink; {why_no_scales(graph_module)}")
        for gate in (*self._found.values(), *self._groups.values()):
            gate.module.follow()
            if gate.module.resting:  # since a SteeredL1
                gate.wake()
        _train_in_processes(graph_module)
        self._measure()
        if isinstance(strength, Mapping):
            unknown = sorted(set(strength) - set(self._modules))
            if unknown:
                raise FxpruneValueError(
                    f"strength names {unknown[0]}, which is no scaled layer; see fxprune.pruning.report(graph)"
                )
            self.strength = {path: float(strength.get(path, 0.0)) for path in self._modules}
        else:
            self.strength = dict.fromkeys(self._modules, float(strength))
        if any(not one >= 0 for one in self.strength.values()):
            raise FxpruneValueError("the strength of an L1 penalty must not be negative")
        self.steps_done = 0
        self._known: _Left | None = None

    def _find_gates(self) -> None:
        """Note what the graph has: that of a copy is looked at anew, whose nodes are others."""
        self._remaining = Remaining(self.whole, latency=table_of(self.latency))
        self._found, self._groups = self._remaining.layers, self._remaining.channels
        self._find_kept()

    def _find_kept(self) -> None:
        """Note what is left of that in the graph that is trained."""
        self._sites = KeptSites(self._remaining, self.graph_module, self._cutting.channels)
        self.layers, self.channels = self._sites.layers, self._sites.channels

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and files hold: nothing that follows from the graph."""
        return {name: one for name, one in vars(self).items() if name not in _OF_GRAPH}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`__getstate__` returned."""
        self.__dict__.update(state, _known=None)
        self._find_gates()

    @property
    def _modules(self) -> dict[str, ScaledLayer]:
        """The gates of layers and of channels."""
        return {**self.layers, **self.channels}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._story()})"

    def _story(self) -> str:
        """Return how things stand, in a line."""
        strengths = sorted(set(self.strength.values()))
        told = f"{strengths[0]:g}" + (f" to {strengths[-1]:g}" if strengths[1:] else "")
        return f"strength {told}, step {self.steps_done}: {self._left_now()}"

    def _left_now(self) -> str:
        total = len(self.layers) + sum(one.width for one in self._groups.values())
        zeros = len(self.zeros) + sum(int((one.effective_scales == 0).sum()) for one in self.channels.values())
        zeros += sum(map(len, self._cutting.channels.values()))
        return (
            f"{zeros} of {total} scales are 0, {self.left:.1%} of the MACs and "
            f"{self.params_left:.1%} of the parameters are left"
        )

    def _measure(self) -> None:
        measure_inputs(self.graph_module)

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Shrink all that is open by ``lr`` times its strength; call it after the optimizer's step."""
        require_arguments(ProximalL1.step, locals())
        self.steps_done += 1
        for path, layer in self._modules.items():
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
    def closed_channels(self) -> dict[str, list[int]]:
        """The places of the classes that were closed, zero for good, by the path of their group's gate."""
        return self._sites.closed_channels()

    @property
    def closed_in_turn(self) -> list[Site]:
        """What was closed: gates of layers, then the channels of each group."""
        chunks = [self._remaining.chunk(*one) for one in self.closed_channels.items()]
        return [*(self._found[path] for path in self.closed), *chunks]

    @property
    def gone(self) -> list[str]:
        """The paths of the layers that go with the closed ones: these, and what lies in closed branches."""
        return self._without_closed().gone

    @property
    def left(self) -> float:
        """The share of the traced graph's MACs that is left without the closed layers and channels."""
        return self._without_closed().macs

    @property
    def params_left(self) -> float:
        """The share of the graph's parameters, those of scales left out, that is left likewise."""
        return self._without_closed().params

    def _without_closed(self) -> _Left:
        """Return what follows, worked out anew only once another layer was closed: every step asks."""
        closed = self.closed, self.closed_channels
        if self._known is not None and self._known.closed == closed:
            return self._known
        macs, params = total_macs(self.whole), total_params(self.whole)
        shut: list[Site] = [self._found[path] for path in closed[0]]
        nodes: set[fx.Node] = set().union(*(layer.nodes for layer in shut))
        gone = [path for path, layer in self._found.items() if layer.node in nodes]
        left = self._remaining.left([*shut, *(self._remaining.chunk(*one) for one in closed[1].items())])
        traced = self.whole.meta.get(TRACED_MACS, macs)
        split = split_of(self._remaining, self.closed_in_turn, self._costs(traced, params))
        self._known = _Left(closed, gone, left.macs / traced, left.params / max(1, params), split)
        return self._known

    def _costs(self, macs: float, params: float) -> dict[str, float]:
        """Return the costs that shares are of, by the names of a split."""
        table = self._remaining.latency
        timed = {} if table is None else {"ms": fit_of(table)[0] + self._remaining.left(()).milliseconds}
        return {"macs": macs, "params": float(params), **timed}

    @property
    def saved_by(self) -> Split:
        """The shares of the costs that went with closed "convs", "branches" and "channels", those that have gates.

        By kind and cost: {"branches": {"macs": 0.2, "params": 0.3}}; with "ms" where a model predicts times. Each
        site counts with what it saved beside those that had closed before it.
        """
        return self._without_closed().saved_by

    @property
    def widths(self) -> dict[str, int]:
        """How many channels of each group are left beside what was closed, by the path of its gate."""
        closed = self.closed_channels
        return {path: gate.width - len(closed.get(path, ())) for path, gate in self._groups.items()}

    def standing(self) -> tuple[int, ...]:
        """Return how many gates are open, how many are closed, and how many channels are."""
        gates = self._modules.values()
        closed = sum(map(len, self.closed_channels.values()))
        return sum(not one.resting for one in gates), sum(one.closed for one in gates), closed

    @property
    def sites_left(self) -> dict[str, tuple[int, int]]:
        """How many layers and channels with a gate are left beside what was closed, and how many there were."""
        widths = sum(one.width for one in self._groups.values())
        closed = sum(map(len, self.closed_channels.values()))
        left = {
            "layers": (len(self.layers) - len(self.gone), len(self.layers)),
            "channels": (widths - closed, widths),
        }
        return {kind: counts for kind, counts in left.items() if counts[1]}

    def close_zeros(self) -> None:
        """Close the layers and channels whose scale is exactly zero: they stay so, and need not be computed any more.

        Two channels of each group stay open: an axis of one would be broadcast.
        """
        still_open = [layer for layer in self.layers.values() if not layer.closed]
        if still_open:
            scales = torch.stack([layer.trained_scale.detach() for layer in still_open]).tolist()  # one read for all
            for layer, scale in zip(still_open, scales, strict=True):
                if scale == 0:
                    layer.close()
        zeros = self._sites.places({path: one.gate.detach() == 0 for path, one in self.channels.items()})
        closed = self.closed_channels if zeros else {}
        for path, places in zeros.items():
            spared = max(0, LEAST + len(places) + len(closed.get(path, ())) - self._groups[path].width)
            self._sites.close(path, places[spared:])

    def cut(self, optimizer: torch.optim.Optimizer) -> tuple[fx.GraphModule, torch.optim.Optimizer]:
        """Return the graph without what is closed, and the optimizer of what stays, to train on with.

            sparse, optimizer = shrink.cut(optimizer)         # after shrink.step, before the next forward pass

        The next step is that of the uncut graph on what stays. Gates that are open or at rest stay and are moved on
        by this object, in the new graph. The graph before shares with it all that lost nothing, and is not to be
        trained any more; ``optimizer`` stays as it is. What was made of either is made anew: DistributedDataParallel,
        torch.compile, CUDA graphs; averaged copies by :meth:`copies`; a schedule goes on with
        ``schedule.optimizer = optimizer``.

        Channels around a gate of a layer that is neither at rest nor removed stay until then.

        Args:
            optimizer: what trains the graph: all of its parameters that want gradients. Others that it holds stay.

        Returns:
            Both as they were given where nothing has closed since the last time.

        Raises:
            FxpruneError: the optimizer is of another graph, or of this one before it was cut, or lacks parameters.
            FxpruneValueError: its state has entries of which the rows cannot be told.
        """
        require_arguments(ProximalL1.cut, locals())
        made = self._cutting.cut(self.graph_module, optimizer)
        if made is not None:
            self._go_on_in(made[0])
            optimizer = made[1]
        return self.graph_module, optimizer

    def _go_on_in(self, graph_module: fx.GraphModule) -> None:
        """Steer the gates of ``graph_module``, which the graph until now was cut to."""
        self.graph_module = graph_module
        self._find_kept()
        for gate in (*self.layers.values(), *self.channels.values()):
            gate.follow()
        _train_in_processes(graph_module)

    @overload
    def copies(self, copy: nn.Module, /) -> nn.Module: ...

    @overload
    def copies(self, copy: nn.Module, other: nn.Module, /, *more: nn.Module) -> tuple[nn.Module, ...]: ...

    def copies(self, copy: nn.Module, /, *others: nn.Module) -> nn.Module | tuple[nn.Module, ...]:
        """Return copies of the graph before :meth:`cut`, averages say, cut as it was: with values of their own.

        Args:
            copy: a ``copy.deepcopy`` of the graph, a module with the same keys in its state, or one that holds such a
                module: torch's AveragedModel.
            others: more of them.

        Returns:
            A module for each: of one the module itself.

        Raises:
            FxpruneError: one is no copy of the graph as it was before the last cut.
        """
        made = tuple(self._cutting.copy_of(one, self.graph_module) for one in (copy, *others))
        return made if others else made[0]

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside the state of the graph that is trained."""
        return {"steps_done": self.steps_done, "closed": self.closed, "cut": self._cutting.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; load the graph's own state first, or, where it was cut, afterwards.

        What was cut by then is cut here too: ``sparse = shrink.graph_module``, whose parameters the optimizer is made
        of.

        Raises:
            LoadError: this graph was cut otherwise; a new one is needed, made of the uncut graph.
        """
        made = self._cutting.again(state.get("cut"), self._remaining, self.graph_module)
        if made is not None:
            self._go_on_in(made)
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
