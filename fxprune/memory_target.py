"""How far a graph with layer scales is from a target for the memory of a forward pass, once some of them are gone."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import fx

from fxprune.after_training import AFTER_TRAINING
from fxprune.errors import TargetError
from fxprune.facts.activation_memory import activation_bytes
from fxprune.facts.layers import Layer, layers
from fxprune.module_tree import evaluating
from fxprune.passes import RemoveLayers
from fxprune.pipeline import Pipeline

_COMPILE = Pipeline([RemoveLayers(threshold=0.0), *AFTER_TRAINING], verify=False)


class MemoryTarget:
    """The most bytes of activations that a forward pass may hold: a share of what it holds with all layers.

    Counted in the network that would be emitted, see :func:`fxprune.facts.activation_memory.activation_bytes`.

    Raises:
        TargetError: even without any layer more is held; says how much.
    """

    def __init__(self, graph_module: fx.GraphModule, share: float) -> None:
        self.graph_module = graph_module
        whole = max(self._bytes_without(()))
        self.limit = share * whole
        everything = layers(graph_module)
        least = max(self._bytes_without(everything))
        if least > self.limit:
            raise TargetError(
                f"target_memory={share:g} cannot be met: without all {len(everything)} removable layers a forward "
                f"pass still holds {least / whole:.3f} of the memory; ask for at least {least / whole + 5e-4:.3f}"
            )

    def excess(self, removed: Collection[Layer]) -> float:
        """Return by how many bytes the network without ``removed`` is above the limit, summed over its nodes."""
        return sum(max(0.0, held - self.limit) for held in self._bytes_without(removed))

    def _bytes_without(self, removed: Collection[Layer]) -> Collection[int]:
        with evaluating(self.graph_module), _closed(removed):
            compiled = _COMPILE(self.graph_module).graph_module
        return activation_bytes(compiled).values()


@contextmanager
@torch.no_grad()
def _closed(removed: Collection[Layer]) -> Iterator[None]:
    before = [(layer, layer.module.resting, layer.module.gate.clone()) for layer in removed]
    try:
        for layer, rested, _ in before:
            if rested:
                layer.wake()
            layer.module.gate.zero_()
        yield
    finally:
        for layer, rested, gate in before:
            layer.module.gate.copy_(gate)
            if rested:
                layer.module.rest()
