"""Which channels can go, group by group: with what, what they hold, and why the others stay.

    found = inspect_channels(graph_module)
    print(found)

Channels that can only go together are one choice, and choices that are alternatives to each other a group: the
outputs of a conv, with all that is summed with them (see :mod:`fxprune.structures.channels.groups`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import fx

from fxprune.choosing.channel_choice import kept_classes
from fxprune.choosing.channel_costs import ALL, held
from fxprune.choosing.channel_layers import Layers, layers_by_group
from fxprune.choosing.channel_report import ChannelGroup, ChannelInspection, Stay
from fxprune.choosing.keeping import KEPT, Kept
from fxprune.costs.macs import total_macs
from fxprune.facts.shapes import require_shapes
from fxprune.gates.base import ungated
from fxprune.ir.module_tree import is_opaque
from fxprune.ir.nodes import called_module, graphs_of, place
from fxprune.ops.call import is_a
from fxprune.ops.free_ops import op_name
from fxprune.structures.channels.groups import Channels, Group
from fxprune.structures.channels.labels import Array, Reason
from fxprune.structures.computed_weights import computed_weights

_NORMS = ("layer_norm", "rms_norm", "group_norm")
_ATTENTION = ("multihead_attention", "shifted_window_attention")
_APPROXIMATE = "statistics='approximate'"


def inspect_channels(
    graph_module: fx.GraphModule, keep: Sequence[str] = (), only: Sequence[str] = ()
) -> ChannelInspection:
    """Return what :class:`fxprune.passes.RemoveChannels` could cut of a graph and its regions.

    ``keep`` and ``only`` are its (see :mod:`fxprune.choosing.keeping`). Groups of which nothing can go are left out
    where only parameters make them that are no layer's weights, as embeddings of positions.
    """
    require_shapes(graph_module)
    kept = Kept(keep, only)
    kept.require_sense(graphs_of(graph_module))
    graphs = [_Graph(graph, region, kept) for region, graph in graphs_of(graph_module)]
    return ChannelInspection(
        groups=tuple(group for one in graphs for group in one.groups()),
        outputs=sum(one.outputs[0] for one in graphs),
        removable_outputs=sum(one.outputs[1] for one in graphs),
        macs=total_macs(graph_module),
        removable_macs=int(sum(one.held[0][ALL] for one in graphs)),
        closed=tuple(stay for one in graphs for stay in one.closed()),
    )


@dataclass
class _Graph:
    """One graph, or a region, and what is found in it. Groups are numbered from 1."""

    graph_module: fx.GraphModule
    region: str
    kept: Kept

    @cached_property
    def channels(self) -> Channels:
        return Channels(self.graph_module)

    @cached_property
    def reasons(self) -> Mapping[int, Reason]:
        """Why classes stay, by class; last of all because the user keeps them."""
        return {**_kept(self.channels, self.kept, self.region), **self.channels.reasons}

    @cached_property
    def owner(self) -> Array:
        """The number of the group of each label."""
        owner = np.zeros(len(self.channels.labels), dtype=np.int64)
        for number, group in enumerate(self.channels.groups, start=1):
            owner[group.classes] = number
        return owner[self.channels.class_of]

    @cached_property
    def free(self) -> Array:
        """Likewise, 0 where it stays."""
        stays = np.zeros(len(self.owner), dtype=bool)
        stays[list(self.reasons)] = True
        return np.where(stays[self.channels.class_of], 0, self.owner)

    @cached_property
    def held(self) -> tuple[np.ndarray, np.ndarray]:
        return held(self.channels, self.free, len(self.channels.groups))

    @cached_property
    def layers(self) -> dict[int, Layers]:
        return layers_by_group(self.channels, self.owner)

    @cached_property
    def outputs(self) -> tuple[int, int]:
        """How many output channels the layers that make channels have, and how many of them can go."""
        made = [classes for one in self.layers.values() for classes in one.makers.values()]
        return sum(map(len, made)), sum(int(np.count_nonzero(self.free[one])) for one in made)

    @cached_property
    def approximate(self) -> Mapping[str, int]:
        """How many output channels of each layer could go if norms may change their statistics."""
        if not any(is_a(node, *_NORMS) for node in self.graph_module.graph.nodes):
            return {}
        channels = Channels(self.graph_module, approximate=True)
        stays = {*channels.reasons, *_kept(channels, self.kept, self.region)}
        return {path: sum(one not in stays for one in row.tolist()) for path, row in channels.outputs.items()}

    def at(self, name: str) -> str:
        return f"{self.region}.{name}" if self.region else name

    def groups(self) -> Iterator[ChannelGroup]:
        for number, group in enumerate(self.channels.groups, start=1):
            layers = self.layers.get(number)
            free = sum(one not in self.reasons for one in group.classes.tolist())
            if layers is not None and (free or layers.makers):
                yield self._group(number, group, layers, free)

    def _group(self, number: int, group: Group, layers: Layers, free: int) -> ChannelGroup:
        makers = layers.makers or layers.parameters
        sizes = [(len(one), int(np.count_nonzero(self.free[one])), path) for path, one in makers.items()]
        wide, removable, widest = max(sizes, key=lambda one: one[0], default=(0, 0, ""))
        width, removable = (wide, removable) if wide >= group.width else (group.width, free)
        stays = tuple(self._stays(group))
        freed_by = dict.fromkeys(one.freed_by for one in stays if one.freed_by)
        if self.approximate.get(widest, 0) > removable:
            freed_by[_APPROXIMATE] = None
        macs, params = (int(amounts[number]) for amounts in self.held)
        return ChannelGroup(
            name=self.at(next(iter(makers), group.name)),
            width=width,
            removable=removable,
            choices=group.width,
            macs=macs,
            params=params,
            made_by=tuple(map(self.at, makers)),
            read_by=tuple(map(self.at, layers.readers)),
            carried_by=tuple(map(self.at, layers.carriers)),
            tied_at=tuple(map(self.at, layers.ties)),
            stays=stays,
            freed_by=tuple(freed_by),
        )

    def _stays(self, group: Group) -> Iterator[Stay]:
        counts = Counter(self.reasons[one] for one in group.classes.tolist() if one in self.reasons)
        for reason, count in counts.items():
            yield self._stay(reason, count)

    def _stay(self, reason: Reason, count: int) -> Stay:
        node = reason.node
        at = str(node.target) if node.op == "call_module" else place(node)
        return Stay(self.at(at), _op(node), reason.why, count, _freed_by(reason))

    def closed(self) -> Iterator[Stay]:
        """Yield the layers with weights that no rule looks into; opaque modules are told of elsewhere."""
        found = {
            reason.node: reason
            for tensor, reason in self.channels.walk.foreign
            if tensor.dim() > 1 and not is_opaque(called_module(reason.node))
        }
        for reason in found.values():
            yield self._stay(reason, 0)


def _kept(channels: Channels, kept: Kept, region: str) -> dict[int, Reason]:
    """Return the classes that the user keeps, each with the layer that is kept."""
    _, held_nodes = kept_classes(channels, kept, region)
    return {
        one: Reason(node, KEPT) for node in held_nodes for one in channels.outputs[str(node.target)].tolist() if one
    }


def _op(node: fx.Node) -> str:
    module = called_module(node)
    return type(module).__name__ if module is not None else op_name(node.target)


def _freed_by(reason: Reason) -> str:
    if reason.why == KEPT:
        return "other patterns of keep and only"
    if is_a(reason.node, *_ATTENTION):
        return "SplitAttention"
    module = called_module(reason.node)
    is_computed = "FreezeWeights" in reason.why or (module is not None and bool(computed_weights(ungated(module))))
    return "FreezeWeights" if is_computed else ""
