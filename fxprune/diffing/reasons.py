"""Why nodes changed or did not: what passes said that they rewrote or left alone, by origin."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import fx

from fxprune.diffing.entries import Reason
from fxprune.ir.nodes import origins
from fxprune.rewriting.contract import PassResult, Site, StepResult


class Reasons:
    """What passes said of the sites that they ``looked at``, each known by the origins that it concerns."""

    def __init__(self, looked_at: Iterable[tuple[str, int | None, Sequence[Site]]]) -> None:
        self._reasons: list[Reason] = []
        self._found: dict[tuple[str, str], list[int]] = {}
        for name, step, sites in looked_at:
            for site in sites:
                for origin in site.origins:
                    self._found.setdefault((_region(site), origin), []).append(len(self._reasons))
                self._reasons.append(Reason(name, site.why, step))

    def of(self, region: str, *nodes: fx.Node) -> tuple[Reason, ...]:
        """Return what concerns ``nodes`` of the graph of ``region``, in the order of the passes."""
        found = {index for node in nodes for name in origins(node) for index in self._found.get((region, name), ())}
        return tuple(dict.fromkeys(self._reasons[index] for index in sorted(found)))


def reasons_of(results: Sequence[PassResult | StepResult]) -> tuple[Reasons, Reasons]:
    """Return what the passes said of the sites that they rewrote, and of those that they declined."""
    steps = list(_steps(results))
    rewritten = Reasons((name, step, result.rewritten) for name, step, result in steps)
    return rewritten, Reasons((name, step, result.declined) for name, step, result in steps)


def _steps(results: Sequence[PassResult | StepResult]) -> Iterator[tuple[str, int | None, PassResult]]:
    count = 0
    for result in results:
        if not isinstance(result, PassResult):
            yield result.name, None, result.result
            continue
        steps: Sequence[StepResult] | None = getattr(result, "steps", None)
        if steps is None:
            yield "", None, result
        for step in steps or ():
            yield step.name, count, step.result
            count += 1


def _region(site: Site) -> str:
    return site.node.rpartition(".")[0]  # names of nodes have no dots
