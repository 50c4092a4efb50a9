"""A chain of passes that holds each to its contract and keeps every stage.

result = fxprune.Pipeline([passes.FuseResConv(), passes.Simplify()])(graph_module)
print(result)                       # a table, one row a pass
result.steps[0].result.declined     # what a pass left alone, and why
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import is_dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from fxprune.errors import ContractError, FxpruneTypeError, FxpruneWarning
from fxprune.ir.arguments import require_arguments
from fxprune.ir.copies import copy_graph_module
from fxprune.ir.nodes import EXAMPLE_INPUTS, example_inputs_of, require_graph
from fxprune.pipelines.result import PipelineResult, Step
from fxprune.rewriting.contract import Contract, Pass, PassResult, renew_shapes_after
from fxprune.rewriting.float64 import run_both, run_float64
from fxprune.rewriting.signature import keeps_signature, signature, told_signature
from fxprune.rewriting.verify import TOLERANCE, difference, first_difference
from fxprune.weights.exact import keep_exact_weights

if TYPE_CHECKING:
    pass

AnyPass = Callable[[fx.GraphModule], Any]


class Pipeline(Pass):
    """Apply passes in order; after each that promises equal values, check that both graphs compute them.

    Args:
        passes: fxprune passes, or any callable that returns torch.fx's PassResult.
        verify: hold the passes to their contracts on the graph's example inputs, in float64.

    Raises, when called:
        ContractError: a pass broke its contract; names the pass and the first node that differs.

    Warns:
        FxpruneWarning: a pass stands before one that it should come after (:attr:`Pass.after`).
    """

    name = "pipeline"

    def __init__(self, passes: Sequence[AnyPass], *, verify: bool = True) -> None:
        require_arguments(Pipeline.__init__, locals())
        for one in passes:
            if isinstance(one, type):
                raise FxpruneTypeError(f"{one.__name__} is a class; a pipeline takes {one.__name__}()")
        self.passes = tuple(passes)
        self.verify = verify
        for problem in _out_of_order(self.passes):
            warnings.warn(problem, FxpruneWarning, stacklevel=2)

    @property
    def contract(self) -> Contract:  # type: ignore[override]  # a pipeline's promise is its weakest pass's
        """The weakest contract of the passes."""
        return min((_contract_of(p) for p in self.passes), default=Contract.VALUES)

    def __call__(self, graph_module: fx.GraphModule) -> PipelineResult:
        """Return the result of all passes; ``graph_module`` is never changed, and every stage is kept."""
        graph_module = require_graph(graph_module, "a pipeline")
        if self.verify and EXAMPLE_INPUTS not in graph_module.meta:
            example_inputs_of(graph_module)  # which raises
        steps: list[Step] = []
        stage = graph_module
        with keep_exact_weights(self.verify):
            for one in self.passes:
                steps.append(_apply(_with_reference(one, graph_module), stage))
                stage = steps[-1].result.graph_module
            seen = _Check().steps(steps) if self.verify else None
        return PipelineResult(
            stage,
            any(step.result.modified for step in steps),
            tuple(site for step in steps for site in step.result.rewritten),
            tuple(site for step in steps for site in step.result.declined),
            tuple(dict.fromkeys(message for step in steps for message in step.result.warnings)),
            tuple(steps),
            seen,
        )


def _with_reference(one: AnyPass, graph_module: fx.GraphModule) -> AnyPass:
    """Return a pass that compares with a ``reference`` as one that has ``graph_module`` for it, if it has none."""
    if is_dataclass(one) and getattr(one, "reference", graph_module) is None:
        return replace(one, reference=graph_module)  # type: ignore[type-var]
    return one


def _out_of_order(chosen: Sequence[AnyPass]) -> Iterator[str]:
    """Yield what is wrong with the order of passes, by what each says that it comes after."""
    names = [_pass_name(one) for one in chosen]
    for index, one in enumerate(chosen):
        for earlier in getattr(one, "after", ()) if isinstance(one, Pass) else ():
            if earlier in names[index + 1 :] and earlier not in names[:index]:
                yield f"{names[index]} stands before {earlier} in a pipeline, and should come after it"


def _contract_of(one: AnyPass) -> Contract:
    """Return what ``one`` promises; a pass of another library promises nothing."""
    contract = getattr(one, "contract", Contract.NOTHING)
    return contract if isinstance(contract, Contract) else Contract.NOTHING


def _pass_name(one: AnyPass) -> str:
    """Return the name of a pass, ours or another library's."""
    return str(getattr(one, "name", None) or getattr(one, "__name__", None) or type(one).__name__)


def _apply(one: AnyPass, stage: fx.GraphModule) -> Step:
    start = time.perf_counter()
    ours = isinstance(one, Pass)
    result = one(stage if ours else copy_graph_module(stage))
    if not isinstance(result, PassResult):
        if not isinstance(getattr(result, "graph_module", None), fx.GraphModule):
            raise FxpruneTypeError(f"pass {_pass_name(one)} returned {type(result).__name__}, not a PassResult")
        result.graph_module.graph.lint()
        result.graph_module.meta.update(stage.meta)
        result = PassResult(result.graph_module, bool(result.modified))
    if not ours:
        renew_shapes_after(_pass_name(one), result.graph_module)  # whatever ``modified`` says
    spent = (time.perf_counter() - start) * 1e3
    return Step(_pass_name(one), _contract_of(one), stage, result, spent)


class _Check:
    """Holds the steps of a pipeline to their contracts; runs every stage once at most."""

    def __init__(self) -> None:
        self._signatures: dict[fx.GraphModule, str] = {}

    def steps(self, steps: list[Step]) -> float:
        """Compare the ends of every run of equal-valued steps; return the largest relative difference."""
        largest = 0.0
        run: list[Step] = []
        for step in [*steps, None]:
            if step is not None and step.contract is Contract.VALUES:
                run.append(step)
                continue
            largest = max(largest, self._run(run))
            run = []
            if step is not None and step.contract is Contract.SIGNATURE:
                self._equal_signatures(step.before, step)
        return largest

    def _run(self, run: list[Step]) -> float:
        """Compare the ends of a run of equal-valued steps; on a breach, find the step."""
        changed = [step for step in run if step.result.modified]
        if not changed:
            return 0.0
        start, end = changed[0].before, changed[-1].result.graph_module
        inputs = example_inputs_of(start)
        outputs = run_both(start, end, inputs)
        _, relative = difference(outputs.before, outputs.after)
        if not relative <= TOLERANCE:
            _raise_for_first(changed, outputs.before, inputs)
        if not keeps_signature(start, end, outputs):
            self._equal_signatures(start, changed[-1])
        return relative

    def _equal_signatures(self, start: fx.GraphModule, step: Step) -> None:
        before, after = told_signature(start), self._signature_of(step.result.graph_module)
        if before is None:
            before = self._signature_of(start)
        if before != after:
            raise ContractError(f"pass {step.name} promised an equal signature but changed {before} to {after}")

    def _signature_of(self, stage: fx.GraphModule) -> str:
        if stage not in self._signatures:
            self._signatures[stage] = signature(stage)
        return self._signatures[stage]


def _raise_for_first(changed: list[Step], first: list[torch.Tensor], inputs: tuple[Any, ...]) -> None:
    """Raise ContractError for the first step after which the outputs are not what they were before it."""
    for step in changed:
        after = run_float64(step.result.graph_module, inputs)
        _, gap = difference(first, after)
        if not gap <= TOLERANCE:
            raise _breach(step, inputs, gap)
        first = after


def _breach(step: Step, inputs: tuple[Any, ...], gap: float) -> ContractError:
    where = first_difference(step.before, step.result.graph_module, inputs, TOLERANCE) or "the output"
    return ContractError(
        f"pass {step.name} promised equal values but changed them by {gap:.2g} (relative, float64), first at "
        f"{where}; nothing was changed in the input graph; please report it with the model"
    )
