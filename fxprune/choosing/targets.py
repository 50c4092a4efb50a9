"""What pruning shall leave of a network, in one value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from fxprune.errors import FxpruneValueError, require_share
from fxprune.ir.arguments import option_kinds, require_kind

_OF = {"macs": "the MACs", "params": "the parameters", "memory": "the activation memory", "latency": "the time"}
_OPTIONS = {"milliseconds": "target_ms"}
"""What records and the shell call a target where that is not "target_" and its name."""


@dataclass(frozen=True)
class Targets:
    """What to leave of a network's costs, most as shares in (0, 1]; all may stay of what is not given.

    Args:
        macs: of the multiply-accumulates that were traced.
        params: of the parameters, those of scales left out.
        memory: of the most memory that activations take at a time in inference, beside weights and inputs, in the
            network that will be emitted.
        milliseconds: what a forward pass of the network that will be emitted may take, above 0; under the conditions
            of a :class:`fxprune.LatencyModel`, its batch among them.
        latency: the share of the time that a forward pass takes unpruned, likewise; never both.

    Raises:
        FxpruneError: one is no such share, or no such time, or two say how long.
    """

    macs: float | None = None
    params: float | None = None
    memory: float | None = None
    milliseconds: float | None = None
    latency: float | None = None

    def __post_init__(self) -> None:
        for name, hint in option_kinds(Targets).items():
            given = getattr(self, name)
            require_kind(given, hint, "Targets", name)
            if name in _OF:
                require_share(f"{name} of Targets", _OF[name], given)
        if self.milliseconds is not None and not 0 < self.milliseconds < math.inf:
            raise FxpruneValueError(f"milliseconds of Targets is a time above 0; got {self.milliseconds}")
        if self.milliseconds is not None and self.latency is not None:
            raise FxpruneValueError("milliseconds and latency of Targets both say how long it may take: give one")

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked for."""
        return not self._given()

    @property
    def is_timed(self) -> bool:
        """Whether a time is asked for."""
        return self.milliseconds is not None or self.latency is not None

    def options(self) -> dict[str, float | None]:
        """Return each by its name in records of runs, which is that of its option in the shell."""
        return {_option(field.name): getattr(self, field.name) for field in fields(self)}

    @classmethod
    def of_options(cls, options: Mapping[str, float | None]) -> Targets:
        """Return the targets that have these :meth:`options`; of older records some may lack."""
        return cls(**{field.name: options.get(_option(field.name)) for field in fields(cls)})

    def _given(self) -> dict[str, float]:
        known = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: one for name, one in known.items() if one is not None}

    def __str__(self) -> str:
        told = self._given().items()
        parts = [f"{100 * one:g}% of {_OF[name]}" if name in _OF else f"{one:g} ms" for name, one in told]
        return f"at most {' and '.join(parts)}" if parts else "no target"


def _option(name: str) -> str:
    return _OPTIONS.get(name, f"target_{name}")
