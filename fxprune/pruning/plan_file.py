"""The file of a plan: JSON, a site a line, so that a diff shows which sites differ.

{
  "fxprune_plan": 1,
  "criterion": "l1",
  "targets": {"target_macs": 0.5, "target_params": null, "target_memory": null, "target_ms": null,
    "target_latency": null},
  "groups": "within",
  "statistics": "exact",
  "sites": [
    {"kind": "channels", "path": "conv1", "width": 64, "indices": [3, 17], "scores": [0.81, 1.02]}
  ],
  "fingerprint": [
    "conv1 Conv2d 64x3x7x7"
  ]
}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fxprune.choosing.targets import Targets
from fxprune.errors import LoadError, did_you_mean, first_line

FORMAT = 1
_FORMAT = "fxprune_plan"
_LISTS = ("sites", "fingerprint")
_HEAD = {"criterion": str, "targets": dict, "groups": str, "statistics": str}


def plan_text(head: Mapping[str, Any], lists: Mapping[str, Sequence[Any]]) -> str:
    """Return the text of a plan's file: what is in ``lists`` has a line for each."""
    parts = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in {_FORMAT: FORMAT, **head}.items()]
    for name, content in lists.items():
        items = ",\n".join(f"    {json.dumps(one)}" for one in content)
        parts.append(f"  {json.dumps(name)}: [\n{items}\n  ]" if items else f"  {json.dumps(name)}: []")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def read_plan(path: Path) -> dict[str, Any]:
    """Return what a plan's file has, the sites as plain data; raises LoadError, which says what is wrong."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LoadError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # of another encoding too
        raise LoadError(f"{path} is no plan: {first_line(error)}") from error
    if not isinstance(content, dict) or _FORMAT not in content:
        raise LoadError(f"{path} is no plan: fxprune plan writes one, which has {_FORMAT!r}")
    if content.pop(_FORMAT) != FORMAT:
        raise LoadError(f"{path} is a plan of another format; this version reads {_FORMAT} {FORMAT}")
    kinds: dict[str, type] = {**_HEAD, **dict.fromkeys(_LISTS, list)}
    for name, value in content.items():
        if name not in kinds:
            raise LoadError(f"{path} has {name!r}, which no plan has{did_you_mean(name, kinds)}")
        if not isinstance(value, kinds[name]):
            raise LoadError(f"{path}: {name} is {value!r}, and should be a {kinds[name].__name__}")
    for name in content.get("targets", ()):
        if name not in Targets().options():
            raise LoadError(f"{path}: {name!r} is no target{did_you_mean(name, Targets().options())}")
    return {**{name: [] for name in _LISTS}, **content}
