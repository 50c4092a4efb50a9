"""Where a network's time goes, op by op, and what each removal could save: ``fxprune latency``.

found = inspect_latency(traced, model)         # model = fxprune.LatencyModel.measure(traced, backend="compile")
print(found)
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from tabulate import tabulate
from torch import fx

from fxprune.choosing.graph_costs import Cost
from fxprune.choosing.remaining import Remaining
from fxprune.choosing.sites import ChannelSite
from fxprune.choosing.time_terms import fit_of
from fxprune.costs.latency.latency_table import LatencyTable, TimedOp
from fxprune.costs.latency.timing import Timing
from fxprune.diffing.entries import NodeInfo
from fxprune.diffing.nodes import describe
from fxprune.errors import FxpruneError
from fxprune.ir.arguments import require_arguments
from fxprune.ir.nodes import graphs_of, require_graph
from fxprune.pipelines.chains import insert_scales
from fxprune.pruning.latency_model import LatencyModel
from fxprune.pruning.layer_sites import name_of, names_of_layers

_SHOWN = 20
_STAIRS = 6
_BETWEEN = 48


class OpLine(NamedTuple):
    """An op of the network that is emitted: its milliseconds in it, its MACs of one sample, its parameters."""

    path: str
    what: str
    ms: float
    macs: int
    params: int


class SiteLine(NamedTuple):
    """What may go, and what it saves alone: of channels half of a group."""

    kind: str
    path: str
    goes: int
    width: int
    ms: float
    macs: int
    params: int


class StairsLine(NamedTuple):
    """What an op takes over the width of what it makes; a width that is a multiple of ``step`` wastes nothing."""

    path: str
    step: int
    widths: tuple[int, ...]
    ms: tuple[float, ...]


@dataclass(frozen=True, repr=False)
class LatencyInspection:
    """Where the time of a network goes.

    Attributes:
        conditions: under which it was measured, as text.
        batch: how many inputs at a time, which all milliseconds are for.
        predicted: the milliseconds that the model says, of the network with its norms folded.
        measured: those of the network itself.
        ops, sites: by their time, the longest first.
        stairs: those of the ops that take longest, one of each kind.
        notes: how far predictions are off, and what was not measured.
    """

    conditions: str
    batch: int
    predicted: float
    measured: Timing
    ops: tuple[OpLine, ...]
    sites: tuple[SiteLine, ...]
    stairs: tuple[StairsLine, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "conditions": self.conditions,
            "batch": self.batch,
            "predicted_ms": self.predicted,
            "measured_ms": self.measured.milliseconds,
            "spread": self.measured.spread,
            "ops": [one._asdict() for one in self.ops],
            "sites": [one._asdict() for one in self.sites],
            "stairs": [one._asdict() for one in self.stairs],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        parts = ["\n".join(self.notes), self._table("where", self.ops), self._table("what may go", self.sites)]
        steps = ", ".join(f"{one.path} {one.step}" for one in self.stairs if one.step > 1)
        return "\n\n".join(
            [*(part for part in parts if part), *([f"widths count in steps: {steps}"] if steps else [])]
        )

    def _table(self, title: str, lines: Sequence[OpLine | SiteLine]) -> str:
        rows = [[one.path, _what(one), f"{one.ms:.4g}", self._share(one.ms), one.macs, one.params] for one in lines]
        if len(rows) > _SHOWN:
            rest = lines[_SHOWN:]
            sums = [sum(one.macs for one in rest), sum(one.params for one in rest)]
            ms = sum(one.ms for one in rest)
            more = [f"{len(rest)} more", "", *([f"{ms:.4g}", self._share(ms), *sums] if lines is self.ops else [])]
            rows = [*rows[:_SHOWN], more]
        headers = [title, "", "ms", "share", "MACs", "parameters"]
        return tabulate(rows, headers=headers, intfmt=",", disable_numparse=[2, 3]) if rows else ""

    def _share(self, milliseconds: float) -> str:
        return f"{milliseconds / self.predicted:.1%}"


def _what(line: OpLine | SiteLine) -> str:
    if isinstance(line, OpLine):
        return line.what
    return f"{line.goes} of {line.width} channels" if line.kind == "channels" else line.kind


def inspect_latency(graph_module: fx.GraphModule, model: LatencyModel) -> LatencyInspection:
    """Return where the time of a traced network goes, and what each conv, branch and half of a group could save.

    Args:
        graph_module: what :func:`fxprune.trace` returned; it is never changed.
        model: was measured with this network, or with one of the same ops.

    Raises:
        FxpruneError: the model knows nothing of an op.
    """
    require_arguments(inspect_latency, locals())
    graph_module = require_graph(graph_module, "inspect_latency")
    predicted, measured = model.milliseconds(graph_module), model.measured(graph_module)
    table = model.table
    lines, ops = _ops(graph_module, table)
    sites, why_none = _sites(graph_module, table)
    told = (
        f"{table.conditions}: {predicted:.4g} ms predicted, {measured.milliseconds:.4g} measured "
        f"(spread of repeats {measured.spread:.1%})"
    )
    return LatencyInspection(
        str(table.conditions),
        table.conditions.batch,
        predicted,
        measured,
        tuple(sorted(lines, key=lambda one: -one.ms)),
        tuple(sorted(sites, key=lambda one: -one.ms)),
        tuple(_stairs(ops, table)),
        (told, *_of_error(table), *table.missing, *why_none),
    )


def _of_error(model: LatencyTable) -> Iterator[str]:
    error = model.error
    if error is not None:
        yield (
            f"predictions of networks that the fit has not seen are off by {error.median:.1%} (median) and "
            f"{error.worst:.1%} (worst), rank correlation {error.rank_correlation:.3f}, spread of repeats "
            f"{error.spread:.1%}"
        )


def _ops(graph_module: fx.GraphModule, model: LatencyTable) -> tuple[list[OpLine], list[tuple[NodeInfo, TimedOp]]]:
    """Return a line for each op, what any network takes at last; and the ops themselves."""
    base, slope, launch = fit_of(model)
    found, ops = [], []
    for region, graph in graphs_of(graph_module):
        told = describe(graph, region)
        for op in model.timed_ops(graph):
            info = told[op.node]
            ms = slope * model.op_time(op, op.workload.widths) + launch
            what = f"{info.op} {info.detail}".strip()
            found.append(OpLine(info.path or info.name, what, ms, info.macs, info.params))
            ops.append((info, op))
    found.append(OpLine("(any network)", "what no op explains", base, 0, 0))
    return found, ops


def _sites(graph_module: fx.GraphModule, model: LatencyTable) -> tuple[list[SiteLine], list[str]]:
    """Return a line for all that may go; or why nothing may."""
    try:
        gated = insert_scales(graph_module, what="all", verify=False).graph_module
    except FxpruneError as error:
        return [], [str(error)]
    remaining, names = Remaining(gated, latency=model), names_of_layers(graph_module)
    found = []
    saved = remaining.saved(remaining.layers.values(), ())
    for path, gate in remaining.layers.items():
        found.append(_line(gate.kind, name_of(gate, names), (1, 1), saved[path]))
    halves = [remaining.chunk(path, range(1, gate.width, 2)) for path, gate in remaining.channels.items()]
    halves = [one for one in halves if one.places]
    saved = remaining.saved(halves, ())
    for one in halves:
        name = _first_layer(remaining.site(one.path))
        found.append(_line("channels", name, (len(one.places), one.gate.width), saved[one.path]))
    return found, []


def _first_layer(site: ChannelSite) -> str:
    """Return the path of the first layer that makes channels of a group; its gate's, if none does."""
    classes = site.group.classes
    layers = (path for path, made in site.channels.outputs.items() if np.isin(made, classes).any())
    prefix = f"{site.region}." if site.region else ""
    return next((prefix + path for path in layers), site.path)


def _line(kind: str, path: str, goes_of: tuple[int, int], saved: Cost) -> SiteLine:
    return SiteLine(kind, path, *goes_of, saved.milliseconds, round(saved.macs), round(saved.params))


def _stairs(ops: Collection[tuple[NodeInfo, TimedOp]], model: LatencyTable) -> Iterator[StairsLine]:
    """Yield what the ops that take longest take over the last of their widths, one of each family."""
    wide = [(info, op) for info, op in ops if len(op.axes) > 1 or (op.axes and not op.workload.fused)]
    wide.sort(key=lambda one: -model.op_time(one[1], one[1].workload.widths))
    known: set[str] = set()
    for info, op in wide:
        if op.workload.family in known or len(known) == _STAIRS:
            continue
        known.add(op.workload.family)
        *others, full = op.workload.widths
        place = len(others)
        least = op.workload.steps[place]
        widths = sorted({max(least, round(full * at / _BETWEEN / least) * least) for at in range(1, _BETWEEN + 1)})
        times = [model.op_time(op, (*others, width)) for width in widths]
        yield StairsLine(info.path or info.name, model.step(op, place), tuple(widths), tuple(times))
