"""How far a graph with gates is from a target for the memory of a forward pass, once some of them are gone."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from torch import fx

from fxprune.choosing.budget import Budget
from fxprune.choosing.remaining import Remaining, Site
from fxprune.costs.activation_memory import activation_bytes
from fxprune.errors import TargetError
from fxprune.ir.nodes import origins, place
from fxprune.pruning.emitted import emitted_whole, emitted_without
from fxprune.structures.channel_chunk import Chunk
from fxprune.structures.channels.labels import LEAST


class MemoryBudget(Budget):
    """The most bytes of activations that a forward pass may hold: a share of what it holds with all of its layers.

    Counted in the network that would be emitted, see :func:`fxprune.costs.activation_memory.activation_bytes`.

    Attributes:
        limit: the bytes, for the traced batch.

    Raises:
        TargetError: even without any layer more is held; says how much.
    """

    def __init__(self, graph_module: fx.GraphModule, share: float, remaining: Remaining | None = None) -> None:
        self.graph_module = graph_module
        self._remaining = remaining or Remaining(graph_module)
        everything = self._remaining.all_but(LEAST)
        whole = max(activation_bytes(emitted_whole(graph_module)).values())
        self.limit = share * whole
        held = self._bytes_without(everything)
        peak = max(held, key=held.__getitem__)
        if held[peak] > self.limit:
            least = held[peak] / whole
            advice = f"ask for at least {least + 5e-4:.3f}"
            if least > 0.9995:
                advice = f"no removal lowers that, which is the most at {place(peak)}: leave target_memory out"
            raise TargetError(
                f"target_memory={share:g} cannot be met: without {self._all()} a forward pass still holds "
                f"{least:.3f} of the memory; {advice}"
            )

    def _all(self) -> str:
        if self._remaining.channels:
            return "all that can go"
        return f"all {len(self._remaining.layers)} removable layers"

    def excess(self, removed: Sequence[Site]) -> float:
        """Return by how many bytes the network without ``removed`` is above the limit, summed over its nodes."""
        return sum(max(0.0, held - self.limit) for held in self._bytes_without(removed).values())

    def macs_to_meet_it(self) -> int:
        """Return the MACs of one sample of what meets it when it goes: the largest ones that hold a peak.

        A peak is a node at which more than the limit is held. Each turn compiles once, and takes sites until every
        peak lies in one of them; where none lies in any, as many of the largest as were taken before. Of channels
        eighths of a group are taken.
        """
        layers = sorted(self._remaining.layers.values(), key=lambda layer: -layer.macs)
        largest: list[Site] = [*layers, *self._eighths()]
        left, chosen = largest, list[Site]()
        while left and (peaks := self._peaks_without(chosen)):
            chosen += _holding(left, peaks) or left[: max(1, len(chosen))]
            gone = frozenset().union(*(site.nodes for site in chosen))
            left = [one for one in largest if one not in chosen and (isinstance(one, Chunk) or one.node not in gone)]
        return int(self._remaining.left(()).macs - self._remaining.left(chosen).macs)

    def _eighths(self) -> Iterator[Chunk]:
        for path, gate in self._remaining.channels.items():
            size = max(1, gate.width // 8)
            for first in range(0, gate.width - LEAST - size + 1, size):
                yield self._remaining.chunk(path, range(first, first + size))

    def _peaks_without(self, removed: Sequence[Site]) -> set[str]:
        """Return the traced nodes whose compiled ones hold too much in the network without ``removed``."""
        held = self._bytes_without(removed)
        return {name for node, count in held.items() if count > self.limit for name in origins(node)}

    def _bytes_without(self, removed: Collection[Site]) -> dict[fx.Node, int]:
        channels = bool(self._remaining.channels)
        return activation_bytes(emitted_without(self.graph_module, removed, channels=channels))


def _holding(ranked: Sequence[Site], peaks: set[str]) -> list[Site]:
    """Return the first of ``ranked`` that together hold all of ``peaks`` that any of them holds."""
    found: list[Site] = []
    for layer in ranked:
        inside = set() if layer.region else {name for node in layer.nodes for name in origins(node)}
        if not peaks.isdisjoint(inside):
            found.append(layer)
            peaks = peaks - inside
    return found
