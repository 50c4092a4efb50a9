"""The loss of one sample, and what cannot be one."""

from __future__ import annotations

import pytest
import torch
from criterion_nets import scores, small
from torch import nn

import fxprune
from fxprune.choosing.criteria.losses import cross_entropy
from fxprune.choosing.criteria.taylor import Taylor
from fxprune.errors import FxpruneValueError


def test_it_is_the_cross_entropy() -> None:
    logits, label = torch.randn(1, 4), torch.tensor([2])
    expected = logits.exp().sum().log() - logits[0, 2]
    torch.testing.assert_close(cross_entropy(logits, label), expected)


@pytest.mark.parametrize(
    ("outputs", "labels", "message"),
    [
        (
            {"out": torch.randn(1, 3)},
            torch.tensor([0]),
            r"logits of shape \(N, classes\): give the",
        ),
        (torch.randn(3), torch.tensor([0]), "give the criterion a loss="),
        (torch.randn(1, 3), torch.tensor([0.5]), "give the criterion a loss="),
        (torch.randn(1, 3), torch.tensor([3]), "labels beyond the 3 classes"),
        (torch.randn(1, 3), torch.tensor([-1]), "labels beyond the 3 classes"),
    ],
)
def test_others_are_refused(outputs: object, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(FxpruneValueError, match=message):
        cross_entropy(outputs, labels)


def test_a_graph_that_takes_no_single_sample_is_refused() -> None:
    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.two(torch.relu(self.one(x)))
            return y + torch.ones(4, 2)[:, :1].view(2, 2)

    graph = fxprune.trace(Pairs().eval(), torch.randn(2, 3))
    data = [(torch.randn(2, 3), torch.tensor([0, 1]))]
    expected = "criterion taylor runs samples alone, and the graph or the loss does not take one: Expected"
    with pytest.raises(FxpruneValueError, match=expected):
        scores(graph, Taylor(), data)


def test_labels_of_other_types_are_taken() -> None:
    _, graph, images, labels = small()
    one, other = (scores(graph, Taylor(), [(images, given)]) for given in (labels, labels.to(torch.uint8)))
    assert {name: worth.tolist() for name, worth in one.items()} == {
        name: worth.tolist() for name, worth in other.items()
    }
