"""A function that writes into one of its arguments, as one that returns a written copy of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Written:
    """Calls ``function`` with a copy of the argument at ``position``, and returns that copy as it was left.

    What a call_function node calls in place of a function that torch.fx did not look into and that overwrites a
    tensor, so that a value in the graph never changes.
    """

    function: Callable[..., Any]
    position: int

    def __call__(self, *arguments: Any) -> Any:
        """Return the argument at ``position`` as ``function`` leaves it."""
        changed = list(arguments)
        changed[self.position] = arguments[self.position].clone()
        self.function(*changed)
        return changed[self.position]

    @property
    def __name__(self) -> str:
        """The function's own; torch.fx asks for it."""
        return self.function.__name__
