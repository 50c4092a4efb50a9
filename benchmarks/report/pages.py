"""What a page of results is made of: sections, one a record, with a text, a table, a plot and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from benchmarks import RESULTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = dict[str, Any]
Draw = Callable[["Axes"], None]
BATCH_SIZES = ("1", "64")
"""At which networks are timed."""
_NOTE = "Written by `python -m benchmarks.report.tables`; [README.md](../README.md) says how it was measured."


@dataclass(frozen=True)
class Plot:
    """The picture results/NAME.png: what draws it, its inches, its dots an inch."""

    name: str
    draw: Draw
    size: tuple[float, float] = (6, 3.2)
    dpi: int = 90


@dataclass(frozen=True)
class Page:
    """The page results/NAME.md: its title, what stands below it, and the pictures that it shows."""

    name: str
    title: str
    parts: Sequence[str]
    plots: Sequence[Plot] = ()

    @property
    def markdown(self) -> str:
        """The text of the page."""
        return "\n\n".join([f"# {self.title}", _NOTE, *self.parts]) + "\n"


@dataclass(frozen=True)
class Section:
    """What a page says of the record results/NAME.json; the picture is the higher the more rows the table has."""

    title: str
    text: str
    rows: Sequence[Sequence[Any]]
    headers: Sequence[str]
    draw: Draw
    size: tuple[float, float] | None = None  # inches of the picture, whatever the rows

    def markdown(self, name: str, record: Record) -> str:
        """Return the text of the section."""
        picture = f"![{self.title}]({name}.png)"
        origin = f"{source(record)}; [{name}.json]({name}.json)"
        return "\n\n".join([f"## {self.title}", self.text, table(self.rows, self.headers), picture, origin])

    def plot(self, name: str) -> Plot:
        """Return the picture."""

        def draw(axes: Axes) -> None:
            self.draw(axes)
            axes.spines[["top", "right"]].set_visible(False)

        return Plot(name, draw, self.size or (6, max(3.2, 0.16 * len(self.rows))), dpi=80)


def page_of_records(name: str, title: str, sections: Mapping[str, Callable[[str, Record], Section]]) -> Page:
    """Return a page with a section for each record; ``sections`` has what makes them by the files' first word."""
    parts, plots = [], []
    for kind, section in sections.items():
        for path in sorted(RESULTS.glob(f"{kind}_*.json")):
            record = read_record(path.stem)
            made = section(path.stem.removeprefix(f"{kind}_"), record)
            parts.append(made.markdown(path.stem, record))
            plots.append(made.plot(path.stem))
    return Page(name, title, parts, plots)


def read_record(name: str) -> Record:
    """Return what results/NAME.json holds."""
    record: Record = json.loads((RESULTS / f"{name}.json").read_text())
    return record


def source(record: Record) -> str:
    """Return where a record comes from: its command, as it was given then, versions and machine."""
    versions = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
    cores, threads = record["hardware"]["cores"], record["hardware"].get("threads")
    cpu = f"{threads} of {cores} cores" if threads and threads < cores else f"{cores} cores"
    machine = record["hardware"].get("gpu") or cpu
    told = "".join(f"{name}={value} " for name, value in record.get("environment", {}).items())
    return f"`{told}{record['command']}` ({versions}; {machine})"


def table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """Return a table in Markdown, with the numbers as they are written in ``rows``."""
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def percent(share: float) -> str:
    """Return a share with two digits after the point."""
    return f"{share:.2%}"


def signed(found: Mapping[str, float]) -> str:
    """Return a difference of two shares in points, with its standard error."""
    return f"{100 * found['difference']:+.2f} ± {100 * found['standard_error']:.2f}"


def grouped_bars(axes: Axes, groups: Sequence[str], series: Mapping[str, Sequence[float]], small: int = 7) -> None:
    """Draw a group of bars for each of ``groups``, one of each of ``series``; ``small`` is the size of text."""
    for number, (label, heights) in enumerate(series.items()):
        places = [at + 0.8 * number / len(series) for at in range(len(groups))]
        axes.bar(places, heights, 0.8 / len(series), label=label)
    axes.set_xticks(range(len(groups)), groups, fontsize=small)
    axes.legend(fontsize=small)
