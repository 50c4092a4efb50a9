"""A diff as JSON, version 1.

    {"format": "fxprune-diff", "version": 1,
     "matched_by": "origin" | "guess",
     "before": TOTALS, "after": TOTALS,
     "changes": [CHANGE, ...]}                          in graph order, removed nodes where they stood

    TOTALS  {"nodes": int, "macs": int, "params": int, "unknown": [str, ...]}       ops whose MACs nobody knows
    CHANGE  {"kind": "unchanged" | "changed" | "fused" | "removed" | "added",
             "before": [NODE, ...], "after": NODE | null,
             "what": [str, ...],                        of op, kernel, bias, scale, value, shape, options, input
             "why": [REASON, ...], "declined": [REASON, ...]}     what passes rewrote it by, why others did not
    REASON  {"pass": str, "rule": str, "step": int | null}
    NODE    {"name": str, "op": str, "path": str, "inputs": [str, ...], "shape": [int, ...] | null,
             "macs": int, "params": int, "scale": number | null, "detail": str}

The fields are those of :mod:`fxprune.diffing.entries`. The version rises with every change that a reader must know
of; fields that are added without one are to be ignored by readers that do not know them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar, cast, get_args

from fxprune.diffing.entries import KINDS, WHAT, Change, Kind, MatchedBy, NodeInfo, Reason, Totals, What
from fxprune.errors import LoadError

FORMAT, VERSION = "fxprune-diff", 1
_T = TypeVar("_T")


def change_to_data(change: Change) -> dict[str, Any]:
    """Return a CHANGE."""
    return {
        "kind": change.kind,
        "before": [_node_to_data(node) for node in change.before],
        "after": change.after and _node_to_data(change.after),
        "what": list(change.what),
        "why": [_reason_to_data(reason) for reason in change.why],
        "declined": [_reason_to_data(reason) for reason in change.declined],
    }


def _reason_to_data(reason: Reason) -> dict[str, Any]:
    return {"pass": reason.pass_name, "rule": reason.rule, "step": reason.step}


def _node_to_data(node: NodeInfo) -> dict[str, Any]:
    shape = None if node.shape is None else list(node.shape)
    return {**vars(node), "inputs": list(node.inputs), "shape": shape}


def totals_to_data(totals: Totals) -> dict[str, Any]:
    """Return TOTALS."""
    return {**asdict(totals), "unknown": list(totals.unknown)}


def read(data: Any) -> tuple[tuple[Change, ...], Totals, Totals, str]:
    """Return changes, totals before and after, and how nodes were matched; raises LoadError for anything else."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise LoadError("this is no diff of fxprune's")
    version = data.get("version")
    if version != VERSION:
        newer = isinstance(version, int) and version > VERSION
        raise LoadError(
            f"the diff is of version {version}, this fxprune reads {VERSION}{'; update fxprune' if newer else ''}"
        )
    try:
        changes = _list(data["changes"], _change)
        before, after = (_totals(data[key]) for key in ("before", "after"))
        return changes, before, after, _one_of(data["matched_by"], get_args(MatchedBy))
    except (LookupError, TypeError, ValueError) as error:
        what = f"lacks {error}" if isinstance(error, LookupError) else str(error)
        raise LoadError(f"the diff is damaged: {what}") from error


def _change(data: Any) -> Change:
    change = Change(
        cast(Kind, _one_of(data["kind"], KINDS)),
        _list(data["before"], _node),
        _optional(data["after"], _node),
        tuple(cast(What, _one_of(one, WHAT)) for one in data["what"]),
        _list(data["why"], _reason),
        _list(data.get("declined", []), _reason),  # not in files of versions that did not tell
    )
    count = len(change.before)
    fits = {"added": count == 0, "fused": count > 1}.get(change.kind, count == 1)
    if not fits or (change.after is None) != (change.kind == "removed"):
        raise ValueError(f"an entry that is {change.kind} has the wrong nodes")
    return change


def _reason(data: Any) -> Reason:
    return Reason(_text(data["pass"]), _text(data["rule"]), _optional(data["step"], _int))


def _node(data: Any) -> NodeInfo:
    scale = _optional(data["scale"], _number)
    return NodeInfo(
        _text(data["name"]),
        _text(data["op"]),
        _text(data["path"]),
        _list(data["inputs"], _text),
        _optional(data["shape"], lambda shape: _list(shape, _int)),
        _int(data["macs"]),
        _int(data["params"]),
        scale,
        _text(data["detail"]),
    )


def _totals(data: Any) -> Totals:
    nodes, macs, params = (_int(data[key]) for key in ("nodes", "macs", "params"))
    return Totals(nodes, macs, params, _list(data.get("unknown", []), _text))  # of late; older files do not tell


def _list(data: Any, read_one: Callable[[Any], _T]) -> tuple[_T, ...]:
    if not isinstance(data, list):
        raise TypeError(f"{data!r:.40} is no list")
    return tuple(read_one(one) for one in data)


def _optional(data: Any, read_one: Callable[[Any], _T]) -> _T | None:
    return None if data is None else read_one(data)


def _one_of(data: Any, known: tuple[str, ...]) -> str:
    if data not in known:
        raise ValueError(f"{data!r:.40} is none of {', '.join(known)}")
    return str(data)


def _text(data: Any) -> str:
    if not isinstance(data, str):
        raise TypeError(f"{data!r:.40} is no text")
    return data


def _int(data: Any) -> int:
    if type(data) is not int:
        raise TypeError(f"{data!r:.40} is no whole number")
    return data


def _number(data: Any) -> float:
    if type(data) not in (int, float):
        raise TypeError(f"{data!r:.40} is no number")
    return float(data)
