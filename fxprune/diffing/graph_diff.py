"""GraphDiff: two graphs compared, every node of both in one entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from fxprune.diffing import exports, schema, text
from fxprune.diffing.entries import Change, Kind, MatchedBy, Totals

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True)
class GraphDiff:
    """What became of every node of two graphs; printing it shows what is not unchanged, and the totals.

    Attributes:
        changes: the entries, in graph order, removed nodes where they stood.
        before: what the earlier graph holds in all.
        after: what the later one holds.
        matched_by: "origin" if both graphs come from one trace, and so their nodes tell which is which; otherwise
            "guess": nodes were matched by name, op, shape and neighbourhood.
    """

    changes: tuple[Change, ...]
    before: Totals
    after: Totals
    matched_by: MatchedBy

    @property
    def differs(self) -> bool:
        """Whether anything is not unchanged."""
        return any(change.kind != "unchanged" for change in self.changes)

    def count(self, kind: Kind) -> int:
        """Return how many entries are of ``kind``."""
        return sum(change.kind == kind for change in self.changes)

    def __str__(self) -> str:
        return "\n".join(line.text for line in text.unified(self))

    def _repr_html_(self) -> str:
        return text.as_html(text.unified(self))

    def to_networkx(self) -> nx.DiGraph[int]:
        """Return the entries as a graph, numbered as ``changes`` is; an edge leads from what is read to its reader.

        Attributes of nodes are text and numbers; an edge has ``graphs``: "before", "after" or "both".
        """
        return exports.to_networkx(self.changes)

    def to_dot(self) -> str:
        """Return :meth:`to_networkx` in Graphviz's language, coloured by kind."""
        return exports.to_dot(self.changes)

    def to_graphml(self) -> str:
        """Return :meth:`to_networkx` as GraphML."""
        return exports.to_graphml(self.changes)

    def to_json(self) -> dict[str, Any]:
        """Return it as data for ``json.dumps``; :mod:`fxprune.diffing.schema` describes it."""
        return {
            "format": schema.FORMAT,
            "version": schema.VERSION,
            "matched_by": self.matched_by,
            "before": schema.totals_to_data(self.before),
            "after": schema.totals_to_data(self.after),
            "changes": [schema.change_to_data(change) for change in self.changes],
        }

    @classmethod
    def from_json(cls, data: Any) -> GraphDiff:
        """Return the diff that :meth:`to_json` gave; raises LoadError for anything else, and for a newer version."""
        changes, before, after, matched_by = schema.read(data)
        return cls(changes, before, after, cast(MatchedBy, matched_by))
