"""Blocks of one structure are one class: what differs between them is an argument of its constructor.

BasicBlock(64, 64), BasicBlock(64, 128, stride=2)      two blocks of one class
Bottleneck, Bottleneck2                                what pruning left of the blocks of one class
"""

from __future__ import annotations

import builtins
import keyword
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from fxprune.emission.calls import (
    Call,
    Constant,
    Item,
    Statement,
    constants,
    skeleton,
    statement_lines,
    unmarked,
    wrapped,
)

_SIZES = ("num_features", "normalized_shape", "num_channels", "sizes")
_MOST_PLACES = 4  # that the docstring of a class names
_SIDES = ("in_", "out_", "hidden_")
_RESERVED = {
    *dir(nn.Module()),
    *dir(builtins),
    *keyword.kwlist,
    "nn",
    "torch",
    "math",
    "operator",
    "torchvision",
    "F",
    "self",
}


@dataclass(eq=False)
class Written:
    """A block as text: how it is made, and its method; ``taken`` are the names of what it holds.

    A ``chain`` is an nn.Sequential with the parts of the one call that makes it.
    """

    path: str
    kind: str
    init: list[Statement]
    parameters: str = ""
    lines: list[str] = field(default_factory=list)
    values: list[Constant] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)
    chain: Call | None = None

    def constants(self) -> Iterator[Constant]:
        """Yield every constant of it, in order."""
        for statement in self.init:
            yield from constants(statement.call)
        if self.chain is not None:
            yield from constants(self.chain)
        yield from self.values

    def key(self) -> tuple[object, ...]:
        """Return what blocks of one class have in common; it can be hashed."""
        init = tuple((one.before, skeleton(one.call), one.after) for one in self.init)
        chain = None if self.chain is None else skeleton(self.chain)
        return self.kind, init, chain, self.parameters, tuple(self.lines)


@dataclass(frozen=True)
class Parameter:
    """An argument of a class: its name, its default (source) if it has one, and the places where it stands.

    Sizes are given by place, all else by name.
    """

    name: str
    is_size: bool
    default: str | None
    places: tuple[int, ...]


class Group:
    """Blocks of one structure."""

    def __init__(self, name: str, blocks: Sequence[Written]) -> None:
        self.name = name
        self._first = blocks[0]
        self._places = [block.path for block in blocks]
        self._columns = [list(one.constants()) for one in blocks]
        self.parameters = self._parameters(blocks[0].taken)

    def _parameters(self, taken: set[str]) -> list[Parameter]:
        found: dict[tuple[str, tuple[str, ...]], list[int]] = {}
        for place, values in enumerate(zip(*self._columns, strict=True)):
            texts = tuple(value.text for value in values)
            if len(set(texts)) > 1:
                family = "" if _is_size(values[0].name) or values[0].name == "groups" else values[0].name
                found.setdefault((family, texts), []).append(place)
        names = _names(
            [{place: self._columns[0][place].name for place in places} for places in found.values()], taken
        )
        parameters = []
        for ((_, texts), places), (name, is_size) in zip(found.items(), names, strict=True):
            most, count = Counter(texts).most_common(1)[0]
            required = is_size or 2 * count < len(texts) or most.startswith("[")
            parameters.append(Parameter(name, is_size, None if required else most, tuple(places)))
        return sorted(parameters, key=lambda one: (not one.is_size, one.default is not None))

    def call(self, index: int) -> Call:
        """Return what makes the block at ``index``."""
        column = self._columns[index]
        items = (
            Item(p.name, Constant(column[p.places[0]].text, p.name), p.is_size, p.default) for p in self.parameters
        )
        return Call(self.name, tuple(items))

    def source(self) -> str:
        """Return the statement that defines the class."""
        own = self._columns[0]
        named = {own[place]: p.name for p in self.parameters for place in p.places}
        block = self._first
        given = [p.name if p.default is None else f"{p.name}={p.default}" for p in self.parameters]
        constructor = wrapped("def __init__(", ["self", *given], "):", 4)
        if block.chain is not None:
            call = Call("super().__init__", block.chain.items, form=block.chain.form)
            body = statement_lines(Statement("", call), named)
            return self._class("nn.Sequential", [*constructor, *_indented(body)])
        kept = {named[value]: None for value in block.values if value in named}
        lines = [line for one in block.init for line in statement_lines(one, named)]
        init = ["super().__init__()", *(f"self.{name} = {name}" for name in kept), *lines]
        own_init = [*constructor, *_indented(init), ""] if len(init) > 1 else []
        texts = [f"self.{named[value]}" if value in named else value.text for value in block.values]
        forward = returning([unmarked(line, texts) for line in block.lines])
        return self._class("nn.Module", [*own_init, f"def forward(self, {block.parameters}):", *forward])

    def _class(self, base: str, lines: Sequence[str]) -> str:
        first, more = self._places[:_MOST_PLACES], len(self._places) - _MOST_PLACES
        said = f'"""{", ".join(first)}{f" and {more} more" * (more > 0)}."""'
        return "\n".join([f"class {self.name}({base}):", *_indented([said, "", *lines])]) + "\n\n\n"


def returning(lines: Sequence[str]) -> list[str]:
    """Return the lines of a method without a name for what it returns at once."""
    *rest, made, last = lines if len(lines) > 1 else ("", *lines)
    name, _, text = made.strip().partition(" = ")
    if last.strip() != f"return {name}" or not name.isidentifier() or made.find(name) != last.find("return"):
        return list(lines)
    return [*rest, last.replace(f"return {name}", f"return {text}")]


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" if line else "" for line in lines]


def _names(places: Sequence[Mapping[int, str]], taken: set[str]) -> list[tuple[str, bool]]:
    """Return a name for what stands at several places, given what it is called there, and whether it is a size.

    A size that goes in and comes out is ``channels``, one that does neither ``hidden_channels``.
    """
    sized = [index for index, names in enumerate(places) if any(map(_is_size, names.values()))]
    first = min(_ends(places, sized, "in_"), default=(0, None))[1]
    last = max(_ends(places, sized, "out_"), default=(0, None))[1]
    used = taken | _RESERVED
    found = []
    for index, own_names in enumerate(places):
        names = list(own_names.values())
        own = names[0]
        if index in sized:
            role = {first: "in_", last: "out_"}.get(index, "hidden_") if first != last or index != first else ""
            role = role if any(name.startswith(_SIDES) for name in names) else ""
            own = role + ("features" if all(name.endswith("features") for name in names) else "channels")
        own = own if own.isidentifier() else "value"
        own = f"{own}_" if own in _RESERVED else own
        free = next(one for one in (own, *(f"{own}{n}" for n in range(2, len(used) + 3))) if one not in used)
        used.add(free)
        found.append((free, index in sized))
    return found


def _ends(places: Sequence[Mapping[int, str]], sized: Sequence[int], side: str) -> list[tuple[int, int]]:
    return [(place, index) for index in sized for place, name in places[index].items() if name.startswith(side)]


def _is_size(name: str) -> bool:
    return name in _SIZES or name.rstrip("0123456789").endswith(("channels", "features"))
