"""Pruners of channels on the zoo: how many models each gets right, and how many output channels can go with each.

From the rows in results/zoo/: channels.jsonl is fxprune's, and each peer has a file.
"""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks import RESULTS
from benchmarks.report.pages import Record, read_record, table
from benchmarks.zoo.models import GROUPS
from benchmarks.zoo.row import read_rows

PEERS = {"torch-pruning": "Torch-Pruning", "torch-kirigami": "torch-kirigami"}
"""What peers are called, by the name of their file of rows and of their package."""
OURS = "fxprune"
_VERDICTS = (
    *("right", "does not run", "wrong", "refused", "raises", "crash, time-out", "prunes nothing"),
    "runs, not comparable",
)
_BY_STATUS = {
    "ok": "right",
    "different": "wrong",
    "declined": "refused",
    "failed": "crash, time-out",
    "not comparable": "runs, not comparable",
}
"""Verdicts by what a row's status is, where they differ."""

Rows = dict[str, Record]


def sections() -> list[str]:
    """Return what the page of the zoo says of peers; nothing without rows."""
    ours, peers = _rows("channels"), {name: _rows(name) for name in PEERS}
    if not any(peers.values()):
        return []
    lines = [_line(OURS, ours, ours), *(_line(name, rows, ours) for name, rows in peers.items() if rows)]
    return [
        "Pruners of channels on the same models, out of the box: half of the channels, with the peers the "
        "classifier left alone (`python -m benchmarks.zoo.run --peer NAME`). *Right*: the pruned model computes "
        "what the original computes once the weights that make the removed channels are zero; for fxprune, what "
        "the network with its gates at zero computes. *Wrong*: it lost inputs that carry data of channels that it "
        "kept; or all that it lost was zero, and yet its output is another. *Refused*: by an error of its own. "
        "*Not comparable*: it runs, but something else than weights mixes channels (layer or group norm, softmax, "
        "a mean over channels), or a zeroed channel does not arrive as zero. *Can go*: the median share of the "
        "output channels of convolutions and linear layers, at the models that it gets right; beside it fxprune's "
        "at these.",
        table(lines, ("", "models", *_VERDICTS, "can go", "with fxprune")),
        *_by_group({OURS: ours, **peers}),
        *_larger(ours, peers),
        *_deep(),
    ]


def _rows(name: str) -> Rows:
    return read_rows(RESULTS / "zoo" / f"{name}.jsonl")


def verdict(row: Record) -> str:
    """Return what became of a model."""
    if row["status"] == "wrong" and row["step"] == "run":
        return "does not run"
    status: str = row["status"]
    return _BY_STATUS.get(status, status)


def _line(name: str, rows: Rows, ours: Rows) -> list[Any]:
    found = [verdict(row) for row in rows.values()]
    right = {model: row for model, row in rows.items() if row["status"] == "ok" and "free_outputs" in row}
    versions = {row["version"] for row in rows.values() if "version" in row}
    return [
        " ".join([PEERS.get(name, name), *sorted(versions)]),
        len(rows),
        *(found.count(one) for one in _VERDICTS),
        _share(right, right),
        "" if rows is ours else _share(ours, right),
    ]


def _share(rows: Rows, models: Rows) -> str:
    """Return the median share of outputs that can go, of those of ``models`` that have it in ``rows``."""
    found = [rows[name] for name in models if rows.get(name, {}).get("free_outputs") is not None]
    return f"{median(row['free_outputs'] / max(row['outputs'], 1) for row in found):.1%}" if found else ""


def _by_group(rows: dict[str, Rows]) -> list[str]:
    """Return how many models of each group each gets right."""
    lines = [[title, *(_right_of(found, group) for found in rows.values())] for group, title in GROUPS.items()]
    return ["Right, of those that were run:", table(lines, ("", *(PEERS.get(name, name) for name in rows)))]


def _right_of(rows: Rows, group: str) -> str:
    found = [row["status"] == "ok" for row in rows.values() if row["kind"] == group]
    return f"{sum(found)} of {len(found)}"


def larger(ours: Rows, theirs: Rows) -> list[tuple[str, int, int]]:
    """Return the models that a peer gets right and of which more outputs can go with it: its count, and fxprune's."""
    found = []
    for name, row in theirs.items():
        mine = ours.get(name, {}).get("free_outputs")
        if row["status"] == "ok" and mine is not None and row.get("free_outputs", 0) > mine:
            found.append((name, row["free_outputs"], mine))
    return found


def _larger(ours: Rows, peers: dict[str, Rows]) -> list[str]:
    lines = [[PEERS[peer], *one] for peer, theirs in peers.items() for one in larger(ours, theirs)]
    if not lines:
        return []
    return [
        "Models that a peer gets right and of which more output channels can go with it (`python -m "
        "benchmarks.zoo.peer_layers` names the layers, and fxprune's reasons):",
        table(lines, ("", "model", "can go", "with fxprune")),
    ]


def _deep() -> list[str]:
    """Return how long the analysis of a deep network takes; nothing without its record."""
    if not (RESULTS / "channel_peers.json").exists():
        return []
    record = read_record("channel_peers")
    lines = [
        [what, f"{record[mine]:.3f} s", *_against(record[mine], record[theirs], record["limit"])]
        for what, mine, theirs in (
            ("what goes together", "channels", "peer_graph"),
            ("and its list of groups", "groups", "peer_groups"),
        )
    ]
    return [
        f"The analysis of {record['network']}, CPU seconds of one thread: fxprune's of a graph traced before "
        f"({record['trace']:.1f} s), and Torch-Pruning's dependency graph, with its own tracing. Command: `python -m "
        "benchmarks.speed.channel_peers`.",
        table(lines, ("", OURS, "Torch-Pruning", "of it")),
    ]


def _against(mine: float, theirs: float | None, limit: float) -> list[str]:
    if theirs is None:
        return [f"> {limit:g} s", f"< {mine / limit:.3f}"]
    return [f"{theirs:.3f} s", f"{mine / theirs:.3f}"]
