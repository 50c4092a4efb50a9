"""Where the forward of a model parts from a graph whose layers it has got: the line of the user's, or the module.

x.view(len(x), 64, -1)         where the graph has 32 channels left
return x + self.conv(x)        where the conv was removed, and the graph returns x
"""

from __future__ import annotations

import linecache
import warnings
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import fx, nn

from fxprune.errors import first_line
from fxprune.ir.module_tree import is_opaque
from fxprune.ir.nodes import (
    PASSES,
    TRACE,
    called_module,
    example_inputs_of,
    graphs_of,
    innermost_module,
    is_there,
    origins,
    place,
)
from fxprune.pruning.model_runs import Returned, arranged, input_names, run_graph_float64, run_model_float64
from fxprune.pruning.placing import whole_call
from fxprune.rewriting.verify import TOLERANCE, difference
from fxprune.tracing.source import line_of_error
from fxprune.tracing.trace import trace


def place_of_difference(
    written: nn.Module,
    graph_module: fx.GraphModule,
    model: nn.Module,
    inputs: Sequence[Any],
    error: BaseException | None,
) -> str:
    """Say where ``written`` fails with ``error``, or returns something else than ``graph_module``, on ``inputs``.

    ``model`` is what it was before.
    """
    counts = None
    with suppress(Exception):  # which is not what is told of
        counts = _counted_line(model, graph_module)
    if error is not None:
        shown = f"{line_of_error(error)}: {first_line(error)}"
        return f"{counts}; it fails: {shown}" if counts else f"it fails: {shown}"
    return counts or _first_module(written, graph_module, inputs)


def _counted_line(model: nn.Module, graph_module: fx.GraphModule) -> str | None:
    """Return the first line of the user's that counts channels: traced anew, it has another number than the graph."""
    args, kwargs = arranged(
        model, dict(zip(input_names(graph_module), example_inputs_of(graph_module), strict=False))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = trace(model, args, kwargs, check=False)
    if before.meta[TRACE] != graph_module.meta.get(TRACE):
        return None
    for (path, old), (_, new) in zip(graphs_of(before), graphs_of(graph_module), strict=True):
        nodes = {node.name: node for node in new.graph.nodes}
        for node in old.graph.nodes:
            changed = nodes.get(node.name)
            if changed is None or node.op != changed.op or node.op not in ("call_function", "call_method"):
                continue
            if _numbers(node) != _numbers(changed) and not _is_layers(old, node):
                return f"{_line_of(node, path)} has {_numbers(node)} where the graph has {_numbers(changed)}"
    return None


def _numbers(node: fx.Node) -> tuple[int, ...]:
    found: list[int] = []

    def note(value: Any) -> Any:
        if type(value) is int:
            found.append(value)
        return value

    fx.node.map_aggregate((node.args, node.kwargs), note)
    return tuple(found)


def _is_layers(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Say whether the forward of a layer made ``node``: it reads widths from attributes, which were counted anew."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.LayerNorm, nn.GroupNorm)
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return bool(stack) and isinstance(stack[-1][1], type) and issubclass(stack[-1][1], kinds)


def _line_of(node: fx.Node, region: str) -> str:
    """Return "net.py:12: `x.view(n, 64)`", or the name of ``node`` where its line is not known."""
    frame = str(node.meta.get("stack_trace") or "").strip().splitlines()
    parts = frame[-1].split('"') if frame else []
    if len(parts) != 3:
        return ".".join(one for one in (region, innermost_module(node), node.name) if one)
    number = int(parts[2].split("line ")[1].split(",")[0])
    return f"{Path(parts[1]).name}:{number}: `{linecache.getline(parts[1], number).strip()}`"


def _first_module(written: nn.Module, graph_module: fx.GraphModule, inputs: Sequence[Any]) -> str:
    """Name the first layer, in the order of its calls, that does not return what it does in the graph."""
    names = _layer_names(graph_module, whole=whole_call(written, graph_module) is not None)
    known = {path: name for path, name in names.items() if is_there(written, name)}
    wanted: dict[str, list[Returned]] = defaultdict(list)
    for one in run_graph_float64(graph_module, inputs, known):
        wanted[one.path].append(one)
    last, new = "its inputs", _new_op(graph_module)
    for found in run_model_float64(written, graph_module, inputs, known.values())[1]:
        twin = wanted[found.path].pop(0) if wanted[found.path] else None
        if twin is None or not _same(twin, found):
            return f"{found.path}, called in {found.line}, {_told(twin, found)}{new}"
        last = found.path
    return f"it computes something else than the graph after {last}{new}"


def _layer_names(graph_module: fx.GraphModule, *, whole: bool) -> dict[str, str]:
    """Return, by the paths of the layers that a graph and its regions call, those that they have in the model."""
    found: dict[str, str] = {}
    for at, graph in graphs_of(graph_module):
        for node in graph.graph.find_nodes(op="call_module"):
            path = f"{at}.{node.target}" if at else str(node.target)
            if not is_opaque(called_module(node)):
                found[path] = path.partition(".")[2] if whole else path
    return found


def _same(one: Returned, other: Returned) -> bool:
    return one.shapes == other.shapes and difference([one.sums], [other.sums])[1] <= TOLERANCE


def _told(twin: Returned | None, found: Returned) -> str:
    if twin is None:
        return "is called once more than in the graph"
    if twin.shapes != found.shapes:
        return f"returns {_shapes(found)}, in the graph {_shapes(twin)}"
    return "returns other values than in the graph"


def _shapes(one: Returned) -> str:
    return ", ".join(map(str, one.shapes))


def _new_op(graph_module: fx.GraphModule) -> str:
    """Name what passes put beside a layer, and no forward has: a product with a constant."""
    known: set[str] = set()
    for node in graph_module.graph.nodes:
        if node.op == "call_function" and node.meta.get(PASSES) and origins(node)[-1] in known:
            return f"; the graph has come to have {place(node)}, which no forward computes"
        known.add(origins(node)[-1])
    return ""
