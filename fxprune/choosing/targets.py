"""What pruning shall leave of a network, in one value."""

from __future__ import annotations

from dataclasses import dataclass, fields

from fxprune.errors import require_share
from fxprune.ir.arguments import option_kinds, require_kind

_OF = {"macs": "the MACs", "params": "the parameters", "memory": "the activation memory"}


@dataclass(frozen=True)
class Targets:
    """The shares of a network's costs to leave, each in (0, 1]; all may stay of what is not given.

    Args:
        macs: of the multiply-accumulates that were traced.
        params: of the parameters, those of scales left out.
        memory: of the most memory that activations take at a time in inference, beside weights and inputs, in the
            network that will be emitted.

    Raises:
        FxpruneError: one is no such share.
    """

    macs: float | None = None
    params: float | None = None
    memory: float | None = None

    def __post_init__(self) -> None:
        for name, hint in option_kinds(Targets).items():
            share = getattr(self, name)
            require_kind(share, hint, "Targets", name)
            require_share(f"{name} of Targets", _OF[name], share)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked for."""
        return not self._given()

    def options(self) -> dict[str, float | None]:
        """Return each by its name in records of runs, which is that of its option in the shell."""
        return {f"target_{field.name}": getattr(self, field.name) for field in fields(self)}

    def _given(self) -> dict[str, float]:
        shares = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: share for name, share in shares.items() if share is not None}

    def __str__(self) -> str:
        parts = [f"{100 * share:g}% of {_OF[name]}" for name, share in self._given().items()]
        return f"at most {' and '.join(parts)}" if parts else "no target"
