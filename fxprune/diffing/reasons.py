"""Why nodes changed: what passes said that they rewrote, by origin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from torch import fx

from fxprune.diffing.entries import Reason
from fxprune.graph import origins
from fxprune.rewriting import PassResult, Site

if TYPE_CHECKING:
    from fxprune.pipeline import Step


class Reasons:
    """The rules that passes applied, each known by the origins that it concerns."""

    def __init__(self, results: Sequence[PassResult | Step]) -> None:
        self._reasons: list[Reason] = []
        self._found: dict[tuple[str, str], list[int]] = {}
        for name, step, result in _steps(results):
            for site in result.rewritten:
                for origin in site.origins:
                    self._found.setdefault((_region(site), origin), []).append(len(self._reasons))
                self._reasons.append(Reason(name, site.why, step))

    def of(self, region: str, *nodes: fx.Node) -> tuple[Reason, ...]:
        """Return the rules that concern ``nodes`` of the graph of ``region``, in the order of their application."""
        found = {index for node in nodes for name in origins(node) for index in self._found.get((region, name), ())}
        return tuple(dict.fromkeys(self._reasons[index] for index in sorted(found)))


def _steps(results: Sequence[PassResult | Step]) -> Iterator[tuple[str, int | None, PassResult]]:
    count = 0
    for result in results:
        if not isinstance(result, PassResult):
            yield result.name, None, result.result
            continue
        steps: Sequence[Step] | None = getattr(result, "steps", None)
        if steps is None:
            yield "", None, result
        for step in steps or ():
            yield step.name, count, step.result
            count += 1


def _region(site: Site) -> str:
    return site.node.rpartition(".")[0]  # names of nodes have no dots
