"""Channels of one model of the zoo: half of the classes of each group go, and then half of the layers too.

What worker.py runs with ``--what channels``. Cut and masked are compared in float64, on the example, on another batch
size and on another resolution; the cut network is emitted and run where fxprune cannot be imported.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import fx, nn

import fxprune
from benchmarks.zoo.fxprune_steps import compare_other_shapes, emit, judge, require_equal
from benchmarks.zoo.models import build, randomize, smallest_inputs
from benchmarks.zoo.row import Row
from benchmarks.zoo.worker import CleanProcess
from fxprune import passes
from fxprune.costs.macs import total_macs, total_params
from fxprune.ir.nodes import graphs_of
from fxprune.ir.trace_notes import tier_of
from fxprune.passes.chains import AFTER_TRAINING
from fxprune.structures.channels.groups import Channels
from fxprune.structures.gated_layers import layers
from fxprune.weights.exact import keep_exact_weights

_SEED = 0


def run(spec: str, row: Row, clean: CleanProcess) -> None:
    """Take ``spec`` through all steps."""
    with row.step("build"):
        model = build(spec, _SEED)
        size, inputs = smallest_inputs(spec, model, _SEED)
        randomize(model, inputs, _SEED)
        row["size"] = list(size)
    with row.step("trace"):
        traced = fxprune.trace(model, inputs)
        row |= {"tier": tier_of(traced), "macs": total_macs(traced), "params": total_params(traced)}
        plain = fxprune.Pipeline([passes.SplitAttention(), passes.FreezeWeights()])(traced)
        traced = plain.graph_module
        row["attention_split"] = len(plain.steps[0].result.rewritten)
        row["symbolic_trace"] = _symbolic_trace(model)
    with row.step("analyse"):
        row |= _analysed(traced)
    with row.step("price"):
        most = passes.RemoveChannels(ratio=0.999)(traced)
        row["macs_share"] = round(1 - total_macs(most.graph_module) / max(row["macs"], 1), 4)
    with keep_exact_weights():
        with row.step("channels"):
            gated = _gated(traced, row)
            cut = _cut(gated)
            row |= {"macs_after": total_macs(cut), "params_after": total_params(cut)}
        with row.step("compare"):
            row["difference"] = require_equal(gated, cut, inputs)
        compare_other_shapes(spec, row, size, (model, traced, gated, cut))
        with row.step("layers too"):
            row["difference_with_layers"] = _with_layers(traced, inputs)
    emit(row, clean, cut, inputs)
    row["status"] = "ok"


def _symbolic_trace(model: nn.Module) -> float | None:
    """Return how many seconds torch's own tracer takes; None where it fails."""
    try:
        return min(_seconds(lambda: fx.symbolic_trace(model)) for _ in range(2))
    except Exception:
        return None


def _seconds(run: Any) -> float:
    before = time.process_time()
    run()
    return time.process_time() - before


def _analysed(traced: fx.GraphModule) -> dict[str, Any]:
    graphs = [graph for _, graph in graphs_of(traced)]
    found = [Channels(one) for one in graphs]
    rows = free = 0
    reasons: dict[str, int] = {}
    for one in found:
        pinned = one.reasons
        for classes in one.outputs.values():
            rows += len(classes)
            free += sum(each not in pinned for each in classes.tolist())
        for why in pinned.values():
            reasons[why.why] = reasons.get(why.why, 0) + 1
    most = dict(sorted(reasons.items(), key=lambda one: -one[1])[:6])
    seconds = min(_seconds(lambda: [Channels(one) for one in graphs]) for _ in range(2))
    groups = sum(len(group.free) > 0 for one in found for group in one.groups)
    return {"outputs": rows, "free_outputs": free, "groups": groups, "reasons": most, "analysis": seconds}


def _gated(traced: fx.GraphModule, row: Row) -> fx.GraphModule:
    """Return the graph with gates, half of each group's at zero, the others at random."""
    inserted = fxprune.Pipeline([passes.InsertChannelGate()])(traced)
    row["insert_difference"] = inserted.max_relative
    torch.manual_seed(_SEED)
    for gate in fxprune.gates_of(inserted.graph_module):
        scale = torch.rand(gate.width) + 0.3
        scale[torch.randperm(gate.width)[: gate.width // 2]] = 0
        gate.assign(scale=scale)
    return inserted.graph_module


def _cut(gated: fx.GraphModule) -> fx.GraphModule:
    steps = [passes.RemoveChannels(), passes.FuseChannelGate()]
    return fxprune.Pipeline(steps, verify=False)(gated).graph_module


def _with_layers(traced: fx.GraphModule, inputs: tuple[Any, ...]) -> float:
    """Take half of the layers out, and half of the channels of the rest; return by how much outputs differ."""
    inserting = [passes.InsertResConv(), passes.InsertBranchScale()]
    sparse = fxprune.Pipeline(inserting, verify=False)(traced).graph_module
    for index, layer in enumerate(layers(sparse)):
        layer.assign(scale=0.0 if index % 2 else 1.0)
    removal = [passes.RemoveLayers(threshold=0.0), *AFTER_TRAINING]
    plain = fxprune.Pipeline(removal, verify=False)(sparse).graph_module
    row: dict[str, Any] = {}
    gated = _gated(plain, row)  # type: ignore[arg-type]
    return require_equal(gated, _cut(gated), inputs)


def run_and_judge(spec: str, row: Row, clean: CleanProcess) -> None:
    """Run the steps; where one raises, say in the row what that means."""
    judge(run, spec, row, clean)
