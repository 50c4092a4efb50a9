"""Shrinking the layer scales while a network trains, in the user's own loop.

    shrink = fxprune.ProximalL1(sparse, strength=1e-3)
    for ...:
        loss.backward(); optimizer.step(); shrink.step(lr)

L1 acts on the gate alone (see :mod:`fxprune.gates.resconv` and :mod:`fxprune.gates.branch_scale`), after the
optimizer's step, so that gates become exactly zero: removing such a layer changes nothing. An optimizer must have
been made from the sparse graph's parameters, not from those of the model that was traced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import torch
from torch import fx, nn

from fxprune.errors import FxpruneError, FxpruneValueError
from fxprune.gates.data_parallel import keep_all_parameters_in_training
from fxprune.gates.gate import ScaledLayer, follow_together
from fxprune.ir.arguments import require_arguments, require_kind
from fxprune.ir.module_tree import every_module
from fxprune.ir.nodes import require_graph
from fxprune.ir.processes import is_distributed
from fxprune.pruning.cutting_on import Cutting
from fxprune.pruning.own_loops import measure_inputs
from fxprune.pruning.standing import Standing
from fxprune.structures.channels.labels import LEAST
from fxprune.structures.missing_scales import why_no_scales

_COPIES = Sequence[nn.Module]
_OF_GRAPH = {"_remaining", "_found", "_groups", "_sites", "layers", "channels", "_known"}


class ProximalL1(Standing):
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
        self._known = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and files hold: nothing that follows from the graph."""
        return {name: one for name, one in vars(self).items() if name not in _OF_GRAPH}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`__getstate__` returned."""
        self.__dict__.update(state, _known=None)
        self._find_gates()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._story()})"

    def _story(self) -> str:
        """Return how things stand, in a line."""
        strengths = sorted(set(self.strength.values()))
        told = f"{strengths[0]:g}" + (f" to {strengths[-1]:g}" if strengths[1:] else "")
        return f"strength {told}, step {self.steps_done}: {self._left_now()}"

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
        zeros = self._sites.places({path: one.gate.detach() == 0 for path, one in self._sites.scales_left.items()})
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
        ``schedule.optimizer = optimizer``, and one made of others (SequentialLR, ChainedScheduler) with that of each.

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
        require_kind((copy, *others), _COPIES, "ProximalL1.copies", "copies")
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
