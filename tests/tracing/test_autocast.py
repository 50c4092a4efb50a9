"""Autocast that forward enters stays in the graph, through passes, files and checks in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Block, Wrapped, emitted
from torch import nn
from tracing_helpers import conv, images, opaque

import fxprune
from fxprune import passes
from fxprune.facts.shapes import tensor_meta
from fxprune.ir.autocast import autocast_state


@torch.autocast("cpu", dtype=torch.bfloat16)  # type: ignore[untyped-decorator]
def decorated(m: Any, x: torch.Tensor) -> torch.Tensor:
    return m.layer(x)  # type: ignore[no-any-return]


def entered(m: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return m.layer(x)  # type: ignore[no-any-return]


def by_device(m: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=True):
        return m.layer(x)  # type: ignore[no-any-return]


def by_default(m: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.amp.autocast("cpu"):
        return m.layer(x)  # type: ignore[no-any-return]


def nested(m: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = m.layer(x)
        with torch.autocast("cpu", enabled=False):
            z = m.layer(y.float() * 0.5)
        with torch.no_grad():
            return y + m.layer(z)  # type: ignore[no-any-return]


def disabled(m: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", enabled=False):
        return m.layer(x)  # type: ignore[no-any-return]


def on_a_branch(m: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return m.layer(x) if x.shape[1] == 4 else x


WAYS = [decorated, entered, by_device, by_default, nested, disabled, on_a_branch]


@pytest.mark.parametrize("function", WAYS)
def test_it_stays_in_the_graph(function: Callable[[Any, torch.Tensor], torch.Tensor], tmp_path: Path) -> None:
    model = Wrapped(lambda m, x: m.last(function(m, x).float()), layer=conv(), last=conv()).eval()
    graph = fxprune.trace(model, images())
    assert opaque(graph) == []
    for outer in (False, True):
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=outer):
            assert torch.equal(graph(images(1)), model(images(1)))
    assert autocast_state() is None
    with torch.no_grad():
        emitted(graph, tmp_path, images())
    assert "torch.autocast(" in (tmp_path / "model.py").read_text()


def test_dtypes_are_those_of_the_run() -> None:
    graph = fxprune.trace(Wrapped(entered, layer=nn.Sequential(conv(), conv())).eval(), images())
    metas = {node.target: tensor_meta(node) for node in graph.graph.nodes if node.op == "call_module"}
    assert [meta.dtype for meta in metas.values() if meta is not None] == [torch.bfloat16] * 2


def test_layers_inside_are_removed_and_folded() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = m.body(m.stem(x))
        return m.head(y.float().mean((2, 3)))  # type: ignore[no-any-return]

    body = nn.Sequential(Block(4), Block(4))
    model = Wrapped(function, stem=conv(), body=body, head=nn.Linear(4, 3)).eval()
    graph = fxprune.trace(model, images())
    sparse = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(graph).graph_module
    scaled = [m for m in sparse.modules() if isinstance(m, (fxprune.ResConv, fxprune.BranchScale))]
    assert len(scaled) == 6
    scaled[0].assign(scale=0.0, shortcut=1.0) if isinstance(scaled[0], fxprune.ResConv) else None
    result = fxprune.Pipeline([passes.RemoveLayers(threshold=0.0), *fxprune.AFTER_TRAINING])(sparse)
    assert result.max_relative is not None
    assert result.max_relative < 1e-9
    final = result.graph_module(images(1))
    assert final.dtype == torch.float32
    torch.testing.assert_close(final, sparse(images(1)), rtol=0.05, atol=0.05)


def test_an_error_inside_leaves_autocast_as_it_was() -> None:
    with pytest.raises(fxprune.FxpruneError):
        fxprune.trace(Wrapped(entered, layer=nn.Conv2d(3, 4, 1)), images())
    assert autocast_state() is None


def test_autocast_switched_by_hand_is_opaque() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        torch.set_autocast_enabled("cpu", True)
        y = m.layer(x)
        torch.set_autocast_enabled("cpu", False)
        return y  # type: ignore[no-any-return]

    graph = fxprune.trace(Wrapped(function, layer=conv()).eval(), images())
    assert opaque(graph) == ["model"]
    assert autocast_state() is None


@pytest.mark.parametrize("cast", ["float", "half", "bfloat16"])
@pytest.mark.parametrize("hidden", [False, True])
def test_casts_in_forward_lower_nothing_in_float64(cast: str, hidden: bool) -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.norm(m.layer(x))
        if hidden and y.sum() < -1e9:
            return y  # type: ignore[no-any-return]
        return m.head(getattr(y.to(torch.float32), cast)().mean((2, 3)).float())  # type: ignore[no-any-return]

    model = Wrapped(function, layer=conv(), norm=nn.BatchNorm2d(4), head=nn.Linear(4, 3)).eval()
    graph = fxprune.trace(model, images())
    assert opaque(graph) == (["model"] if hidden else [])
    result = fxprune.Pipeline([passes.InsertResConv(), passes.FuseResConv(), passes.FoldBatchNorm()])(graph)
    assert result.max_relative is not None
    assert result.max_relative < 1e-9
