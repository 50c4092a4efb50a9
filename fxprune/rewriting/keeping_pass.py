"""Passes that leave alone what the user keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import fx

from fxprune.choosing.keeping import Kept
from fxprune.rewriting.contract import Log, Pass


@dataclass(frozen=True)
class KeepingPass(Pass):
    """A pass that leaves alone what the user keeps.

    Args:
        keep: patterns over the paths of modules (see :mod:`fxprune.choosing.keeping`): what they match stays.
        only: likewise: layers that none of these matches stay too.
    """

    keep: Sequence[str] = field(default=(), kw_only=True)
    only: Sequence[str] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("keep", "only"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def kept(self) -> Kept:
        """What ``keep`` and ``only`` say."""
        return Kept(self.keep, self.only)

    def rewrite_all(self, graphs: Sequence[tuple[str, fx.GraphModule]], log: Log) -> None:
        """Rewrite one graph after the other; raises FxpruneValueError if a pattern matches nothing in any of them."""
        self.kept.require_sense(graphs)
        super().rewrite_all(graphs, log)
