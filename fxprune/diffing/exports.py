"""A diff as a graph: for networkx, Graphviz (DOT) and whatever reads GraphML.

Each entry of the diff is one node, with both its names; an edge says in which graph the one reads the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fxprune.diffing.entries import Change, Kind
from fxprune.diffing.printable import printable

if TYPE_CHECKING:
    import networkx as nx

COLOURS: dict[Kind, str] = {  # of Okabe and Ito, which the colour-blind can tell apart
    "unchanged": "#999999",
    "changed": "#E69F00",
    "fused": "#0072B2",
    "removed": "#D55E00",
    "added": "#009E73",
}


def to_networkx(changes: Sequence[Change]) -> nx.DiGraph[int]:
    """Return the entries as nodes 0, 1, ... with text and numbers as attributes; edges tell which graph has them."""
    import networkx as nx  # not with fxprune itself: it takes as long as all the rest of it

    graph: nx.DiGraph[int] = nx.DiGraph()
    places: list[dict[str, int]] = [{}, {}]
    for index, change in enumerate(changes):
        graph.add_node(index, **_attributes(change))
        places[0].update({node.name: index for node in change.before})
        if change.after is not None:
            places[1][change.after.name] = index
    for index, change in enumerate(changes):
        for nodes, place, side in ((change.before, places[0], "before"), ((change.after,), places[1], "after")):
            for source in (place[name] for node in nodes if node is not None for name in node.inputs):
                if source != index:  # what was fused read one another
                    known = graph.edges.get((source, index), {"graphs": side})["graphs"]
                    graph.add_edge(source, index, graphs=side if known == side else "both")
    return graph


def _attributes(change: Change) -> dict[str, Any]:
    main = change.main
    found: dict[str, Any] = {
        "kind": change.kind,
        "op": main.op,
        "path": main.path,
        "detail": main.detail,
        "before": ", ".join(node.name for node in change.before),
        "after": change.after.name if change.after else "",
        "what": ", ".join(change.what),
        "why": "; ".join(str(reason) for reason in change.why),
        "shape": "x".join(map(str, main.shape)) if main.shape is not None else "",
    }
    for name, (before, after) in (("macs", change.macs), ("params", change.params)):
        found |= {f"{name}_before": before, f"{name}_after": after}
    return found if main.scale is None else {**found, "scale": main.scale}


def to_graphml(changes: Sequence[Change]) -> str:
    """Return the graph as GraphML; characters that XML cannot hold are spelled out."""
    import networkx as nx

    graph = to_networkx(changes)
    for _, attributes in graph.nodes(data=True):
        attributes.update({name: printable(v) for name, v in attributes.items() if isinstance(v, str)})
    return "\n".join(nx.generate_graphml(graph)) + "\n"


def to_dot(changes: Sequence[Change]) -> str:
    """Return the graph in Graphviz's language; edges of one graph only are dashed (before) or bold (after)."""
    graph = to_networkx(changes)
    styles = {"before": "dashed", "after": "bold", "both": "solid"}
    lines = ["digraph diff {", "  node [shape=box, style=bold];"]
    for index, attributes in graph.nodes(data=True):
        names = attributes["path"] or attributes["after"] or attributes["before"]
        label = "\n".join(printable(part) for part in (names, attributes["op"], attributes["detail"]) if part)
        tip = "\n".join(
            printable(part) for part in (attributes["kind"], attributes["what"], attributes["why"]) if part
        )
        lines.append(
            f'  n{index} [label={_quoted(label)}, color="{COLOURS[attributes["kind"]]}", tooltip={_quoted(tip)}];'
        )
    for source, index, attributes in graph.edges(data=True):
        lines.append(f"  n{source} -> n{index} [style={styles[attributes['graphs']]}];")
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
