"""Copies of modules and graphs: what is shared, what is not, and modules that say themselves how they are copied."""

from __future__ import annotations

import threading
from typing import Any

import torch
from helpers import tiny
from torch import nn

import fxprune
from fxprune import passes


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
