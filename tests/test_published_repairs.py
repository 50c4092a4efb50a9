"""Repairs as published, against ours and against least squares by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

import fxprune
from benchmarks.accuracy.published_repairs import cap, grail
from fxprune.passes import Repair


class Net(nn.Module):
    """Each class has one consumer: convs with and without norms, a stride, a linear layer behind a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.two, self.norm_two = nn.Conv2d(8, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6)
        self.three, self.head = nn.Conv2d(6, 7, 1), nn.Linear(7, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.one(x)))
        x = torch.relu(self.norm_two(self.two(x)))
        logits: torch.Tensor = self.head(torch.relu(self.three(x)).mean((2, 3)))
        return logits


def layer(graph: fx.GraphModule, path: str) -> Any:
    return graph.get_submodule(path)


IMAGES = torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def graphs() -> tuple[fx.GraphModule, fx.GraphModule]:
    """Return a network, and what is left of it."""
    torch.manual_seed(0)
    graph = fxprune.trace(Net().double().eval(), IMAGES[:2])
    gone = {"one": [1, 5, 6], "two": [0, 3], "three": [2, 4]}
    return graph, fxprune.passes.RemoveChannels(indices=gone)(graph).graph_module


def test_cap_is_our_repair_once_and_without_a_ridge() -> None:
    graph, pruned = graphs()
    ours = Repair(data=[IMAGES[:40], IMAGES[40:]], reference=graph, ridge=0, statistics="once")(pruned).graph_module
    others = cap(graph, pruned, [IMAGES[:40], IMAGES[40:]])
    with torch.no_grad():
        torch.testing.assert_close(others(IMAGES), ours(IMAGES), rtol=1e-9, atol=1e-9)
        before, after = ((one(IMAGES) - graph(IMAGES)).norm() for one in (pruned, others))
    assert after < 0.8 * before


@torch.no_grad()
def test_rescaled_rows_keep_their_variance_and_their_mean() -> None:
    graph, pruned = graphs()
    found = cap(graph, pruned, [IMAGES], rescaled=True)
    read = torch.relu(layer(graph, "norm")(layer(graph, "one")(IMAGES)))
    wanted = layer(graph, "two")(read)[:, [1, 2, 4, 5]]
    computed = layer(found, "two")(read[:, [0, 2, 3, 4, 7]])
    torch.testing.assert_close(computed.mean((0, 2, 3)), wanted.mean((0, 2, 3)))
    torch.testing.assert_close(computed.var((0, 2, 3)), wanted.var((0, 2, 3)))


@torch.no_grad()
def test_grail_is_a_ridge_on_channels_at_all_places() -> None:
    graph, pruned = graphs()
    found = grail(graph, pruned, [IMAGES])
    kept = [0, 2, 3, 4, 7]
    x = torch.relu(layer(graph, "norm")(layer(graph, "one")(IMAGES))).transpose(0, 1).flatten(1)
    gram = x @ x.T
    level = 1e-3 * gram[kept][:, kept].diagonal().mean() * torch.eye(5).double()
    shared = gram[:, kept] @ torch.linalg.inv(gram[kept][:, kept] + level)
    wanted = torch.einsum("oiyx,ik->okyx", layer(graph, "two").weight[[1, 2, 4, 5]], shared)
    torch.testing.assert_close(layer(found, "two").weight.detach(), wanted)
    assert layer(found, "two").bias is None


def test_a_layer_whose_covariance_is_singular_gets_a_ridge_and_says_so() -> None:
    graph, pruned = graphs()
    told: list[str] = []
    found = cap(graph, pruned, [IMAGES[:1]], say=told.append)
    assert any("what two reads has no Cholesky decomposition: a ridge of 1e-08" in one for one in told)
    assert bool(found(IMAGES).isfinite().all())


def test_what_was_given_stays() -> None:
    graph, pruned = graphs()
    before = [one.clone() for one in (*graph.parameters(), *pruned.parameters())]
    cap(graph, pruned, [IMAGES])
    grail(graph, pruned, [IMAGES])
    for one, other in zip(before, (*graph.parameters(), *pruned.parameters()), strict=True):
        assert torch.equal(one, other)
    assert not layer(graph, "two")._forward_pre_hooks
