"""A diff as lines of text, unified: what was removed, added and changed, under the path of the module it is in."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from fxprune.costs.macs import at_least, tell_unknown
from fxprune.diffing.entries import KINDS, Change, Compared, Kind, Reason, Totals
from fxprune.diffing.exports import COLOURS
from fxprune.diffing.printable import printable

MARKS: dict[Kind, str] = {"removed": "-", "added": "+", "changed": "~", "fused": "*", "unchanged": " "}
_WIDEST = 44
_BAR = 40


@dataclass(frozen=True)
class Line:
    """One line, and what it is, for whoever colours it."""

    style: Kind | Literal["module", "why", "note"]
    text: str


def unified(found: Compared, only: Collection[Kind] = ()) -> list[Line]:
    """Return the diff, or the entries of the kinds in ``only``, with unchanged ones folded; then the totals."""
    shown = [change for change in found.changes if (change.kind in only if only else change.kind != "unchanged")]
    modules = _modules(found)
    rows = {id(change): _cells(change, modules[id(change)]) for change in shown}
    widths = [min(max((len(row[i]) for row in rows.values()), default=0), _WIDEST) for i in range(4)]
    lines: list[Line] = []
    current: str | None = None
    said: set[Reason] = set()
    for visible, run in groupby(found.changes, key=lambda change: id(change) in rows):
        entries = list(run)
        if not visible:
            if not only:
                lines.append(Line("unchanged", f"  ... {len(entries)} unchanged"))
            continue
        for change in entries:
            module = modules[id(change)]
            if module != current:
                lines.append(Line("module", f"@@ {printable(module) or '(top)'} @@"))
                current = module
            cells = "  ".join(cell.ljust(width) for cell, width in zip(rows[id(change)], widths, strict=True))
            lines.append(Line(change.kind, f"{MARKS[change.kind]} {cells}".rstrip()))
            if change.why and said.issuperset(change.why):
                lines.append(Line("why", "      as above"))
            else:
                lines += [Line("why", f"      {printable(str(reason))}") for reason in change.why]
            said = set(change.why)
    return [*lines, *summary(found)]


def summary(found: Compared) -> list[Line]:
    """Return the totals, and how nodes were matched if that was a guess."""
    counts = ", ".join(f"{found.count(kind)} {kind}" for kind in KINDS)
    kept = [(c.before[0], c.after) for c in found.changes if c.after and len(c.before) == 1]
    renamed = sum(old.path != new.path and old.op == new.op for old, new in kept)
    if renamed:
        counts += f"; {renamed} have another module path"
    lines = [Line("note", counts), Line("note", _totals(found.before, found.after))]
    sides = {"before": found.before.unknown, "after": found.after.unknown}
    if len(set(sides.values())) == 1:
        sides = {"MACs": found.after.unknown}
    lines += [Line("note", printable(f"{side}: {tell_unknown(ops)}")) for side, ops in sides.items() if ops]
    inputs = [c for c in found.changes if c.op == "placeholder" and c.kind != "unchanged"]
    if inputs:
        told = ", ".join(f"{c.main.name} {_shapes(c)}" for c in inputs)
        lines.append(Line("note", printable(f"the inputs are others: {told}; costs are for each graph's own")))
    if found.matched_by == "guess":
        lines.append(
            Line(
                "note", "the graphs share no origin: nodes were matched by name, op, shape and neighbourhood, a guess"
            )
        )
    return lines


def statistics(found: Compared) -> list[Line]:
    """Return one line a module: how its MACs changed, and a bar of its removed, added, changed and fused nodes."""
    modules = _modules(found)
    groups: dict[str, list[Change]] = {}
    for change in found.changes:
        groups.setdefault(modules[id(change)], []).append(change)
    touched = {m: entries for m, entries in groups.items() if any(c.kind != "unchanged" for c in entries)}
    counts = {m: {k: sum(c.kind == k for c in entries) for k in MARKS} for m, entries in touched.items()}
    most = max((sum(count.values()) - count["unchanged"] for count in counts.values()), default=0)
    name_width = max((len(printable(m) or "(top)") for m in touched), default=0)
    macs = {m: pair(*(sum(c.macs[side] for c in entries) for side in (0, 1))) for m, entries in touched.items()}
    width = max((len(text) for text in macs.values()), default=0)
    lines = []
    for module, count in counts.items():
        scale = min(1.0, _BAR / most)
        bar = "".join(MARKS[k] * max(1, round(n * scale)) for k, n in count.items() if n and k != "unchanged")
        lines.append(
            Line(
                "note",
                f" {(printable(module) or '(top)').ljust(name_width)} | {macs[module].rjust(width)} MACs | {bar}",
            )
        )
    return [*lines, *summary(found)]


def story(found: Compared, name: str) -> list[Line]:
    """Return what became of the node or of the nodes of the module ``name``, step by step; empty if there is none."""
    lines: list[Line] = []
    for change in found.changes:
        nodes = (*change.before, *((change.after,) if change.after else ()))
        if not any(name == node.name or f"{node.path}.".startswith(f"{name}.") for node in nodes):
            continue
        first = nodes[0]
        costs = [f"{first.macs:,} MACs"] * bool(first.macs) + [f"{first.params:,} parameters"] * bool(first.params)
        what = " ".join(part for part in (first.op, first.detail) if part)
        lines.append(Line("module", printable(", ".join([f"{first.name}: {what}", *costs]))))
        lines += [Line("why", f"  {i}. {printable(str(why))}") for i, why in enumerate(change.why, start=1)]
        lines += [Line("why", f"  left alone by {printable(str(why))}") for why in change.declined]
        lines.append(Line(change.kind, f"  {printable(_end(change))}"))
    return lines


def _end(change: Change) -> str:
    if change.kind == "fused":
        assert change.after is not None
        names = " and ".join(node.name for node in change.before)
        return f"fused: {names} are now {change.after.name}, {_a(change.after.op)}"
    if change.kind == "changed":
        assert change.after is not None
        return f"changed: {', '.join(change.what)}; it is now {change.after.name}, {_a(change.after.op)}"
    return change.kind


def _a(noun: str) -> str:
    return f"an {noun}" if noun[:1].lower() in ("a", "e", "i", "o") else f"a {noun}"


def as_html(lines: list[Line]) -> str:
    """Return the lines as HTML for a notebook; everything in them is escaped."""
    coloured = (
        f'<span style="color:{COLOURS[line.style]}">{html.escape(line.text)}</span>'
        if line.style in COLOURS and line.style != "unchanged"
        else html.escape(line.text)
        for line in lines
    )
    return "<pre>" + "\n".join(coloured) + "</pre>"


def pair(before: int, after: int) -> str:
    """Return "1,024" or "1,024 -> 512"."""
    return f"{after:,}" if before == after else f"{before:,} -> {after:,}"


def _shapes(change: Change) -> str:
    shapes = [node.shape for node in (*change.before, change.after) if node is not None]
    told = ["x".join(map(str, shape)) if shape else "of unknown shape" for shape in shapes]
    return " -> ".join(told) if len(told) > 1 else f"{told[0]} {change.kind}"


def _totals(before: Totals, after: Totals) -> str:
    macs = at_least(pair(before.macs, after.macs), before.unknown or after.unknown)
    return f"nodes {pair(before.nodes, after.nodes)}, MACs {macs}, params {pair(before.params, after.params)}"


def _modules(found: Compared) -> dict[int, str]:
    """Return, for each entry, the path of the module that it is in: of a layer the one around it."""
    paths = {change.path for change in found.changes}
    around = {prefix for path in paths for prefix in _prefixes(path)}
    return {id(c): c.path if c.path in around else c.path.rpartition(".")[0] for c in found.changes}


def _prefixes(path: str) -> Iterator[str]:
    while path:
        path = path.rpartition(".")[0]
        yield path


def _cells(change: Change, module: str) -> tuple[str, str, str, str]:
    nodes = change.before or (change.main,)
    names = [_short(node.path if node.path not in ("", module) else node.name, module) for node in nodes]
    label = " + ".join(names) if len(names) <= 3 else f"{names[0]} + {len(names) - 1} more"
    first, last = nodes[0], change.main
    op = first.op if first.op == last.op else f"{first.op} -> {last.op}"
    detail = last.detail if first.detail in ("", last.detail) else f"{first.detail} -> {last.detail}"
    costs = [
        f"{pair(*numbers)} {unit}"
        for numbers, unit in ((change.macs, "MACs"), (change.params, "params"))
        if any(numbers)
    ]
    cells = (label, f"{op} {detail}".rstrip(), ", ".join(costs), ", ".join(change.what))
    return tuple(printable(cell) for cell in cells)  # type: ignore[return-value]


def _short(path: str, module: str) -> str:
    return path.removeprefix(f"{module}.") if module else path
