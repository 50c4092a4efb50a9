"""Copies of modules and graphs: what is shared, what is not, and modules that say themselves how they are copied."""

from __future__ import annotations

import copy
import io
import threading
from typing import Any

import pytest
import torch
from helpers import tiny, traced
from random_nets import RandomNet
from torch import nn

import fxprune
from fxprune import passes
from fxprune.costs.macs import total_macs
from fxprune.ir.copies import copy_graph


class Locked(nn.Module):
    """It holds what cannot be copied, and leaves it out of its state."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lock = nn.Conv2d(3, 4, 1), threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # untyped in torch
        self.lock = threading.Lock()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x)
        return y


class Writer(nn.Module):
    """It leaves something in a dict for another module."""

    def __init__(self, notes: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.notes = notes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.notes["x"] = x * 2
        return x


class Reader(nn.Module):
    """It reads what another module left."""

    def __init__(self, notes: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.notes = notes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.notes["x"]


class Cached(nn.Module):
    """What data decide is opaque; it keeps what it made in an ordinary attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.offset: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 1e9:
            x = x * 0
        if self.offset is None:
            self.offset = torch.ones(1, dtype=x.dtype)
        y: torch.Tensor = self.conv(x + self.offset)
        return y


def test_a_module_that_says_what_is_copied_of_it() -> None:
    model = Locked().eval()
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(fxprune.trace(model, x)(x), model(x))


def test_an_empty_dict_that_two_modules_share_stays_shared() -> None:
    notes: dict[str, torch.Tensor] = {}
    model = nn.Sequential(Writer(notes), nn.Conv2d(3, 3, 1), Reader(notes)).eval()
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(fxprune.trace(model, x)(x), model(x))


def test_verification_leaves_no_trace_in_modules_that_keep_what_they_made() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), Cached()).eval()
    x = torch.randn(2, 3, 6, 6)
    graph = fxprune.trace(model, x)
    result = fxprune.Pipeline([passes.FoldBatchNorm()])(graph)
    assert result.modified
    kept = [module.offset for module in graph.modules() if isinstance(module, Cached)]
    assert kept
    assert all(offset is None or offset.dtype == torch.float32 for offset in kept)
    torch.testing.assert_close(result.graph_module(x), model(x))


def test_code_of_a_copy_is_generated_when_it_is_called() -> None:
    graph = tiny()
    stage = passes.FoldBatchNorm()(graph).graph_module
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(stage(x), graph(x))


@pytest.mark.filterwarnings("ignore:Using padding")
@pytest.mark.parametrize("seed", range(4))
def test_a_copied_graph_is_what_deepcopy_makes(seed: int) -> None:
    graph = traced(RandomNet(seed), torch.randn(2, 4, 7, 7), torch.randn(2, 4, 7, 7)).graph
    for node in [node for node in graph.nodes if node.op == "call_function"][:1]:  # names that are free again
        with graph.inserting_after(node):
            graph.erase_node(graph.call_function(torch.relu, (node,)))
    mine, torchs = copy_graph(graph), copy.deepcopy(graph)
    for new, expected in zip(mine.nodes, torchs.nodes, strict=True):
        assert (new.name, new.op, new.target, str(new.args), new.kwargs, new.meta) == (
            (expected.name, expected.op, expected.target, str(expected.args), expected.kwargs, expected.meta)
        )
        assert list(map(str, new.users)) == list(map(str, expected.users))
        assert new.graph is mine
        assert new in mine.find_nodes(op=new.op, target=new.target if new.op == "call_function" else None)
    assert len(mine.nodes) == len(torchs.nodes)
    for target in (torch.relu, torch.add, torch.flatten):  # and so are the names that come next
        for one in (mine, torchs):
            one.inserting_before(one.output_node())
        assert mine.call_function(target).name == torchs.call_function(target).name
    mine.lint()


def test_a_graph_with_scales_is_saved_and_loaded() -> None:
    sparse = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(tiny()).graph_module
    file = io.BytesIO()
    torch.save(sparse, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    (x,) = sparse.meta["fxprune_example_inputs"]
    assert torch.equal(loaded(x), sparse(x))
    assert total_macs(loaded) == total_macs(sparse) > 0
    assert passes.FoldBatchNorm()(loaded).modified  # its shapes are not saved, but a BatchNorm2d takes four axes
