"""How many channels shall go, in one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fxprune.choosing.targets import Targets
from fxprune.errors import FxpruneValueError
from fxprune.structures.channels.labels import LEAST

Scope = Literal["uniform", "global"]


@dataclass(frozen=True)
class Amount:
    """How many channels go, of all groups; the options of :class:`fxprune.passes.RemoveChannels` in one value.

    Raises:
        FxpruneValueError: one has a value that it may not have, or two exclude one another.
    """

    ratio: float | Mapping[str, float] | None = None
    targets: Targets = field(default_factory=Targets)
    scope: Scope = "uniform"
    multiple_of: int = 1
    least: float = LEAST

    def __post_init__(self) -> None:
        for stage, share in self.stages.items():
            if not 0 < share < 1:
                of = f" at {stage!r}" if stage else ""
                raise FxpruneValueError(
                    f"ratio is a share above 0 and below 1 of each group's channels; got {share}{of}"
                )
        if self.ratio is not None and not self.targets.is_empty:
            raise FxpruneValueError("ratio and targets exclude one another: a target says how many channels go")
        if self.multiple_of < 1:
            raise FxpruneValueError(f"multiple_of is a number of channels from 1; got {self.multiple_of}")
        if not self.least > 0 or (self.least > 1 and self.least % 1):
            raise FxpruneValueError(
                f"least is a number of channels from 1, or a share below 1 of each group; got {self.least}"
            )

    @property
    def stages(self) -> Mapping[str, float]:
        """The share of each stage by its pattern; that of all is at ""."""
        if self.ratio is None or isinstance(self.ratio, Mapping):
            return self.ratio or {}
        return {"": self.ratio}

    @property
    def is_empty(self) -> bool:
        """Whether only what nobody reads shall go."""
        return self.ratio is None and self.targets.is_empty
