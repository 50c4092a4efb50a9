"""What must hold of every graph after every pass: one list, checked in the tests and under --debug."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from torch import fx

from fxprune.errors import ContractError
from fxprune.facts.shapes import wrong_shapes
from fxprune.facts.updated_buffers import writes_to_values
from fxprune.ir.nodes import ORIGIN, TRACE, place, require_order

_checking: ContextVar[bool] = ContextVar("checking", default=False)


@contextmanager
def checking_invariants() -> Iterator[None]:
    """Check every graph that a pass makes inside."""
    token = _checking.set(True)
    try:
        yield
    finally:
        _checking.reset(token)


def _without_origins(graph_module: fx.GraphModule) -> Iterator[fx.Node]:
    """Yield the nodes that have no origins; in a graph that torch.fx traced alone none has any at first."""
    nodes = graph_module.graph.nodes if TRACE in graph_module.meta else ()
    return (node for node in nodes if not node.meta.get(ORIGIN))


_Rule = tuple[str, Callable[[fx.GraphModule], Iterator[fx.Node]]]
OF_OUR_PASSES: tuple[_Rule, ...] = (("nobody knows what it stands for in the traced graph", _without_origins),)
OF_ALL: tuple[_Rule, ...] = (
    ("it writes into a value that others may read", writes_to_values),
    ("it computes another shape or dtype than was noted", wrong_shapes),
)


def require_invariants(made_by: str, graphs: Sequence[tuple[str, fx.GraphModule]], *, is_ours: bool) -> None:
    """Raise ContractError, naming node and rule, if one of ``graphs`` is not as it must be and that is checked.

    A pass of another package may leave out what its new nodes stand for: they stand for themselves then.
    """
    if not _checking.get():
        return
    for region, graph_module in graphs:
        require_order(graph_module)
        for why, find in (*OF_ALL, *(OF_OUR_PASSES if is_ours else ())):
            for node in find(graph_module):
                where = f"{place(node)}{f', in {region}' if region else ''}"
                raise ContractError(f"pass {made_by} left a graph that is not as it must be: {where}: {why}")
