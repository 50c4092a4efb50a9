"""The entries of a diff, made from nodes that are matched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from torch import fx

from fxprune.diffing.comparing import Batch, compare
from fxprune.diffing.entries import Change, Kind
from fxprune.diffing.matching import Matches, Nodes
from fxprune.diffing.nodes import reads
from fxprune.diffing.reasons import Reasons
from fxprune.ops.call import claims_of


class Changes:
    """The entries of one graph, or of one region, of ``before`` and ``after``."""

    def __init__(
        self,
        before: Nodes,
        after: Nodes,
        matches: Matches,
        batches: tuple[Batch, Batch],
        region: str,
        reasons: tuple[Reasons, Reasons],
    ) -> None:
        self.before, self.after, self.matches = before, after, matches
        self.batches, self.region = batches, region
        self.reasons, self.declined = reasons
        self._became = {old: new for new, sources in matches.items() for old in sources}
        self._position = {old: index for index, old in enumerate(before)}

    def __iter__(self) -> Iterator[Change]:
        """Yield them in the order of ``after``, removed nodes behind what stood before them."""
        removed: dict[fx.Node | None, list[fx.Node]] = {}
        last: fx.Node | None = None
        for old in self.before:
            last = self._became.get(old, last)
            if old not in self._became:
                removed.setdefault(last, []).append(old)
        for new in (None, *self.after):
            if new is not None:
                yield self._added(new) if new not in self.matches else self._kept(new)
            for old in removed.get(new, ()):
                yield Change("removed", (self.before[old],), None, why=self.reasons.of(self.region, old))

    def _added(self, new: fx.Node) -> Change:
        why, declined = self.reasons.of(self.region, new), self.declined.of(self.region, new)
        return Change("added", (), self.after[new], why=why, declined=declined)

    def _kept(self, new: fx.Node) -> Change:
        sources = self.matches[new]
        main, fused = sources[0], len(sources) > 1
        old_reads = [self._became.get(read, read) for old in sources for read in reads(old)]
        new_reads = reads(new)
        if fused or self.before[main].op != self.after[new].op:  # then order and repetition say nothing
            same_inputs = set(old_reads) - {new} == set(new_reads)
        elif _commutes(new):
            same_inputs = Counter(old_reads) == Counter(new_reads)
        else:
            same_inputs = old_reads == new_reads
        old_info, new_info = self.before[main], self.after[new]
        what = compare((main, old_info), (new, new_info), batches=self.batches, same_inputs=same_inputs)
        kind: Kind = "fused" if fused else "changed" if what else "unchanged"
        why = () if kind == "unchanged" else self.reasons.of(self.region, *sources, new)
        if not why and "input" in what:  # because what it read was removed, or something was put in between
            gone_or_new = {*old_reads, *new_reads} - self.matches.keys()
            why = self.reasons.of(self.region, *gone_or_new)
        ordered = tuple(self.before[old] for old in sorted(sources, key=self._position.__getitem__))
        return Change(kind, ordered, self.after[new], what, why, self.declined.of(self.region, *sources, new))


def _commutes(node: fx.Node) -> bool:
    """Say whether the operands of ``node`` may be exchanged."""
    op = claims_of(node)
    return op is not None and op.commutes
