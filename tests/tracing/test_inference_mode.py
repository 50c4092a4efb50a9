"""Within torch.inference_mode() graphs are made as outside of it: they can be trained afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from tracing_helpers import conv, images

import fxprune
from fxprune import passes


@pytest.mark.parametrize("share_weights", [False, True])
def test_graphs_made_in_inference_mode_are_trained(share_weights: bool) -> None:
    model = nn.Sequential(conv(), nn.BatchNorm2d(4)).eval()
    with torch.inference_mode():
        x = images()
        graph = fxprune.trace(model, x, share_weights=share_weights)
        sparse = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(graph).graph_module
        expected = model(x)
    torch.testing.assert_close(sparse(x.clone()), expected.clone())
    sparse.train()(images()).sum().backward()
    assert all(parameter.grad is not None for parameter in sparse.parameters() if parameter.requires_grad)


def test_a_model_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model = nn.Sequential(conv(), nn.BatchNorm2d(4)).eval()
        graph = fxprune.trace(model, images())
        assert torch.equal(graph(images()), model(images()))
