"""Graphs in float64: two that run side by side return what each returns alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import TinyNet, Wrapped
from torch import fx, nn
from torch.nn import functional

import fxprune
from fxprune import passes
from fxprune.pipelines.chains import AFTER_TRAINING
from fxprune.rewriting.float64 import run_both, run_float64
from fxprune.structures.gated_layers import layers

X = torch.randn(2, 3, 8, 8)


class Counting(nn.Module):
    """Updates a buffer, which its values depend on."""

    n: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.register_buffer("n", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.n.add_(1)
        return x + self.conv(x) * self.n  # type: ignore[no-any-return]


class Opaque(nn.Module):
    """Branches on its values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + (self.conv(x) if float(x.sum()) > -1e9 else x)


class Autocast(nn.Module):
    """Computes a part under autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y = self.conv(x)
        return x + y.float()  # type: ignore[no-any-return]


def wrapped(function: Callable[..., Any]) -> nn.Module:
    return Wrapped(function, conv=nn.Conv2d(3, 3, 1), norm=nn.BatchNorm2d(3), conv2=nn.Conv2d(3, 3, 3, padding=1))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: TinyNet(6),
    "training flag": lambda: wrapped(lambda m, x: x + functional.dropout(m.norm(m.conv(x)), 0.5, m.training)),
    "draws": lambda: wrapped(lambda m, x: x + m.conv(x + torch.randn(()))),
    "one layer at two sites": lambda: wrapped(lambda m, x: x + m.conv2(torch.relu(m.conv2(x)))),
    "in place": lambda: wrapped(lambda m, x: m.conv(x).relu_() + m.conv2(x)),
    "a part in train mode": lambda: wrapped(lambda m, x: x + (m.conv(x) if m.training else m.conv2(x))),
    "updates a buffer": Counting,
    "opaque": Opaque,
    "autocast": Autocast,
}


def stages(model: nn.Module) -> list[fx.GraphModule]:
    """Return graphs of ``model`` before and after passes."""
    traced = fxprune.trace(model.eval(), X, check=False)
    sparse = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()], verify=False)(traced).graph_module
    gates = layers(sparse)
    for layer in gates[::2]:
        layer.module.close()
    chain = [passes.RemoveLayers(threshold=0.0), *AFTER_TRAINING]
    return [traced, sparse, fxprune.Pipeline(chain, verify=False)(sparse).graph_module]


@pytest.mark.filterwarnings("ignore::fxprune.FxpruneWarning")
@pytest.mark.parametrize("name", MODELS)
def test_side_by_side_as_alone(name: str) -> None:
    torch.manual_seed(0)
    graphs = stages(MODELS[name]())
    alone = [run_float64(graph, (X,)) for graph in graphs]
    for before, expected in zip(graphs, alone, strict=True):
        for after, expected_after in zip(graphs, alone, strict=True):
            found = run_both(before, after, (X,))
            for one, wanted in ((found.before, expected), (found.after, expected_after)):
                assert [t.dtype for t in one] == [t.dtype for t in wanted]
                assert all(torch.equal(a, b) for a, b in zip(one, wanted, strict=True))


def test_layers_that_both_call_alike_are_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for kind in (nn.Conv2d, nn.BatchNorm2d):
        forward = kind.forward

        def counted(self: Any, x: torch.Tensor, forward: Any = forward) -> torch.Tensor:
            calls.append(type(self).__name__)
            return forward(self, x)  # type: ignore[no-any-return]

        monkeypatch.setattr(kind, "forward", counted)
    graph = fxprune.trace(TinyNet(6).eval(), X)
    sparse = passes.InsertResConv()(graph).graph_module
    calls.clear()
    run_float64(graph, (X,))
    alone = len(calls)
    run_both(graph, sparse, (X,))
    assert len(calls) == 2 * alone
    calls.clear()
    run_both(graph, sparse, (X,))
    assert len(calls) == alone  # and nothing is kept for the next time


def test_flags_weights_and_random_numbers_are_as_before() -> None:
    graph = fxprune.trace(TinyNet(6), X)
    sparse = passes.InsertResConv()(graph).graph_module
    state = {name: tensor.clone() for name, tensor in sparse.state_dict().items()}
    random = torch.get_rng_state()
    run_both(graph, sparse, (X,))
    assert all(module.training for module in [*graph.modules(), *sparse.modules()])
    assert all(torch.equal(tensor, state[name]) for name, tensor in sparse.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any("forward" in vars(module) for module in sparse.modules())
