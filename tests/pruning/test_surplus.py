"""Steering to a share of the parameters beside a share of the MACs."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn

import fxprune
from fxprune import passes
from fxprune.costs.macs import total_macs, total_params
from fxprune.errors import FxpruneError, TargetError
from fxprune.facts.shapes import shape
from fxprune.pruning.surplus import Surplus
from fxprune.structures.gated_layers import layers


class Stages(nn.Module):
    """Two stages of residual convs: a block of the second has the first's MACs and four times its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(8, 16, 2, stride=2)
        self.first = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(4))
        self.second = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1, bias=False) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in self.first:
            x = torch.relu(x + conv(x))
        x = torch.relu(self.down(x))
        for conv in self.second:
            x = torch.relu(x + conv(x))
        return x.mean((2, 3))


def sparse() -> fx.GraphModule:
    torch.manual_seed(0)
    return passes.InsertBranchScale()(fxprune.trace(Stages(), torch.randn(4, 8, 8, 8))).graph_module


def emitted(graph: fx.GraphModule) -> fx.GraphModule:
    pipeline = fxprune.Pipeline([passes.RemoveLayers(threshold=0.0), *fxprune.AFTER_TRAINING])
    return pipeline(graph.eval()).graph_module


@pytest.mark.parametrize(("target_params", "of_the_second"), [(None, 1), (0.6, 2), (0.4, 3)])
def test_both_targets_are_met(target_params: float | None, of_the_second: int) -> None:
    graph = sparse()
    macs, params = total_macs(graph), total_params(graph)
    shrink = fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.6, params=target_params), meet_after=40)
    for _ in range(40):
        shrink.step(0.0)
    lean = emitted(graph)
    assert total_macs(lean) <= 0.6 * macs
    assert total_params(lean) <= (target_params or 1) * params
    assert sum(shape(shrink._found[path].node) == (4, 16, 4, 4) for path in shrink.order) >= of_the_second
    if target_params == 0.6:  # nothing goes that no target needs
        assert total_macs(lean) > 0.4 * macs


def test_shares_are_of_what_is_left_to_save() -> None:
    graph = sparse()
    surplus = Surplus(graph, fxprune.Targets(macs=0.6, params=0.5))
    found = layers(graph)  # in graph order: four blocks of each stage
    first, second = found[0], found[-1]
    assert surplus.params is not None
    assert surplus.params.saved([first, second], []) == {first.path: 8 * 8 * 9, second.path: 16 * 16 * 9}
    shares = surplus.shares([first, second], [])
    macs, params = 0.4 * total_macs(graph), 0.5 * total_params(graph)
    assert shares[second.path] == pytest.approx((second.macs / macs + 16 * 16 * 9 / params) / 2)
    assert shares[first.path] == pytest.approx((first.macs / macs + 8 * 8 * 9 / params) / 2)
    assert surplus.is_met(found[4:])
    assert surplus.shares([first], found[4:])[first.path] < 0.01


def test_what_other_nodes_hold_too_stays() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.own = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for conv in (self.conv, self.conv, self.own):
                x = torch.relu(x + conv(x))
            return x

    graph = passes.InsertBranchScale()(fxprune.trace(Twice(), torch.randn(2, 8, 4, 4))).graph_module
    found = layers(graph)
    surplus = Surplus(graph, fxprune.Targets(macs=0.5, params=0.9))
    assert surplus.params is not None
    assert list(surplus.params.saved(found, []).values()) == [0, 0, 8 * 8 * 9]
    assert not surplus.is_met(found[:1])
    assert surplus.is_met(found[:2])


def test_targets_that_cannot_be() -> None:
    with pytest.raises(
        TargetError, match=r"target_params=0.01 cannot be met: without all 8 .* ask for at least 0.044"
    ):
        fxprune.SteeredL1(sparse(), targets=fxprune.Targets(macs=0.9, params=0.01), meet_after=10)
    with pytest.raises(FxpruneError, match=r"share of the parameters to leave, in \(0, 1\]; got 1.5"):
        fxprune.SteeredL1(sparse(), targets=fxprune.Targets(macs=0.9, params=1.5), meet_after=10)
    with pytest.raises(FxpruneError, match="50% of the parameters: that is for layers that are steered to zero"):
        fxprune.prune(
            Stages(), torch.randn(4, 8, 8, 8), lambda graph: None, targets=fxprune.Targets(macs=0.5, params=0.5)
        )


def test_a_target_of_parameters_alone_leaves_the_macs() -> None:
    graph = sparse()
    shrink = fxprune.SteeredL1(graph, targets=fxprune.Targets(params=0.5), meet_after=10)
    for _ in range(10):
        shrink.step(0.0)
    assert shrink.is_met
    assert total_params(emitted(graph)) <= 0.5 * total_params(sparse())
    with pytest.raises(FxpruneError, match="needs a target: give one in Targets"):
        fxprune.SteeredL1(sparse(), targets=fxprune.Targets(), meet_after=10)
