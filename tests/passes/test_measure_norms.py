import pytest
import torch
from helpers import module_at, randomize
from torch import nn

import fxprune
from fxprune import passes
from fxprune.errors import FxpruneValueError

X = torch.randn(60, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def model() -> nn.Sequential:
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4)]
    return randomize(nn.Sequential(*layers))


def test_norms_have_the_moments_of_what_they_read() -> None:
    graph = fxprune.trace(model(), X[:4])
    result = passes.MeasureNorms(data=[X[:40], X[40:]])(graph)
    measured = result.graph_module
    assert [site.path for site in result.rewritten] == ["1", "4"]
    read = X
    for index in range(5):
        layer = module_at(measured, str(index))
        if isinstance(layer, nn.BatchNorm2d):
            torch.testing.assert_close(layer.running_mean, read.mean((0, 2, 3)))
            torch.testing.assert_close(layer.running_var, read.var((0, 2, 3)))
        read = layer(read)


def test_it_does_not_matter_how_images_come() -> None:
    graph = fxprune.trace(model(), X[:4])
    one, other = (passes.MeasureNorms(data=data)(graph).graph_module for data in ([X], [X[:1], X[1:50], X[50:]]))
    torch.testing.assert_close(one(X), other(X))


def test_the_graph_that_it_is_given_stays() -> None:
    graph = fxprune.trace(model(), X[:4])
    before = {name: value.clone() for name, value in graph.state_dict().items()}
    passes.MeasureNorms(data=[X])(graph)
    assert all(torch.equal(before[name], value) for name, value in graph.state_dict().items())


def test_norms_that_keep_no_statistics_are_declined() -> None:
    graph = fxprune.trace(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)), X[:4].float()
    )
    result = passes.MeasureNorms(data=[X.float()])(graph)
    assert not result.modified
    assert "keeps no running statistics" in str(result.declined[0])


def test_nan_names_the_norm() -> None:
    graph = fxprune.trace(model(), X[:4])
    with pytest.raises(FxpruneValueError, match="what 1 reads"):
        passes.MeasureNorms(data=[X * float("nan")])(graph)


def test_norms_are_in_the_mode_that_they_were_in() -> None:
    graph = fxprune.trace(model(), X[:4]).train()
    module_at(graph, "4").eval()
    measured = passes.MeasureNorms(data=[X])(graph).graph_module
    assert [module_at(measured, name).training for name in "14"] == [True, False]


def test_images_that_are_missing_are_told() -> None:
    with pytest.raises(FxpruneValueError, match="there are no images to measure norms on: give data="):
        passes.MeasureNorms(data=[])(fxprune.trace(model(), X[:4]))
