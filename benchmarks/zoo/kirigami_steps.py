"""torch-kirigami on one model of the zoo: what worker.py runs with --peer torch-kirigami.

Its documented way for exact removals: build the dependency graph, name the candidates (a ``CandidateSpace`` of
one's own), filter them, plan, apply. Inputs and outputs of a network stay (its default). The candidates are the first
blocks of each axis that its operators declare; an axis whose first block may go, and touches no operator that it does
not know, counts as free. What goes is every second block of all free axes, as one request (``plan_remove``), every
fourth or eighth if it refuses that; and of those alone that it takes each for itself, if it refuses that too.

Its automatic ways are slower than the minute that a model may take: ``discover_candidates`` tries every channel for
itself, 97 s for the 4,800 of a ResNet-18, and ``Greedy`` on top tries each with all before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import nn
from torch_kirigami import DependencyGraph, KirigamiError, UnsupportedOperation
from torch_kirigami.pruning import Candidate, CandidateSpace, PlanningError, Pruner

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
        graph = DependencyGraph.build(model, args=inputs)
        self.pruner = Pruner(model, graph=graph)
        specs = [graph.operator_spec(operation) for operation in graph.operations()]
        declared = {domain.axis: domain for spec in specs if spec for domain in spec.candidates}
        firsts = [Candidate(domain.key, (_blocks(domain, [0]),), axis) for axis, domain in declared.items()]
        unique = {one.key: one for one in firsts}
        space = self.pruner.filter_candidates(CandidateSpace(tuple(unique.values()), tuple(declared)))
        known = [one for one in space.candidates if self.pruner.impact([one]).complete]
        self.free = [declared[one.axis] for one in known if one.axis is not None]

    def free_outputs(self) -> dict[str, int]:
        """Return how many channels the free axes of layers have, by the path of the layer."""
        found: dict[str, int] = {}
        for domain in self.free:
            path = _owner(domain.axis.tensor)
            if isinstance(self.model.get_submodule(path), (nn.Linear, *CONVS, *TRANSPOSED)):
                found[path] = domain.axis.tensor.shape[domain.axis.dim]
        return found

    def prune(self) -> Removed:
        """Take every second block of each free axis out, all at once; every eighth if no more may go."""
        modules = dict(self.model.named_modules())
        try:
            plan = self._planned(self.free)
        except PlanningError:
            plan = self._planned([domain for domain in self.free if self._goes_alone(domain)])
        _, result = self.pruner.apply(plan)
        removed = Removed()
        for selection in result.plan.analysis.selections:
            if selection.tensor.kind == "parameter" and selection:
                _note(removed, _owner(selection.tensor), modules, selection)
        return removed

    def _planned(self, domains: Sequence[Any]) -> Any:
        """Return the plan without as many blocks of these axes as it takes."""
        for step in (2, 4, 8):
            chosen = [(domain, _numbers(domain)[1::step]) for domain in domains]
            try:
                return self.pruner.plan_remove([_blocks(domain, gone) for domain, gone in chosen if gone])
            except PlanningError:
                if step == 8:
                    raise

    def _goes_alone(self, domain: Any) -> bool:
        try:
            self.pruner.plan_remove([_blocks(domain, _numbers(domain)[1:2])])
        except PlanningError:
            return False
        return True


def _numbers(domain: Any) -> range:
    """Return the numbers of the blocks of an axis."""
    return range(domain.axis.tensor.shape[domain.axis.dim] // domain.block_size)


def _blocks(domain: Any, numbers: Sequence[int]) -> Any:
    """Return the selection of these blocks of an axis."""
    size = domain.block_size
    return domain.axis.select([index for n in numbers for index in range(n * size, (n + 1) * size)])


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
