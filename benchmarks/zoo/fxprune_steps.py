"""One model of the zoo from end to end: what worker.py runs in a process of its own for each.

The first step that fails ends it.
"""

from __future__ import annotations

import operator
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

import fxprune
from benchmarks.zoo.models import (
    Size,
    accepts,
    build,
    conv_modules_called,
    make_inputs,
    randomize,
    smallest_inputs,
)
from benchmarks.zoo.row import Row
from benchmarks.zoo.worker import CleanProcess
from fxprune import passes
from fxprune.choosing.inspection import inspect_graph
from fxprune.costs.macs import total_macs, total_params
from fxprune.errors import EmitError, FxpruneError
from fxprune.ir.nodes import called_module, graphs_of, node_count
from fxprune.ir.pytrees import tensors_in
from fxprune.ir.trace_notes import opaque_modules, tier_of
from fxprune.pipelines.chains import AFTER_TRAINING
from fxprune.rewriting.float64 import run_float64
from fxprune.rewriting.verify import difference
from fxprune.structures.gated_layers import layers
from fxprune.weights.exact import keep_exact_weights

ROUNDING = 1e-4
"""For runs in float32 with the same weights: far above rounding (1e-6), far below any wrong rewrite."""
_SEED = 0


class SilentDifference(Exception):
    """Two graphs that must be the same function are not, and fxprune did not notice."""


def run(spec: str, row: Row, clean: CleanProcess) -> None:
    """Take ``spec`` through all steps."""
    with row.step("build"):
        model = build(spec, _SEED)
        size, inputs = smallest_inputs(spec, model, _SEED)
        randomize(model, inputs, _SEED)
        row |= {"size": list(size), "conv_modules": conv_modules_called(model, inputs)}
    with row.step("trace"):
        traced = fxprune.trace(model, inputs)
        row |= _describe(traced)
    with keep_exact_weights():  # what is compared below is the algebra; the rounding of weights, after emitting
        with row.step("insert"):
            inserting = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(traced)
            sparse = inserting.graph_module
            is_resconv = [layer.kind == "conv" for layer in layers(sparse)]
            row |= {"insert_difference": inserting.max_relative}
            row |= {"eligible_convs": sum(is_resconv), "branches": len(is_resconv) - sum(is_resconv)}
        with row.step("removable share"):
            row["removable_share"] = _removable_share(sparse)
        with row.step("scale"):
            row["scaled_to_zero"] = _scale(sparse)
            row["effect"] = difference(run_float64(traced, inputs), run_float64(sparse, inputs))[1]
        with row.step("remove"):
            removal = fxprune.Pipeline([passes.RemoveLayers(threshold=0.0), *AFTER_TRAINING], verify=False)(sparse)
            pruned = removal.graph_module
            row |= {"removed": len(removal.steps[0].result.rewritten), "macs_after": total_macs(pruned)}
            row |= {"params_after": total_params(pruned), "nodes_after": node_count(pruned)}
            row["needless"] = needless(pruned)
        with row.step("compare"):
            row["difference"] = require_equal(sparse, pruned, inputs)
        compare_other_shapes(spec, row, size, (model, traced, sparse, pruned))
    emit(row, clean, pruned, inputs)
    row["status"] = "ok"


def compare_other_shapes(
    spec: str, row: Row, size: Size, graphs: tuple[nn.Module, fx.GraphModule, fx.GraphModule, fx.GraphModule]
) -> None:
    """Compare model, traced, masked and cut graph on another batch size, and on another resolution."""
    with row.step("other batch"):
        row["other_batch"] = compare_elsewhere(*graphs, make_inputs(spec, 3, size, _SEED + 1))
    with row.step("other size"):
        row["other_size"] = compare_elsewhere(*graphs, make_inputs(spec, 2, other_size(size), _SEED + 2))


def emit(row: Row, clean: CleanProcess, pruned: fx.GraphModule, inputs: tuple[Any, ...]) -> None:
    """Emit a graph, and run it where fxprune cannot be imported; one with opaque parts has no source."""
    with row.step("emit"), tempfile.TemporaryDirectory() as folder:
        try:
            fxprune.emit(pruned, folder)
            row["reload_difference"] = reload(clean, Path(folder), pruned, inputs)
        except EmitError as error:
            if row["tier"] != "opaque":  # what could not be traced has no source to write
                raise
            row["not_emitted"] = str(error)[:400]


def other_size(size: Size) -> Size:
    """Return another resolution, of another shape."""
    return (*size[:-2], size[-2] + 32, size[-1] + 64)


def _describe(traced: fx.GraphModule) -> dict[str, Any]:
    opaque = opaque_modules(traced)
    found = inspect_graph(traced)
    return {
        "tier": tier_of(traced),
        "opaque": [f"{one.path}: {one.reason}"[:200] for one in opaque],
        "hidden_convs": sum(one.hidden_convs for one in opaque),
        "visible_convs": len({path for path, site in found.convs if "opaque module" not in (site.reason or "")}),
        "inspected_share": round(found.removable_macs / max(found.macs, 1), 4),
        "macs": found.macs,
        "params": found.params,
        "nodes": node_count(traced),
    }


def _removable_share(sparse: fx.GraphModule) -> float:
    """Return the share of the MACs that is gone once every layer and branch that can be removed is."""
    for layer in layers(sparse):
        layer.assign(scale=0.0)
    steps = [passes.RemoveLayers(threshold=0.0), passes.EliminateDeadCode()]
    left = total_macs(fxprune.Pipeline(steps, verify=False)(sparse).graph_module)
    return round(1 - left / max(total_macs(sparse), 1), 4)


def _scale(sparse: fx.GraphModule) -> int:
    """Set half of the scales (rounded up) to zero, the rest and all shortcuts to random values; return the zeros."""
    generator = torch.Generator().manual_seed(_SEED)

    def uniform() -> float:
        return float(torch.empty(()).uniform_(0.3, 1.2, generator=generator))

    found = layers(sparse)
    zeros = set(torch.randperm(len(found), generator=generator)[: (len(found) + 1) // 2].tolist())
    for index, layer in enumerate(found):
        scale = 0.0 if index in zeros else uniform()
        if layer.kind == "conv":
            layer.assign(scale=scale, shortcut=uniform())
        else:
            layer.assign(scale=scale)
    return len(zeros)


def require_equal(a: fx.GraphModule, b: fx.GraphModule, inputs: tuple[Any, ...]) -> float:
    """Return by how much two graphs differ, relatively; raises SilentDifference if that is too much."""
    found = fxprune.verify(a, b, inputs)
    if not found.equal:
        raise SilentDifference(str(found))
    return found.max_relative


def compare_elsewhere(
    model: nn.Module, traced: fx.GraphModule, sparse: fx.GraphModule, pruned: fx.GraphModule, inputs: tuple[Any, ...]
) -> float | str:
    """Compare on inputs of another shape: the traced graph with the model, the pruned graph with the scaled one."""
    if not accepts(model, inputs):
        return "n/a"
    try:
        with torch.no_grad():
            gap = difference(list(tensors_in(model(*inputs))), list(tensors_in(traced.eval()(*inputs))))[1]
        if not gap <= ROUNDING:
            raise SilentDifference(f"the traced graph is not the model on this shape: {gap:.2g} (relative, float32)")
        return require_equal(sparse, pruned, inputs)
    except AssertionError:
        return "asserts"


def reload(clean: CleanProcess, folder: Path, pruned: fx.GraphModule, inputs: tuple[Any, ...]) -> float:
    """Run the emitted model where fxprune cannot be imported; both in float32, with the same rounded weights."""
    found = clean.outputs(folder, inputs)
    with torch.no_grad():
        expected = list(tensors_in(pruned.eval()(*inputs)))
    _, relative = difference(expected, found)
    if not relative <= ROUNDING:
        raise SilentDifference(f"the emitted model computes something else: {relative:.2g} (relative, float32)")
    return relative


def needless(graph_module: fx.GraphModule) -> dict[str, int]:
    """Count nodes that are surely not needed for inference, by kind."""
    counts = dict.fromkeys((*_NEEDLESS, "attribute read twice"), 0)
    for _, graph in graphs_of(graph_module):
        nodes = list(graph.graph.nodes)
        for name, test in _NEEDLESS.items():
            counts[name] += sum(map(test, nodes))
        reads = [node.target for node in nodes if node.op == "get_attr"]
        counts["attribute read twice"] += len(reads) - len(set(reads))
    return {name: count for name, count in counts.items() if count}


def _is_dead(node: fx.Node) -> bool:
    return not node.users and node.op not in ("output", "placeholder") and not node.is_impure()


def _is_identity(node: fx.Node) -> bool:
    return isinstance(called_module(node), (nn.Identity, nn.modules.dropout._DropoutNd))


def _is_neutral(node: fx.Node) -> bool:
    times, plus = (operator.mul, torch.mul, operator.truediv), (operator.add, torch.add, operator.sub)
    neutral = 1 if node.target in times else 0 if node.target in plus else None
    return (
        neutral is not None
        and len(node.args) > 1
        and isinstance(node.args[1], (int, float))
        and node.args[1] == neutral
    )


def _is_foldable_norm(node: fx.Node) -> bool:
    is_norm = isinstance(called_module(node), nn.modules.batchnorm._BatchNorm)
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or not (is_norm or node.target is nn.functional.batch_norm):
        return False
    readers = [user for user in source.users if user.target is not getattr]  # a read of its shape stops nothing
    return isinstance(called_module(source), (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and readers == [node]


def _is_rank_check(node: fx.Node) -> bool:
    test = node.args[0] if node.target is torch._assert and node.args else None
    attribute = test.args[0] if isinstance(test, fx.Node) and test.target is operator.eq else None
    return isinstance(attribute, fx.Node) and attribute.target is getattr and "ndim" in attribute.args


def _is_relu(node: Any) -> bool:
    functions = (torch.relu, nn.functional.relu, "relu")
    return isinstance(node, fx.Node) and (isinstance(called_module(node), nn.ReLU) or node.target in functions)


def _is_relu_of_relu(node: fx.Node) -> bool:
    return _is_relu(node) and bool(node.args) and _is_relu(node.args[0])


_NEEDLESS: dict[str, Callable[[fx.Node], bool]] = {
    "dead": _is_dead,
    "identity or dropout": _is_identity,
    "times 1 or plus 0": _is_neutral,
    "norm that folds into its conv": _is_foldable_norm,
    "check of a known rank": _is_rank_check,
    "relu of relu": _is_relu_of_relu,
}


def run_and_judge(spec: str, row: Row, clean: CleanProcess) -> None:
    """Run the steps; where one raises, say in the row what that means."""
    judge(run, spec, row, clean)


def judge(steps: Callable[[str, Row, CleanProcess], None], spec: str, row: Row, clean: CleanProcess) -> None:
    """Run ``steps``; where one raises, say in the row what that means."""
    try:
        steps(spec, row, clean)
    except SilentDifference:
        row["status"] = "different"
        raise
    except FxpruneError:
        row["status"] = "declined" if row["step"] in ("trace", "emit") else "failed"
        raise
