"""A diff, or one graph, as one HTML file: no server, no network, nothing but the file.

The page's style and script lie in ``static/``; what they show is embedded as JSON. A content security policy lets
that script run and nothing else, and the script writes text only, so that no name in a graph can do harm.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any

from torch import fx

from fxprune.choosing.channel_report import ChannelInspection
from fxprune.choosing.inspection import Inspection
from fxprune.costs.macs import tell_unknown
from fxprune.diffing.entries import KINDS, Change, Kind, NodeInfo, Reason
from fxprune.diffing.graph_diff import GraphDiff
from fxprune.diffing.nodes import describe
from fxprune.ir.module_tree import is_opaque
from fxprune.ir.nodes import called_module, graphs_of, module_path
from fxprune.render.measured import Measured, not_measured

_SCRIPTS = ("model.js", "rows.js", "details.js", "view.js", "page.js")
_MARKS: dict[Kind, str] = {"unchanged": "", "changed": "~", "fused": "*", "removed": "\N{MINUS SIGN}", "added": "+"}
_VERDICT_MARKS = {"other": "", "eligible": "✓", "kept": "✕", "opaque": "▣"}
_GUESSED = "The graphs share no origin: layers are matched by name, op, shape and neighbourhood, which is a guess."


def page(
    stages: Sequence[tuple[str, GraphDiff]], whole: GraphDiff, *, title: str, measured: Sequence[Measured] = ()
) -> str:
    """Return the HTML page of a diff.

    Args:
        stages: the diff of each step of a pipeline with the pass's name, in order; none where two files are compared.
        whole: the diff of the first graph and the last.
        title: what was compared.
        measured: what is known of both graphs as wholes; what is not is named as not measured.
    """
    table = _Table()
    shown = [*stages, ("whole", whole)]  # the page opens on the last
    unknown = whole.after.unknown or whole.before.unknown
    notes = [f"MACs: {tell_unknown(unknown)}"] if unknown else []
    data = {
        "sides": [["before", 0], ["after", 1]],
        "kinds": [{"name": kind, "mark": _MARKS[kind]} for kind in KINDS],
        "focus": {"label": "Changed only", "rest": "unchanged"},
        "stages": [_stage(table, name, one) for name, one in shown],
        "trained": _trained_scales([one for _, one in stages]),
        "measured": {"rows": [[*vars(one).values()] for one in measured], "missing": not_measured(measured)},
        "notes": [*notes, *([_GUESSED] if whole.matched_by == "guess" else [])],
    }
    return _document(title, {**data, **table.data()})


def graph_page(
    graph_module: fx.GraphModule, found: Inspection, channels: ChannelInspection | None = None, *, title: str
) -> str:
    """Return the HTML page of one graph: what can be pruned in it and why the rest cannot, and what is opaque.

    Args:
        graph_module: the graph; its regions are shown after it.
        found: what :func:`fxprune.choosing.inspection.inspect_graph` says of it.
        channels: what :func:`fxprune.choosing.channel_inspection.inspect_channels` does: each layer tells of those
            that it makes, reads or carries.
        title: the model's name.
    """
    table = _Table()
    verdicts, linears = _verdicts(graph_module, found), _of_linears(found)
    changes = []
    for region, graph in graphs_of(graph_module):
        for node, info in describe(graph, region).items():
            verdict = verdicts.get(node, {})
            kind = next((kind for kind in ("opaque", "eligible", "kept") if kind in verdict), "other")
            why = [table.reason(reason) for kind in verdict for reason in verdict[kind]]
            partition = linears.get(_own_path(node, region))
            why += [table.reason(partition)] if partition is not None else []
            why += [table.reason(reason) for reason in _of_channels(channels, node, region)]
            changes.append([list(_VERDICT_MARKS).index(kind), [], table.node(info), [], why])
    convs, branches = (sum(one.eligible for _, one in sites) for sites in (found.convs, found.branches))
    tiles = [
        ("MACs in removable layers", found.macs, found.removable_macs),
        ("removable convs", len(found.convs), convs),
        ("removable branches", len(found.branches), branches),
        ("parameters", None, found.params),
    ]
    if channels is not None:
        tiles.insert(3, ("removable output channels", channels.outputs, channels.removable_outputs))
    stage = {
        "name": "graph",
        "changes": changes,
        "tiles": [{"label": label, "whole": whole, "part": part, "change": False} for label, whole, part in tiles],
    }
    data = {
        "sides": [["graph", 1]],
        "kinds": [{"name": kind, "mark": mark} for kind, mark in _VERDICT_MARKS.items()],
        "focus": {"label": "Convs and branches only", "rest": "others"},
        "stages": [stage],
        "trained": {},
        "measured": {"rows": [], "missing": []},
        "notes": found.notes,
    }
    return _document(title, {**data, **table.data()})


def _verdicts(graph_module: fx.GraphModule, found: Inspection) -> dict[fx.Node, dict[str, list[Reason]]]:
    """Return the marks of each conv, each sum and each opaque call, with the reasons."""
    verdicts: dict[fx.Node, dict[str, list[Reason]]] = {}

    def add(node: fx.Node, kind: str, label: str, text: str) -> None:
        verdicts.setdefault(node, {}).setdefault(kind, []).append(Reason(label, text, None))

    for region, graph in graphs_of(graph_module):
        for node in graph.graph.nodes:
            if is_opaque(called_module(node)):
                path = f"{region}.{node.target}" if region else str(node.target)
                inside = [one for one in found.opaque if f"{one.path}.".startswith(f"{path}.")]
                for one in inside:
                    add(node, "opaque", "opaque", f"{one.path} hides {one.hidden_convs} convs: {one.why}")
    for path, site in found.convs:
        where = "" if path.endswith(module_path(site.node)) else f"{path} "  # it is hidden in an opaque module
        verdict = "can be removed" if site.eligible else f"stays: {site.reason}"
        add(site.node, "eligible" if site.eligible else "kept", "conv", where + verdict)
    for path, branch in found.branches:
        holds = f"{branch.macs:,} MACs, {branch.params:,} parameters"
        verdict = f"can be removed, with {holds}" if branch.eligible else f"stays: {branch.reason}"
        add(branch.addition, "eligible" if branch.eligible else "kept", "branch", f"{path} {verdict}")
    return verdicts


def _of_linears(found: Inspection) -> dict[str, Reason]:
    """Return whether each linear layer can be split into partitions, by its path."""
    return {one.path: Reason("partition", one.verdict, None) for one in found.linears}


def _of_channels(channels: ChannelInspection | None, node: fx.Node, region: str) -> list[Reason]:
    """Return what is known of the channels of ``node``."""
    if channels is None:
        return []
    return [Reason("channels", text, None) for text in channels.marks(_own_path(node, region))]


def _own_path(node: fx.Node, region: str) -> str:
    own = node.name if node.op.startswith("call_") and node.op != "call_module" else str(node.target)
    return f"{region}.{own}" if region else own


class _Table:
    """The nodes and reasons of all stages, each once; a stage refers to them by number."""

    def __init__(self) -> None:
        self._nodes: dict[NodeInfo, int] = {}
        self._reasons: dict[Reason, int] = {}

    def node(self, node: NodeInfo) -> int:
        return self._nodes.setdefault(node, len(self._nodes))

    def reason(self, reason: Reason) -> int:
        return self._reasons.setdefault(reason, len(self._reasons))

    def change(self, change: Change) -> list[Any]:
        after = -1 if change.after is None else self.node(change.after)
        row = [KINDS.index(change.kind), [self.node(node) for node in change.before], after]
        more = [change.what, *([self.reason(one) for one in reasons] for reasons in (change.why, change.declined))]
        while more and not more[-1]:
            more.pop()
        return [*row, *more]

    def data(self) -> dict[str, Any]:
        return {
            "nodes": [
                [n.name, n.op, n.path, n.inputs, n.shape, n.macs, n.params, n.scale, n.detail] for n in self._nodes
            ],
            "reasons": [[r.pass_name, r.rule, r.step] for r in self._reasons],
        }


def _stage(table: _Table, name: str, one: GraphDiff) -> dict[str, Any]:
    pairs = (("MACs", "macs"), ("parameters", "params"), ("nodes", "nodes"))
    tiles = [
        {"label": label, "whole": getattr(one.before, key), "part": getattr(one.after, key), "change": True}
        for label, key in pairs
    ]
    return {"name": name, "changes": [table.change(change) for change in one.changes], "tiles": tiles}


def _trained_scales(stages: Sequence[GraphDiff]) -> dict[str, float]:
    """Return the last effective scale that each node of the first graph had, or what stood for it, by its name."""
    found: dict[str, float] = {}
    first = {node.name: node.name for stage in stages[:1] for change in stage.changes for node in change.before}
    for stage in stages:
        following: dict[str, str] = {}
        for change in stage.changes:
            known = [(node, first[node.name]) for node in change.before if node.name in first]
            found |= {name: node.scale for node, name in known if node.scale is not None}
            after = change.after
            if known and after is not None:
                _, name = next((pair for pair in known if pair[0].path == after.path), known[-1])
                following[after.name] = name
                found |= {} if after.scale is None else {name: after.scale}
        first = following
    return found


def _document(title: str, data: Mapping[str, Any]) -> str:
    """Return the page that shows ``data``."""
    style = static("theme.css") + static("page.css")
    script = "".join(static(name) for name in _SCRIPTS)
    return Template(static("page.html")).substitute(
        title=escaped(title),
        policy=f"default-src 'none'; style-src {hash_of(style)}; script-src {hash_of(script)}",
        style=style,
        data=_embedded(data),
        script=script,
    )


def static(name: str) -> str:
    """Return one of the files in ``static/``."""
    return (files("fxprune.render") / "static" / name).read_text(encoding="utf-8")


def escaped(text: str) -> str:
    """Return ``text`` as HTML that shows it, in ASCII."""
    return html.escape(text).encode("ascii", "xmlcharrefreplace").decode()


def hash_of(text: str) -> str:
    """Return how a content security policy names an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _embedded(data: Any) -> str:
    """Return ``data`` as JSON in which nothing can end a script element, as ASCII."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
