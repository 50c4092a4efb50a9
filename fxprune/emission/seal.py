"""What binds the files of an emitted folder: graph.json holds the SHA-256 of the others and of what it says itself.

So a reader sees one network whole, or says that it does not: never the graph of one with the weights of another, as a
kill between two files or two writers at once can leave them, nor a bit that flipped.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from fxprune.errors import LoadError

SOURCE, WEIGHTS, GRAPH = "model.py", "weights.safetensors", "graph.json"
EXPORTS = {"pt2": "model.pt2", "onnx": "model.onnx"}
FILES = (GRAPH, SOURCE, *EXPORTS.values(), "model.onnx.data", WEIGHTS)
"""Every file of an emitted folder, in the order in which they are replaced; the first says whose the others are."""
SCHEMA = 3
"""Of graph.json; one of another schema is refused."""
_SEAL = "sha256"
_LARGEST, _DEEPEST, _LONGEST, _HIGHEST = 1 << 28, 100, 1 << 16, 1 << 64  # bytes, levels, characters, numbers


def sealed(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return ``data``, the content of graph.json, with the hashes of itself and of the other files in ``folder``."""
    hashes = {name: _file_digest(folder / name) for name in FILES if (folder / name).exists()}
    return {**data, _SEAL: {**hashes, GRAPH: _digest_of(data)}}


def _file_digest(file: Path) -> str:
    found = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def _digest_of(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def read_sealed(folder: Path) -> tuple[dict[str, Any], bytes]:
    """Return what graph.json says, and the bytes of the weights.

    Raises LoadError if either is missing, is not what was written (nor are others that are there), or can be no
    graph's.
    """
    graph = folder / GRAPH
    try:
        if graph.stat().st_size > _LARGEST:
            raise LoadError(f"{graph} is larger than that of any graph")
        data = json.loads(graph.read_bytes())
        weights = (folder / WEIGHTS).read_bytes()
    except (OSError, ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise LoadError(f"{folder} is not a whole emitted folder: {why}") from error
    require_bounded(data)
    hashes = data.pop(_SEAL, None)
    others = [name for name in FILES if name not in (GRAPH, WEIGHTS) and (folder / name).is_file()]
    found = {GRAPH: _digest_of(data), WEIGHTS: hashlib.sha256(weights).hexdigest()}
    found |= {name: _file_digest(folder / name) for name in others}
    wrong = [name for name in found if not isinstance(hashes, dict) or hashes.get(name) != found[name]]
    if wrong:
        raise LoadError(
            f"{folder} is not a whole emitted folder: {wrong[0]} was changed, or comes from another emit than the "
            "rest; emit the model again"
        )
    return data, weights


def require_bounded(data: Any) -> None:
    """Raise LoadError if ``data`` has another schema, or holds nests, texts or numbers that no graph does."""
    found = data.get("schema") if isinstance(data, dict) else None
    if type(found) is not int or found != SCHEMA:
        advice = "; update fxprune" if isinstance(found, int) and found > SCHEMA else "; emit the model again"
        raise LoadError(f"{GRAPH} has schema {str(found)[:20]}, this fxprune reads {SCHEMA}{advice}")
    waiting = [(data, 0)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, (dict, list)):
            parts = value if isinstance(value, list) else [*value, *value.values()]
            waiting += [(part, depth + 1) for part in parts]
        if depth > _DEEPEST:
            raise LoadError(f"{GRAPH} is nested deeper than {_DEEPEST} levels")
        if isinstance(value, str) and len(value) > _LONGEST:
            raise LoadError(f"{GRAPH} holds a text of more than {_LONGEST} characters")
        if isinstance(value, int) and abs(value) > _HIGHEST:
            raise LoadError(f"{GRAPH} holds a whole number of more than 64 bits")
