"""Training loops as people write them, and networks cast as people cast them: gates close, and all stays finite."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TinyNet
from together import of_two_processes
from torch import fx, nn

import fxprune
from fxprune import passes, pruning
from fxprune.costs.activation_memory import activation_bytes
from fxprune.costs.latency.measured_latency import compare_latency
from fxprune.facts.input_rms import input_sizes
from fxprune.ir.nodes import called_module, example_inputs_of

Loop = Callable[[fx.GraphModule, Any], None]
STEPS = 12


def traced() -> fx.GraphModule:
    torch.manual_seed(0)
    return fxprune.trace(TinyNet().eval(), torch.randn(4, 3, 8, 8))


def sparse_graph() -> fx.GraphModule:
    insertions = [passes.InsertResConv(), passes.InsertBranchScale()]
    return fxprune.Pipeline(insertions, verify=False)(traced()).graph_module.train()


def loss_of(graph: nn.Module, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x, labels = torch.randn(8, 3, 8, 8, dtype=dtype), torch.randint(0, 5, (8,))
    return nn.functional.cross_entropy(graph(x).float(), labels)


def sgd(graph: fx.GraphModule) -> torch.optim.SGD:
    return torch.optim.SGD(pruning.parameter_groups(graph, 1e-4), lr=0.05, momentum=0.9)


def clipped(graph: fx.GraphModule, shrink: Any) -> None:
    optimizer = sgd(graph)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss_of(graph).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(graph.parameters(), 0.5, error_if_nonfinite=True)
        optimizer.step()
        shrink.step(0.05)


def accumulated(graph: fx.GraphModule, shrink: Any) -> None:
    optimizer = sgd(graph)
    for number in range(3 * STEPS):
        (loss_of(graph) / 3).backward()  # type: ignore[no-untyped-call]
        if number % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()
            shrink.step(0.05)


def automatic_precision(graph: fx.GraphModule, shrink: Any) -> None:
    optimizer, scaler = sgd(graph), torch.amp.GradScaler("cpu")
    for _ in range(STEPS):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(graph)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(graph.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        shrink.step(0.05)


def closures(graph: fx.GraphModule, shrink: Any) -> None:
    optimizer = torch.optim.LBFGS(graph.parameters(), lr=0.05, max_iter=3)
    for _ in range(STEPS):

        def closure() -> torch.Tensor:
            torch.manual_seed(1)
            optimizer.zero_grad()
            loss = loss_of(graph)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        shrink.step(0.05)


def sharpness_aware(graph: fx.GraphModule, shrink: Any) -> None:
    optimizer = sgd(graph)
    for _ in range(STEPS):
        loss_of(graph).backward()  # type: ignore[no-untyped-call]
        moved = [(p, 0.05 * p.grad / (p.grad.norm() + 1e-12)) for p in graph.parameters() if p.grad is not None]
        with torch.no_grad():
            for parameter, step in moved:
                parameter.add_(step)
        optimizer.zero_grad()
        loss_of(graph).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for parameter, step in moved:
                parameter.sub_(step)
        optimizer.step()
        optimizer.zero_grad()
        shrink.step(0.05)


def decayed_without_groups(graph: fx.GraphModule, shrink: Any) -> None:
    graph.requires_grad_(True)  # of the gates too
    optimizer = torch.optim.AdamW(graph.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss_of(graph).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        shrink.step(0.05)


LOOPS: list[Loop] = [clipped, accumulated, automatic_precision, closures, sharpness_aware, decayed_without_groups]


@pytest.mark.parametrize("steered", [True, False])
@pytest.mark.parametrize("loop", LOOPS)
def test_gates_close_in_any_loop(loop: Loop, steered: bool) -> None:
    graph = sparse_graph()
    if steered:
        shrink: pruning.ProximalL1 = fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.5), meet_after=STEPS - 2)
    else:
        shrink = fxprune.ProximalL1(graph, strength=2.5)
    loop(graph, shrink)
    assert all(bool(tensor.isfinite().all()) for tensor in (*graph.parameters(), *graph.buffers()))
    shrink.close_zeros()
    assert shrink.closed
    if steered:
        assert shrink.left <= 0.5
        assert shrink.closed == sorted(shrink.closed, key=list(shrink.layers).index)
    x = torch.randn(2, 3, 8, 8)
    expected = graph.eval()(x)
    assert expected.isfinite().all()
    chain = fxprune.Pipeline([passes.RemoveLayers(threshold=0.0), *fxprune.AFTER_TRAINING])
    torch.testing.assert_close(chain(graph).graph_module(x), expected, rtol=1e-3, atol=1e-3)


CASTS = [torch.bfloat16, torch.half, torch.double]


@pytest.mark.parametrize("dtype", CASTS)
@pytest.mark.parametrize("casts_first", [True, False])
@pytest.mark.parametrize("steered", [True, False])
def test_a_graph_with_scales_that_was_cast_is_trained(dtype: torch.dtype, casts_first: bool, steered: bool) -> None:
    graph = sparse_graph()
    if casts_first:
        graph = graph.to(dtype)
    if steered:
        shrink: pruning.ProximalL1 = fxprune.SteeredL1(
            graph, targets=fxprune.Targets(macs=0.5, memory=1.0), meet_after=6
        )
    else:
        shrink = fxprune.ProximalL1(graph, strength=2.5)
    graph = graph.to(dtype)
    optimizer = sgd(graph)
    for _ in range(9):
        optimizer.zero_grad()
        loss_of(graph, dtype).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        shrink.step(0.05)
    shrink.close_zeros()
    assert shrink.closed
    assert {
        layer.input_rms.item() == 1 for layer in shrink.layers.values() if isinstance(layer, fxprune.ResConv)
    } == {False}
    result = fxprune.Pipeline([passes.RemoveLayers(threshold=0.0), *fxprune.AFTER_TRAINING])(graph.eval())
    x = torch.randn(2, 3, 8, 8, dtype=dtype)
    assert result.graph_module(x).dtype == dtype
    assert {p.dtype for p in result.graph_module.parameters()} == {dtype}


@pytest.mark.parametrize("dtype", CASTS)
@pytest.mark.parametrize("pruned", [True, False])
def test_a_graph_that_was_cast_is_like_one_of_that_dtype(dtype: torch.dtype, pruned: bool, tmp_path: Path) -> None:
    graph = traced()
    if pruned:
        graph = passes.RemoveLayers(target_macs=0.6)(sparse_graph().eval()).graph_module
        graph = fxprune.Pipeline(fxprune.AFTER_TRAINING)(graph).graph_module
    before = copy.deepcopy(graph)
    graph = graph.to(dtype)
    (x,) = example_inputs_of(graph)
    assert x.dtype == dtype
    result = fxprune.Pipeline([passes.FoldBatchNorm(), passes.Simplify()])(graph)
    assert fxprune.verify(graph, result.graph_module, x, tolerance=1e-4).equal
    assert result.graph_module(x).dtype == dtype
    convs = [node for node in graph.graph.nodes if isinstance(called_module(node), nn.Conv2d)]
    assert all(size > 0 for size in input_sizes(graph, convs).values())
    assert sum(activation_bytes(graph).values()) * 4 == sum(activation_bytes(before).values()) * dtype.itemsize
    assert compare_latency({"cast": graph}, 2, repeats=1)["cast"] > 0
    fxprune.emit(graph, tmp_path / "out", formats=["pt2"])
    again = fxprune.load_emitted(tmp_path / "out")
    torch.testing.assert_close(again(x), graph(x))
    assert again.meta["fxprune_example_inputs"][0].dtype == dtype


def test_inputs_of_another_dtype_than_the_weights_keep_theirs() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.embed = nn.Embedding(4, 3)

        def forward(self, x: torch.Tensor, kind: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.conv(x + self.embed(kind)[:, :, None, None])
            return y * mask.to(x.dtype)[:, None]

    inputs = torch.randn(2, 3, 4, 4), torch.tensor([0, 3]), torch.ones(2, 4, 4, dtype=torch.double)
    graph = fxprune.trace(Net(), inputs).bfloat16()
    assert [one.dtype for one in example_inputs_of(graph)] == [torch.bfloat16, torch.long, torch.double]
    mixed = fxprune.trace(Net(), inputs)
    mixed.get_submodule("embed").double()
    assert [one.dtype for one in example_inputs_of(mixed)] == [one.dtype for one in inputs]


TOGETHER = """
import sys
import torch
from torch import distributed, nn
sys.path.insert(0, {tests!r})
from helpers import TinyNet
import fxprune
from fxprune import passes

distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=int(sys.argv[2]), world_size=2)
outcomes = {{}}
for name, wraps_first in (("", True), ("", False), ("static_graph", True), ("find_unused_parameters", False)):
    options = {{name: True}} if name else {{}}
    torch.manual_seed(0)
    graph = fxprune.trace(TinyNet(), torch.randn(4, 3, 8, 8))
    insertions = [passes.InsertResConv(), passes.InsertBranchScale()]
    sparse = fxprune.Pipeline(insertions, verify=False)(graph).graph_module.train()
    wrap = lambda: nn.parallel.DistributedDataParallel(sparse, **options)
    optimizer = torch.optim.AdamW(fxprune.pruning.parameter_groups(sparse, weight_decay=1e-2), lr=1e-3)
    wrapped = wrap() if wraps_first else None
    shrink = fxprune.SteeredL1(sparse, targets=fxprune.Targets(macs=0.5), meet_after=8)
    wrapped = wrapped or wrap()
    torch.manual_seed(int(sys.argv[2]))
    for _ in range(11):
        loss = wrapped(torch.randn(4, 3, 8, 8)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        shrink.step(1e-3)
    trained = {{key: value.clone() for key, value in sparse.state_dict().items()}}
    if int(sys.argv[2]) == 0:  # rank 0's state reaches all, as its batch norms' statistics do
        next(layer for layer in shrink.layers.values() if not layer.closed).close()
    wrapped(torch.randn(4, 3, 8, 8))
    outcomes[f"{{options}} {{wraps_first}}"] = shrink.closed, shrink.is_met, trained
torch.save(outcomes, sys.argv[3])
distributed.destroy_process_group()
"""


def test_two_processes_close_the_same_gates_without_any_option_of_ddp(tmp_path: Path) -> None:
    first, second = of_two_processes(TOGETHER, tmp_path)
    assert len(first) == 4
    plain = [name for name in first if "find_unused" not in name]
    for name, (closed, is_met, state) in first.items():
        assert closed == second[name][0] != []
        assert is_met
        for key, value in state.items():
            if "running" not in key and "num_batches" not in key:  # each forward pass moves its own
                torch.testing.assert_close(value, second[name][2][key], msg=f"{name}: {key}")
    for name in plain:
        assert first[name][0] == first[plain[0]][0]  # whichever is wrapped first
