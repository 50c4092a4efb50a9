"""Which values a graph computes from its parameters and buffers alone, and what they are.

A weight standardised in forward is one: it is the same for every input. Nothing is taken for granted: an op is
run and watched, and whatever draws random numbers, reads the train flag, writes to memory or is not torch's own
is a barrier, with its reason.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fxprune.errors import first_line
from fxprune.facts.effects import is_in_place
from fxprune.facts.updated_buffers import storage_of, updated_storages, updated_tensor
from fxprune.ir.autocast import under_autocast
from fxprune.ir.module_tree import has_hooks
from fxprune.ir.node_targets import attribute
from fxprune.ir.nodes import called_module
from fxprune.ir.pytrees import copy_tensors, map_tensors, tensors_in
from fxprune.ops.operators import MODE_QUESTIONS, is_torchs_own
from fxprune.weights.exact import exact, in_float64, is_unrounded, widen

# Layers that compute the same in train and eval mode and keep no state.
_STATELESS = (nn.Identity, nn.Flatten, nn.Unflatten, nn.Linear, nn.ReLU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softmax)
_UNINITIALISED = {"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided"}


class Constants:
    """The values of a graph that no input can change, worked out when they are asked for, in eval mode."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self._graph_module = graph_module
        self._obstacles: dict[fx.Node, str | None] = {}
        self._values: dict[fx.Node, Any] = {}
        self._wide: dict[tuple[fx.Node, bool], Any] = {}

    @cached_property
    def _storages(self) -> frozenset[int]:
        return updated_storages(self._graph_module)

    @cached_property
    def _under_autocast(self) -> set[fx.Node]:
        return under_autocast(self._graph_module.graph)

    def obstacle(self, node: fx.Node) -> str | None:
        """Return why ``node`` is not computed from parameters and buffers alone; None if it is."""
        waiting = [node]  # no recursion: a graph may be thousands of nodes deep
        while waiting:
            unknown = [source for source in waiting[-1].all_input_nodes if source not in self._obstacles]
            if waiting[-1] in self._obstacles or not unknown:
                ready = waiting.pop()
                if ready not in self._obstacles:
                    self._obstacles[ready] = self._find_obstacle(ready)
            else:
                waiting += unknown
        return self._obstacles[node]

    def value(self, node: fx.Node) -> Any:
        """Return what ``node`` computes, in the dtype that the model computes it in."""
        assert self.obstacle(node) is None
        return self._values[node]

    def wide_value(self, node: fx.Node) -> Any:
        """Return what ``node`` computes if everything is computed in float64, as verification does.

        Inside :func:`fxprune.weights.exact.unrounded` it is computed from weights as they were before rounding.
        """
        key = node, is_unrounded()
        if key not in self._wide:
            assert self.obstacle(node) is None
            self._wide[key] = map_tensors(_run(node, self._graph_module, self.wide_value, wide=True), widen)
        return self._wide[key]

    def leaves(self, *nodes: fx.Node) -> list[fx.Node]:
        """Return the reads of parameters and buffers that ``nodes`` are computed from, in graph order."""
        return [node for node in self.chain(*nodes) if node.op == "get_attr"]

    def chain(self, *nodes: fx.Node) -> list[fx.Node]:
        """Return ``nodes`` and all that they are computed from, in graph order."""
        found: set[fx.Node] = set()
        waiting = list(nodes)
        while waiting:
            node = waiting.pop()
            if node not in found:
                found.add(node)
                waiting += node.all_input_nodes
        return sorted(found)

    def _find_obstacle(self, node: fx.Node) -> str | None:
        if node.op == "placeholder":
            return "it depends on the inputs"
        if node.op == "output" or is_in_place(node):
            return f"{node.name} writes to memory"
        for source in node.all_input_nodes:
            if (obstacle := self._obstacles[source]) is not None:
                return obstacle
        return self._own_obstacle(node) or self._watch(node)

    def _own_obstacle(self, node: fx.Node) -> str | None:
        if node.op == "get_attr":
            if not isinstance(attribute(self._graph_module, str(node.target)), torch.Tensor):
                return f"it depends on {node.target}, which may change"
            is_updated = storage_of(attribute(self._graph_module, str(node.target))) in self._storages
            return f"{node.target} is updated in forward" if is_updated else None
        module = called_module(node)
        if module is not None:
            if type(module) not in _STATELESS or has_hooks(module):
                return f"it goes through {node.target}, a {type(module).__name__}"
            updated = updated_tensor(module, self._storages)
            return None if updated is None else f"{node.target}.{updated} is updated in forward"
        name = getattr(node.target, "__name__", str(node.target))
        if node in self._under_autocast:
            return f"{node.name} is computed under autocast"
        if name in MODE_QUESTIONS:
            return f"{node.name} asks for a mode, which may change"
        if node.op == "call_function" and not is_torchs_own(node.target):
            return f"{name} is not a function of torch"
        return f"{node.name} reads uninitialised memory" if name in _UNINITIALISED else None

    def _watch(self, node: fx.Node) -> str | None:
        """Run ``node`` on copies of what it reads; return what it does beside computing a value."""
        copies = {source: copy_tensors(self._values[source]) for source in node.all_input_nodes}
        watcher = _Watcher()  # type: ignore[no-untyped-call]
        try:
            with torch.random.fork_rng(devices=[]), watcher:
                value = _run(node, self._graph_module, copies.__getitem__, wide=False)
        except Exception as error:
            return f"{node.name} cannot be evaluated: {first_line(error)}"
        if watcher.draws:
            return f"{node.name} draws random numbers"
        for source, copied in copies.items():
            before, after = tensors_in(self._values[source]), tensors_in(copied)
            if not all(torch.equal(a, b) for a, b in zip(before, after, strict=True)):
                return f"{node.name} changes {source.name}"
        self._values[node] = value
        return None


class _Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes whether an op draws random numbers."""

    draws = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.draws = True
        return func(*args, **(kwargs or {}))


def _run(node: fx.Node, graph_module: fx.GraphModule, read: Any, wide: bool) -> Any:
    args, kwargs = fx.map_arg((node.args, node.kwargs), read)
    with torch.no_grad():
        if node.op == "get_attr":
            tensor = attribute(graph_module, str(node.target))
            return exact(tensor) if wide and tensor.is_floating_point() else tensor.detach()
        if node.op == "call_module":
            module = graph_module.get_submodule(str(node.target))
            return (in_float64(module) if wide else module)(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]
