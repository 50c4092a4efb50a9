"""What is told of the channels of a graph, group by group: a table, plain data, or what concerns one layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from tabulate import tabulate

_NAMED = 3  # so many layers are named in a table and on a page


@dataclass(frozen=True)
class Stay:
    """Why channels stay.

    Attributes:
        at: the layer, by its path, or the function, by its node.
        op: what that computes.
        why: what it does with the channels.
        choices: of how many choices of the group this is the first reason.
        freed_by: what would free them of it; "" if nothing is known to.
    """

    at: str
    op: str
    why: str
    choices: int
    freed_by: str

    def __str__(self) -> str:
        return f"{self.at}: {self.why}" + (f"; freed by {self.freed_by}" if self.freed_by else "")


@dataclass(frozen=True)
class ChannelGroup:
    """The channels of one group: those of which it is a choice which go.

    Attributes:
        name: the path of the first layer that makes them.
        width: how many channels the widest of its layers has; or choices, if these are more.
        removable: how many of these can go, if not all at once: two of an axis stay.
        choices: how many choices there are: channels that can only go together are one.
        macs: what goes with all that can go, for one sample: rows of the layers that make them and columns of those
            that read them; what lies in both counts once.
        params: likewise, with the parameters of the layers that carry them.
        made_by: the layers whose outputs they are, by their paths.
        read_by: the layers, and the functions, by their nodes, that read them.
        carried_by: other layers with parameters for each channel: norms, depthwise convs.
        tied_at: the nodes at which channels of several layers come to go together.
        stays: why some stay.
        freed_by: what would free more of them.
    """

    name: str
    width: int
    removable: int
    choices: int
    macs: int
    params: int
    made_by: tuple[str, ...]
    read_by: tuple[str, ...]
    carried_by: tuple[str, ...]
    tied_at: tuple[str, ...]
    stays: tuple[Stay, ...]
    freed_by: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return its fields by their names, as plain data."""
        return {**_fields(self), "stays": [_fields(one) for one in self.stays]}

    def told(self, total: int) -> str:
        """Return in a sentence what can go and what it holds of ``total`` MACs."""
        text = f"{self.removable:,} of the {self.width:,} channels of the group {self.name} can go"
        if self.removable:
            text += f", with {_share(self.macs, total)} of the MACs and {self.params:,} parameters"
        if self.choices < self.width:
            text += f"; they are {self.choices:,} choice{'s' * (self.choices != 1)}"
        return text


def _fields(value: Any) -> dict[str, Any]:
    found = {one.name: getattr(value, one.name) for one in fields(value)}
    return {name: list(one) if isinstance(one, tuple) else one for name, one in found.items()}


def _share(part: float, whole: float) -> str:
    return f"{part / whole if whole else 0:.1%}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


@dataclass(frozen=True)
class ChannelInspection:
    """The groups of channels of a graph and its regions. MACs are for one sample; printing it shows a table.

    Attributes:
        groups: in the order of the graph.
        outputs: how many output channels the layers have that make channels.
        removable_outputs: how many of these can go.
        macs: of the whole graph, those that are known.
        removable_macs: what goes with all that can go, at most; less than the sum over groups, which overlap.
        closed: layers with weights that are not looked into, and why.
    """

    groups: tuple[ChannelGroup, ...]
    outputs: int
    removable_outputs: int
    macs: int
    removable_macs: int
    closed: tuple[Stay, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "channel_outputs": self.outputs,
            "removable_channel_outputs": self.removable_outputs,
            "removable_macs_in_channels": self.removable_macs,
            "channels": [one.to_json() for one in self.groups],
            "closed_to_channels": [
                {"path": one.at, "op": one.op, "why": one.why, "freed_by": one.freed_by} for one in self.closed
            ],
        }

    @property
    def summary(self) -> str:
        """What can go at most, in one line."""
        share = f"{self.removable_outputs / self.outputs if self.outputs else 0:.0%}"
        return (
            f"channels: {len(self.groups)} group{'s' * (len(self.groups) != 1)}, {self.removable_outputs:,} of "
            f"{self.outputs:,} output channels can go ({share}) and hold "
            f"{_share(self.removable_macs, self.macs)} of the MACs"
        )

    def __str__(self) -> str:
        rows = [
            [one.name, one.width, one.removable, _share(one.macs, self.macs), one.params, _ties(one), _verdict(one)]
            for one in self.groups
        ]
        headers = ["channels of", "width", "can go", "MACs", "params", "go with", "why others stay"]
        align = ("left", "right", "right", "right", "right", "left", "left")
        widths = [None, None, None, None, None, 44, 60]
        table = tabulate(rows, headers=headers, intfmt=",", colalign=align if rows else None, maxcolwidths=widths)
        return "\n\n".join([table, "\n".join([*self.notes, self.summary])])

    @property
    def notes(self) -> list[str]:
        """Which layers are not looked into, one line for those of one reason."""
        found: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for one in self.closed:
            found[one.why, one.freed_by].append(one.at)
        return [
            f"not looked into: {_some(paths)}: {why}" + (f"; freed by {freed_by}" if freed_by else "")
            for (why, freed_by), paths in found.items()
        ]

    def why(self, path: str) -> list[str]:
        """Return all that is known of the channels that a layer makes, reads or carries; nothing if it has none."""
        lines = []
        for group in self.groups:
            if path in group.made_by:
                lines += [f"makes: {group.told(self.macs)}", *_details(group, path)]
        for role, group in self._of_layer.get(path, ()):
            if role != "makes":
                lines.append(f"{role}: {group.told(self.macs)}")
        return [*lines, *(f"not looked into: {one}" for one in self.closed if one.at == path)]

    def marks(self, path: str) -> list[str]:
        """Return in short what a layer makes, reads and carries."""
        found = []
        for role, group in self._of_layer.get(path, ()):
            told = f"{role}: {group.told(self.macs)}"
            if role == "makes":
                told += "".join(f"; {one}" for one in (_ties(group), _verdict(group)) if one)
            found.append(told)
        if len(found) > _NAMED:
            found[_NAMED:] = [f"and {len(found) - _NAMED} other groups"]
        return found

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """All layers and functions that :meth:`why` knows."""
        return (*self._of_layer, *(one.at for one in self.closed))

    @cached_property
    def _of_layer(self) -> dict[str, list[tuple[str, ChannelGroup]]]:
        found: defaultdict[str, list[tuple[str, ChannelGroup]]] = defaultdict(list)
        for role, field in (("makes", "made_by"), ("reads", "read_by"), ("carries", "carried_by")):
            for group in self.groups:
                for path in getattr(group, field):
                    found[path].append((role, group))
        return dict(found)


def _ties(group: ChannelGroup) -> str:
    others = [one for one in group.made_by if one != group.name]
    if not others:
        return ""
    return f"those of {_some(others)}" + (f", tied at {_some(group.tied_at)}" if group.tied_at else "")


def _verdict(group: ChannelGroup) -> str:
    if not group.stays:
        return ""
    first, *more = group.stays
    text = f"{first.at}: {first.why}" + (f", and {len(more)} more reasons" if more else "")
    freed_by = [one for one in group.freed_by if one not in text]
    return text + (f"; freed by {' or '.join(freed_by)}" if freed_by else "")


def _details(group: ChannelGroup, path: str) -> Iterator[str]:
    """Yield what goes with the channels that ``path`` makes, who reads them and why some stay."""
    listed = {
        "go with those of": [one for one in group.made_by if one != path],
        "tied at": group.tied_at,
        "carried by": group.carried_by,
        "read by": group.read_by,
    }
    for label, names in listed.items():
        if names:
            yield f"  {label} {', '.join(names)}"
    for one in group.stays:
        yield f"  {one.choices:,} of {group.choices:,} stay: {one}"
    if group.freed_by:
        yield f"  freed by {' or '.join(group.freed_by)}"
