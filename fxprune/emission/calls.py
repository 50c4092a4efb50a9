"""Statements that make layers, as data: blocks whose statements differ in constants alone are one class.

    Call("nn.Conv2d", (Item("in_channels", Constant("64")), ...))      nn.Conv2d(64, out_channels, 3, padding=1)

What is a :class:`Constant` here is written as it is, or is an argument of a class (:mod:`fxprune.emission.classes`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import NamedTuple

from fxprune.ir.node_targets import is_identifier

WIDTH = 110
_FEWEST_REPEATED = 3
_BRACKETS = {"arguments": ("(", ")"), "parts": ("(", ")"), "dict": ("({", "})"), "named": ("(OrderedDict([", "]))")}
_MARK = re.compile("\0(\\d+)\0")


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant at one place: its source, and what it is called there."""

    text: str
    name: str


class Item(NamedTuple):
    """An argument, or the part of a container under ``name``; left out where it is ``default`` (source)."""

    name: str
    value: Constant | Call
    positional: bool = False
    default: str | None = None


@dataclass(frozen=True, eq=False)
class Call:
    """``head(items)tail``; containers take parts in a ``form`` of their own: "parts" by place, "named", "dict"."""

    head: str
    items: tuple[Item, ...] = ()
    tail: str = ""
    form: str = "arguments"


class Statement(NamedTuple):
    """``before``, a call and ``after``."""

    before: str
    call: Call
    after: str = ""


Names = Mapping[Constant, str]
"""What stands for constants that are arguments of the class; all others are written."""


def constants(call: Call) -> Iterator[Constant]:
    """Yield the constants of a call, in order."""
    for item in call.items:
        if isinstance(item.value, Call):
            yield from constants(item.value)
        else:
            yield item.value


def skeleton(call: Call) -> tuple[object, ...]:
    """Return what two calls have in common that differ in constants alone; it can be hashed."""
    items = ((i.name, i.positional, skeleton(i.value) if isinstance(i.value, Call) else None) for i in call.items)
    return call.head, call.tail, call.form, tuple(items)


def marked(index: int) -> str:
    """Return what stands for the constant at ``index`` of a method, in a line of it."""
    return f"\0{index}\0"


def unmarked(line: str, values: Sequence[str]) -> str:
    """Return ``line`` with ``values`` for its constants."""
    return _MARK.sub(lambda found: values[int(found[1])], line)


def statement_lines(statement: Statement, names: Names) -> list[str]:
    """Return the source of a statement."""
    text = call_text(statement.call, names, len(statement.before) + 8)
    return f"{statement.before}{text}{statement.after}".split("\n")


def call_text(call: Call, names: Names, column: int = 0) -> str:
    """Return the source of a call that begins at ``column``: in one line, where that is short enough."""
    parts = _repeated(call, names) if call.form == "parts" else [_item(call, item, names) for item in call.items]
    parts = [part for part in parts if part]
    before, after = (
        _BRACKETS[call.form] if call.form != "named" or not _are_keywords(call) else ("(OrderedDict(", "))")
    )
    if call.form == "arguments":
        return "\n".join(wrapped(call.head + before, parts, after + call.tail, column))
    text = f"{call.head}{before}{', '.join(parts)}{after}{call.tail}"
    nested = sum("nn.Sequential(" in part or "*(" in part for part in parts) > 1
    if "\n" not in text and column + len(text) <= WIDTH and not nested:
        return text
    return "\n".join([call.head + before, *(_indented(f"{part},") for part in parts), after + call.tail])


def wrapped(before: str, parts: Sequence[str], after: str, column: int) -> list[str]:
    """Return parts with commas between them as one line, or as several where that would be too long."""
    text = f"{before}{', '.join(parts)}{after}"
    if column + len(text) <= WIDTH or not parts:
        return text.split("\n")
    rows, row = [], ""
    for part in parts:
        if row and len(row) + len(part) + column + 8 > WIDTH:
            rows.append(row)
            row = ""
        row += f" {part}," if row else f"{part},"
    return [before, *(_indented(one) for one in (*rows, row)), after]


def _indented(text: str) -> str:
    return "    " + text.replace("\n", "\n    ")


def _are_keywords(call: Call) -> bool:
    return all(is_identifier(item.name) for item in call.items)


def _item(call: Call, item: Item, names: Names) -> str:
    """Return the source of one argument; "" if it is left out."""
    if isinstance(item.value, Call):
        text, key = call_text(item.value, names, 12), quoted(item.name)
        named = f"{item.name}={text}" if _are_keywords(call) else f"({key}, {text})"
        return {"dict": f"{key}: {text}", "named": named}.get(call.form, text)
    text = names.get(item.value, item.value.text)
    if item.value not in names and text == item.default:
        return ""
    return text if item.positional else f"{item.name}={text}"


def quoted(name: str) -> str:
    """Return the source of a text."""
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r") + '"'


def _repeated(call: Call, names: Names) -> list[str]:
    """Return the parts of a container, what follows each other and differs in one argument at most as a loop."""
    rows: list[str] = []
    for _, group in groupby((item.value for item in call.items), key=_kind):
        left = [one for one in group if isinstance(one, Call)]
        while left:
            count, differing = _run(left, names)
            if count < _FEWEST_REPEATED:
                rows.append(call_text(left.pop(0), names, 12))
                continue
            rows.append(_loop(left[:count], differing, names))
            left = left[count:]
    return rows


def _kind(value: object) -> object:
    return (value.head, value.form, value.tail) if isinstance(value, Call) else None


def _run(calls: Sequence[Call], names: Names) -> tuple[int, set[int]]:
    """Return how many of ``calls``, from the first, differ in one argument at most, and in which."""
    differing: set[int] = set()
    if calls[0].form != "arguments" or calls[0].head.startswith("nn."):
        return 1, differing
    first = _arguments(calls[0], names)
    for count, other in enumerate(calls[1:], start=1):
        own = _arguments(other, names)
        more = differing | {index for index, text in enumerate(own) if text != first[index]}
        if len(more) > 1:
            return count, differing
        differing = more
    return len(calls), differing


def _arguments(call: Call, names: Names) -> list[str]:
    return [names.get(item.value, item.value.text) for item in call.items if isinstance(item.value, Constant)]


def _loop(calls: Sequence[Call], differing: set[int], names: Names) -> str:
    if not differing:
        return f"*({call_text(calls[0], names)} for _ in range({len(calls)}))"
    (index,) = differing
    changing = calls[0].items[index]
    assert isinstance(changing.value, Constant)
    name = changing.name if changing.name not in names.values() else f"each_{changing.name}"
    text = call_text(calls[0], {**names, changing.value: name})
    texts = [_arguments(one, names)[index] for one in calls]
    found = sequence(texts)
    line = f"*({text} for {name} in {found})"
    if len(line) + 12 <= WIDTH or "\n" in text:
        return line
    rows = wrapped(f"for {name} in (", texts, ")", 16) if found.startswith("(") else [f"for {name} in {found}"]
    return "\n".join(["*(", *map(_indented, (text, *rows)), ")"])


def sequence(texts: Sequence[str]) -> str:
    """Return the source of several constants: a range where they are whole numbers at equal distances."""
    if all(text.isdecimal() for text in texts) and len(texts) > 2:
        numbers = [int(text) for text in texts]
        step = numbers[1] - numbers[0]
        if step > 0 and all(b - a == step for a, b in pairwise(numbers)):
            end = numbers[-1] + step
            return f"range({numbers[0]}, {end}, {step})" if step > 1 else f"range({numbers[0]}, {end})"
    return f"({', '.join(texts)})"
