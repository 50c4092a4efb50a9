"""First order: how much the loss of each image would change, as a gate tells."""

from __future__ import annotations

import pytest
import torch
from criterion_nets import WIDTHS, scores, slopes, small

from fxprune.choosing.criteria.taylor import Taylor


def test_it_is_the_mean_over_images_of_the_absolute_slopes() -> None:
    model, graph, images, labels = small()
    found = scores(graph, Taylor(), [(images, labels)])
    for group, width in WIDTHS.items():
        for channel in range(width):
            expected = float(slopes(model, images, labels, group, channel).abs().mean())
            assert found[group][channel] == pytest.approx(expected, rel=1e-6, abs=1e-10)


def test_batches_of_any_size_are_one_set_of_images() -> None:
    _, graph, images, labels = small()
    whole = scores(graph, Taylor(), [(images, labels)])
    parts = scores(graph, Taylor(), ([images[:1], labels[:1]], None, [images[1:], labels[1:]]))
    assert {name: one.tolist() for name, one in whole.items()} == {name: one.tolist() for name, one in parts.items()}


def test_a_loss_of_the_users_own() -> None:
    model, graph, images, _ = small()
    goals = torch.randn(len(images), 3, dtype=torch.float64)
    found = scores(graph, Taylor(loss=lambda outputs, goal: ((outputs - goal) ** 2).sum()), [(images, goals)])
    read = model.third(model.second(model.first(images))).detach()
    gradient = 2 * (model.head(read) - goals) @ model.head.weight
    expected = (read * gradient).abs().mean(0)
    assert found["three"] == pytest.approx(expected.detach().numpy(), rel=1e-9)


def test_nothing_is_left_behind() -> None:
    _, graph, images, labels = small()
    graph.train()
    before = {name: one.clone() for name, one in graph.state_dict().items()}
    scores(graph, Taylor(), [(images, labels)])
    assert graph.training
    assert all(torch.equal(one, before[name]) for name, one in graph.state_dict().items())
    assert all(one.grad is None for one in graph.parameters())


def test_frozen_weights_have_scores_too() -> None:
    _, graph, images, labels = small()
    expected = scores(graph, Taylor(), [(images, labels)])
    graph.requires_grad_(False)
    found = scores(graph, Taylor(), [(images, labels)])
    assert {name: one.tolist() for name, one in found.items()} == {
        name: pytest.approx(one.tolist()) for name, one in expected.items()
    }
