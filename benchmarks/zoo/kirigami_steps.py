"""torch-kirigami on one model of the zoo: what worker.py runs with --peer torch-kirigami.

Its documented way: build the dependency graph, discover the candidates, plan, apply. Inputs and outputs of a network
stay (its default). What can go are its candidates; what goes is every second one of each layer, as one request
(``plan_remove``). Its automatic choice (``Greedy``) tries each candidate with all before it: of a ResNet with four
blocks and 2,880 candidates it was not done after a minute, where the request takes a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import nn
from torch_kirigami import DependencyGraph, KirigamiError, UnsupportedOperation
from torch_kirigami.pruning import Pruner

from benchmarks.zoo.peer_judging import CONVS, TRANSPOSED, Removed, has_unknown_weights, judge_peer
from benchmarks.zoo.row import Row
from benchmarks.zoo.worker import CleanProcess


class Kirigami:
    """Its pruner, with its defaults."""

    package: ClassVar[str] = "torch-kirigami"
    refusals: ClassVar[tuple[type[Exception], ...]] = (KirigamiError, UnsupportedOperation)
    seconds: ClassVar[float] = 60

    def __init__(self, model: nn.Module, inputs: tuple[Any, ...], kept: Sequence[nn.Module]) -> None:
        self.model = model
        self.pruner = Pruner(model, graph=DependencyGraph.build(model, args=inputs))
        self.space = self.pruner.discover_candidates()

    def free_outputs(self) -> dict[str, int]:
        """Return how many candidates there are, by the path of the layer; one of several channels counts as these."""
        found: Counter[str] = Counter()
        for candidate in self.space.candidates:
            path = candidate.key.partition(":")[0].rpartition(".")[0]  # PATH.weight:AXIS:NUMBER
            module, axis = self.model.get_submodule(path), candidate.axis
            if axis is not None and isinstance(module, (nn.Linear, *CONVS, *TRANSPOSED)):
                found[path] += sum(len(one.fully_selected_indices(axis.dim)) for one in candidate.remove)
        return dict(found)

    def prune(self) -> Removed:
        """Take every second candidate of each layer out, all at once."""
        modules = dict(self.model.named_modules())
        request = [one for candidate in self.space.candidates if _is_second(candidate) for one in candidate.remove]
        _, result = self.pruner.apply(self.pruner.plan_remove(request))
        removed = Removed()
        for selection in result.plan.analysis.selections:
            if selection.tensor.kind == "parameter" and selection:
                _note(removed, _owner(selection.tensor), modules, selection)
        return removed


def _is_second(candidate: Any) -> bool:
    """Say whether a candidate is at an odd place of its layer; one may be of several channels."""
    indices = list(candidate.remove[0].fully_selected_indices(candidate.axis.dim))
    return bool(indices[0] // len(indices) % 2)


def _owner(tensor: Any) -> str:
    return str(tensor.paths[0].rpartition(".")[0]) if tensor.paths else ""


def _note(removed: Removed, path: str, modules: dict[str, nn.Module], selection: Any) -> None:
    module: Any = modules[path]
    if has_unknown_weights(module):
        removed.unknown.add(type(module).__name__)
    elif selection.tensor.paths[0].endswith(".weight"):
        rows = 1 if isinstance(module, TRANSPOSED) else 0
        for table, axis in ((removed.outputs, rows), (removed.inputs, 1 - rows)):
            if axis < len(selection.tensor.shape) and (gone := list(selection.fully_selected_indices(axis))):
                table[path] += gone


PEER = Kirigami


def run_and_judge(spec: str, row: Row, clean: CleanProcess) -> None:
    """Run the steps; torch-kirigami needs no other process."""
    judge_peer(PEER, spec, row)
