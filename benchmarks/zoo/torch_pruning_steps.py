"""Torch-Pruning, out of the box, on one model of the zoo: what worker.py runs with --peer torch-pruning.

What can go is what the groups of its dependency graph hold (``get_all_groups``), without those of ignored layers
and of layers with a single channel, which its pruner leaves out too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar

import torch_pruning as tp
from torch import nn

from benchmarks.zoo.peer_judging import CONVS, TRANSPOSED, Removed, has_unknown_weights, judge_peer, width
from benchmarks.zoo.row import Row
from benchmarks.zoo.worker import CleanProcess


class TorchPruning:
    """Its pruner, by the magnitude of groups, with half of the channels as the goal."""

    package: ClassVar[str] = "torch-pruning"
    refusals: ClassVar[tuple[type[Exception], ...]] = ()
    seconds: ClassVar[float] = 180

    def __init__(self, model: nn.Module, inputs: tuple[Any, ...], kept: Sequence[nn.Module]) -> None:
        self.paths = {module: path for path, module in model.named_modules()}
        self.pruner = tp.pruner.BasePruner(
            model,
            inputs,
            importance=tp.importance.GroupMagnitudeImportance(),
            pruning_ratio=0.5,
            ignored_layers=list(kept),
        )

    def free_outputs(self) -> dict[str, int]:
        """Return how many output channels its groups hold, by the path of the layer."""
        graph, found = self.pruner.DG, defaultdict(set)
        for group in graph.get_all_groups(self.pruner.ignored_layers, self.pruner.root_module_types):
            if not self.pruner._check_pruning_ratio(group):
                continue
            for dependency, indices in group:
                module = dependency.target.module
                if isinstance(module, (nn.Linear, *CONVS, *TRANSPOSED)) and _makes(graph, dependency):
                    found[self.paths[module]].update(indices)
        return {path: len(indices) for path, indices in found.items()}

    def prune(self) -> Removed:
        """Take the channels out."""
        notes = _Notes(self)
        for group in self.pruner.step(interactive=True):
            notes.add(group)
            group.prune()
        return notes.removed


def _makes(graph: Any, dependency: Any) -> bool:
    return bool(graph.is_out_channel_pruning_fn(dependency.handler))


class _Notes:
    """Reads groups, each before it is pruned."""

    def __init__(self, peer: TorchPruning) -> None:
        self.peer = peer
        self.removed = Removed()
        self._left: dict[tuple[str, bool], list[int]] = {}

    def add(self, group: Any) -> None:
        paths = self.peer.paths
        for dependency, indices in group:
            module = dependency.target.module
            plain = [int(getattr(index, "idx", index)) for index in indices]
            if isinstance(module, nn.Parameter) or (module in paths and has_unknown_weights(module)):
                self.removed.unknown.add(type(module).__name__)
            elif module in paths and any(True for _ in module.parameters()):
                is_output = _makes(self.peer.pruner.DG, dependency)
                table = self.removed.outputs if is_output else self.removed.inputs
                table[paths[module]] += self._original(paths[module], module, is_output, plain)

    def _original(self, path: str, module: Any, is_output: bool, indices: list[int]) -> list[int]:
        left = self._left.get((path, is_output), list(range(width(module, is_output))))
        gone = set(indices)
        self._left[path, is_output] = [channel for i, channel in enumerate(left) if i not in gone]
        return [left[i] for i in sorted(gone)]


PEER = TorchPruning


def run_and_judge(spec: str, row: Row, clean: CleanProcess) -> None:
    """Run the steps; Torch-Pruning needs no other process."""
    judge_peer(PEER, spec, row)
