"""Take out channels that nothing reads, or that were chosen, with all that goes with them.

W2 relu(norm(W1 x))   ->   W2[:, kept] relu(norm'(W1[kept] x))      exact where W2[:, gone] is 0
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from torch import fx

from fxprune.choosing.channel_choice import CRITERIA, by_indices, by_ratio, kept_classes, require_left
from fxprune.choosing.keeping import KEPT
from fxprune.errors import FxpruneValueError, did_you_mean
from fxprune.rewriting.contract import Contract, Log
from fxprune.rewriting.cutting.cut import Cut
from fxprune.rewriting.cutting.sizes import Fault
from fxprune.rewriting.keeping_pass import KeepingPass
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.reading import unread
from fxprune.structures.gated_layers import layers_of_graph

_SHOWN = 8


@dataclass(frozen=True)
class RemoveChannels(KeepingPass):
    """Remove the channels that nothing reads, a share of each group of channels, or those that are named.

    Without options those go whose gate is 0, or whose columns are zero wherever they are read: outputs stay.

    Args:
        ratio: the share of each group that goes, above 0 and below 1; those that are worth least.
        criterion: what a channel is worth: "l1", the L1 norm of its rows in all weights that make it (after Li et
            al., arXiv 1608.08710; summed over what goes together, which is ours), or "random".
        seed: of "random".
        indices: the output channels that go, by the paths of layers: {"layer1.0.conv1": [0, 3]}. What goes together
            with them goes too.
        groups: of grouped convs, of norms and of heads go the same channels "within" each, or "whole" ones.
        statistics: "approximate" lets layer and group norms lose channels, whose statistics are of the others then.
        keep, only: layers whose output channels stay (see :mod:`fxprune.choosing.keeping`).

    Raises:
        FxpruneValueError: a layer or a channel that there is not, or nothing would be left of an axis.
    """

    name: ClassVar[str] = "remove-channels"
    after: ClassVar[tuple[str, ...]] = ("insert-channel-gate", "split-attention")
    changes_shapes: ClassVar[bool] = True
    ratio: float | None = None
    criterion: str = "l1"
    seed: int = 0
    indices: Mapping[str, Sequence[int]] = field(default_factory=dict, hash=False)
    groups: Literal["within", "whole"] = "within"
    statistics: Literal["exact", "approximate"] = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise FxpruneValueError(
                f"ratio is a share above 0 and below 1 of each group's channels; got {self.ratio}"
            )
        if self.criterion not in CRITERIA:
            hint = did_you_mean(self.criterion, list(CRITERIA))
            raise FxpruneValueError(f"unknown criterion {self.criterion!r}{hint}; known: {', '.join(CRITERIA)}")

    @property
    def contract(self) -> Contract:  # type: ignore[override]  # depends on the options
        """Equal values where only what nobody reads goes, an equal signature otherwise."""
        chooses = self.ratio is not None or bool(self.indices)
        return Contract.SIGNATURE if chooses or self.statistics == "approximate" else Contract.VALUES

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        """Take the chosen channels out."""
        channels = Channels(graph_module, whole=self.groups == "whole", approximate=self.statistics == "approximate")
        if layers_of_graph(graph_module):
            log.warn("the channels of layers with a gate stay: remove and fuse these first (fxprune.AFTER_TRAINING)")
        kept, held = kept_classes(channels, self.kept, log.region)
        for node in held:
            log.decline(node, KEPT)
        silent = unread(channels) - kept
        gone = self._chosen(channels, kept, log) | silent
        gone = self._without_short_axes(channels, gone)
        if not gone:
            log.warn(self._why_nothing(channels, kept))
        while gone:
            try:
                cut = Cut(channels.walk, gone)
            except Fault as fault:
                log.decline(fault.node, fault.why)
                less = gone - channels.classes_at(fault.node)
                gone = channels.spared(less, channels.magnitudes) if less < gone else set()
                continue
            which = self._which(channels, gone, silent)
            for node, told in cut.apply().items():
                log.rewrote(node, told + which.get(str(node.target), ""))
            _tell(gone, silent, log)
            return

    def _which(self, channels: Channels, gone: Collection[int], silent: Collection[int]) -> dict[str, str]:
        """Return which output channels of each layer go, and why, by its path."""
        found = {}
        chosen = "named" if self.indices else f"worth least by {self.criterion}"
        reasons = [(set(gone) & set(silent), "which nobody reads"), (set(gone) - set(silent), chosen)]
        flags = [(channels.flagged(classes), why) for classes, why in reasons]
        for path, classes in channels.outputs.items():
            parts = []
            for goes, why in flags:
                places = np.flatnonzero(goes[classes])
                more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
                parts += [f"{', '.join(map(str, places[:_SHOWN]))}{more}, {why}"] if len(places) else []
            if parts:
                found[path] = f"; without {'; '.join(parts)}"
        return found

    def _chosen(self, channels: Channels, kept: Collection[int], log: Log) -> set[int]:
        gone: set[int] = set()
        if self.ratio is not None:
            gone |= by_ratio(channels, self.ratio, CRITERIA[self.criterion](channels, self.seed), kept)
        for one, (path, place) in by_indices(channels, self.indices, log.region).items():
            if channels.stays[one] or one in kept:
                log.warn(f"channel {place} of {path} stays: {channels.reasons.get(one, KEPT)}")
            else:
                gone.add(one)
        return gone

    def _why_nothing(self, channels: Channels, kept: Collection[int]) -> str:
        """Return why no channel goes."""
        free = {one for group in channels.groups for one in group.free.tolist()}
        if not free:
            reasons = Counter(one.why for one in channels.reasons.values())
            most = f": {reasons.most_common(1)[0][0]}" if reasons else ""
            return f"no channel can go{most}; fxprune inspect --channels tells why each stays"
        if free <= set(kept):
            return f"no channel can go: all {len(free):,} that could are {KEPT}"
        if self.ratio is not None:
            return f"ratio={self.ratio:g} is less than one channel of each group"
        return (
            "every channel is read: close gates of InsertChannelGate first, or give a ratio, or indices of those "
            "that shall go"
        )

    def _without_short_axes(self, channels: Channels, gone: set[int]) -> set[int]:
        if self.indices:
            require_left(channels, gone)
            return gone
        return channels.spared(gone, channels.magnitudes)


def _tell(gone: Collection[int], silent: Collection[int], log: Log) -> None:
    """Warn of what was cut though something read it."""
    others = len(set(gone) - set(silent))
    if others:
        log.warn(
            f"{others:,} channels were cut that were not zero: outputs change; train on, or measure the norms anew"
        )
