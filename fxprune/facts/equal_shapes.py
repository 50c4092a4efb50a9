"""Which values have one shape, and which have one rank, for every input that the graph takes: proofs, not examples.

The shapes of all values are worked out with unknown sizes (:mod:`fxprune.facts.shape_rules`), once for each rank
that the inputs may have; a rank at which a layer refuses its input is none that the graph takes (a BatchNorm2d takes
four axes, a Linear as many features as its weight has). What is not known to this analysis has a shape of its own.
"""

from __future__ import annotations

from functools import cached_property
from itertools import islice, product
from typing import Any

from torch import fx, nn

from fxprune.facts.shape_rules.cases import Case, Refused
from fxprune.facts.shape_rules.rules import Step, step_of
from fxprune.facts.shapes import shape
from fxprune.ir.by_mode import MODE, modes_of
from fxprune.ir.module_tree import has_hooks
from fxprune.ir.nodes import called_module

_RANKS = range(7)
_RANK_OF_NORM: dict[Any, int] = {nn.BatchNorm2d: 4, nn.BatchNorm3d: 5}
_MOST_CASES = 16


class EqualShapes:
    """The shapes of the values of one graph, as it is when the first question is asked; ask before editing it."""

    def __init__(self, of: fx.GraphModule | fx.Graph) -> None:
        self._graph = of if isinstance(of, fx.Graph) else of.graph

    @cached_property
    def _cases(self) -> list[Case]:
        """The shapes for each combination of ranks of the inputs that the graph takes; none if nothing is known."""
        inputs = [n for n in self._graph.find_nodes(op="placeholder") if n.users and shape(n) is not None]
        if len(inputs) == 1:
            ranks = [[rank] for rank in _RANKS]
        else:
            own = [[rank for rank in _RANKS if self._case({node: rank}) is not None] for node in inputs]
            ranks = [list(each) for each in islice(product(*own), _MOST_CASES + 1)]
        if not inputs or len(ranks) > max(_MOST_CASES, len(_RANKS)):
            ranks = [[]]
        cases = [self._case(dict(zip(inputs, each, strict=False))) for each in ranks]
        found = [case for case in cases if case is not None]
        return found if any(self._is_of_example(case) for case in found) else []

    @cached_property
    def _steps(self) -> list[tuple[fx.Node, Step, bool]]:
        """What works out the shape of each node, and whether one mode alone computes it."""
        of_one_mode = modes_of(self._graph)
        return [(node, step_of(node), node in of_one_mode) for node in self._graph.nodes]

    @staticmethod
    def _is_of_example(case: Case) -> bool:
        known = ((shape(node), rank) for node, rank in case.ranks.items())
        return all(sizes is None or len(sizes) == rank for sizes, rank in known)

    def _case(self, ranks: dict[fx.Node, int]) -> Case | None:
        case = Case(ranks)
        try:
            for node, step, in_one_mode in self._steps:
                found = _without_demands(node, step, case) if in_one_mode else step(case)
                case.shapes[node] = case.own(node) if found is None else found
        except Refused:
            return None
        return case

    def equal(self, a: fx.Node, b: fx.Node) -> bool:
        """Say whether ``a`` and ``b`` have one shape for every input that the graph takes."""
        shapes = [(case.normal(a), case.normal(b)) for case in self._cases]
        return bool(shapes) and all(first is not None and first == second for first, second in shapes)

    def rank(self, node: fx.Node) -> int | None:
        """Return the rank of ``node``, if it is the same for every input that the graph takes."""
        for user in node.users:
            norm = called_module(user)
            if norm is not None and type(norm) in _RANK_OF_NORM and not has_hooks(norm) and MODE not in user.meta:
                return _RANK_OF_NORM[type(norm)]  # it takes no other: there is nothing to work out
        found = [case.normal(node) for case in self._cases]
        ranks = {None if one is None else one.rank for one in found}
        return ranks.pop() if len(ranks) == 1 else None


def _without_demands(node: fx.Node, step: Step, case: Case) -> Any:
    """Return the shape of what one mode alone computes: what that demands of the inputs is not noted."""
    ranks, numbers = dict(case.ranks), dict(case.numbers)
    try:
        return step(case)
    except Refused:
        return case.own(node)
    finally:
        case.restore(ranks, numbers)
