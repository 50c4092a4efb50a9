"""CaP's order of channels: by what their readers, fitted anew, would lose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from channel_nets import NETS
from channel_training import Blocks
from criterion_nets import MIDDLE, STREAM, scores, site_of, small
from torch import nn

import fxprune
from fxprune.choosing.channel_scores import site_scores
from fxprune.choosing.criteria.cap import Cap
from fxprune.choosing.samples import Samples
from fxprune.choosing.sites import channel_sites

IMAGES = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def missed(layer: Any, x: torch.Tensor, kept: list[int]) -> float:
    """Return the share of the variance of a layer's output that least squares on some channels of ``x`` misses."""
    y = layer(x)
    if x.dim() == 2:
        rows, y = x[:, kept], y
    else:
        groups = layer.groups
        patches = nn.functional.unfold(x, layer.kernel_size, padding=layer.padding, stride=layer.stride)
        patches = patches.view(len(x), x.shape[1], -1, patches.shape[-1])
        if groups > 1:
            each = [patches.chunk(groups, 1), y.chunk(groups, 1)]
            parts = [
                _missed(p[:, kept].flatten(1, 2).mT.flatten(0, 1), rows_of(t)) for p, t in zip(*each, strict=True)
            ]
            return sum(one[0] for one in parts) / sum(one[1] for one in parts)
        rows, y = patches[:, kept].flatten(1, 2).mT.flatten(0, 1), rows_of(y)
    left, total = _missed(rows, y)
    return left / total


def rows_of(y: torch.Tensor) -> torch.Tensor:
    return y.flatten(2).mT.flatten(0, 1)


def _missed(rows: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    rows, y = rows - rows.mean(0), y - y.mean(0)
    fit = torch.linalg.lstsq(rows, y).solution
    return float((y - rows @ fit).square().sum()), float(y.square().sum())


@torch.no_grad()
def test_scores_are_what_readers_lose_by_hand() -> None:
    model, graph, images, _ = small(24)
    found = scores(graph, Cap(), [images[:7], images[7:]])
    read = model.third(model.second(model.first(images)))
    order = np.argsort(-found[MIDDLE])
    assert found[MIDDLE].max() == pytest.approx(1)
    for count in range(1, 5):
        assert found[MIDDLE][order[count]] == pytest.approx(
            missed(model.head, read, order[:count].tolist()), abs=1e-7
        )


@torch.no_grad()
def test_the_readers_of_a_class_are_summed() -> None:
    model, graph, images, _ = small(24)
    found = scores(graph, Cap(), [images])[STREAM]
    order = np.argsort(-found).tolist()
    x = model.first(images)
    reads = [(model.two, x), (model.three, model.second(x))]
    assert found.max() == pytest.approx(2)
    for count in range(1, 4):
        lost = sum(missed(layer, read, order[:count]) for layer, read in reads)
        assert found[order[count]] == pytest.approx(lost, rel=1e-6)
    best = min(sum(missed(layer, read, [one]) for layer, read in reads) for one in range(4))
    assert found[order[1]] == pytest.approx(best, rel=1e-6)


class Net(nn.Module):
    """``first`` is read by ``layers``."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.first, self.layers = nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layers(torch.relu(self.first(x)))
        return found


READERS: dict[str, Any] = {
    "conv": lambda: [nn.Conv2d(8, 5, 3, padding=1)],
    "strided": lambda: [nn.Conv2d(8, 5, 3, stride=2)],
    "grouped": lambda: [nn.Conv2d(8, 4, 3, groups=2)],
    "depthwise": lambda: [nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 5, 1)],
    "linear behind a flatten": lambda: [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)],
    "transposed": lambda: [nn.ConvTranspose2d(8, 5, 3, stride=2)],
}


def net(name: str) -> tuple[Net, Any]:
    torch.manual_seed(0)
    model = Net(*READERS[name]()).double().eval()
    images = torch.randn(60, 3, 8, 8).double()
    return model, images


@torch.no_grad()
@pytest.mark.parametrize("name", READERS)
def test_copies_and_dead_channels_are_last(name: str) -> None:
    model, images = net(name)
    at = 4 if name == "grouped" else 8  # of two groups the channels at one place go together
    bias = model.first.bias
    assert bias is not None
    model.first.weight[2::at], bias[2::at] = model.first.weight[1::at], bias[1::at]
    model.first.weight[3::at], bias[3::at] = 0, -1
    if name == "depthwise":
        model.layers[0].weight[2] = model.layers[0].weight[1]  # type: ignore[operator,index]
    graph = fxprune.trace(model, images[:2])
    (found,) = scores(graph, Cap(), [images]).values()
    order = np.argsort(-found, kind="stable").tolist()
    assert found[order[0]] == pytest.approx(1)
    assert set(order[-2:]) in ({1, 3}, {2, 3})
    assert found[order[-2:]] == pytest.approx(0, abs=1e-8)
    assert found[order[-3]] > 1e-6


@torch.no_grad()
def test_a_grouped_conv_by_hand() -> None:
    model, images = net("grouped")
    graph = fxprune.trace(model, images[:2])
    (found,) = scores(graph, Cap(), [images]).values()
    order = np.argsort(-found).tolist()
    assert len(order) == 4
    read = torch.relu(model.first(images))
    for count in range(1, 4):
        lost = missed(model.layers[0], read, order[:count])
        assert found[order[count]] == pytest.approx(lost, rel=1e-6)


@pytest.mark.parametrize("name", READERS)
def test_readers_of_many_columns_are_taken_by_channels(name: str) -> None:
    model, images = net(name)
    graph = fxprune.trace(model, images[:2])
    (found,) = scores(graph, Cap(columns=4), [images]).values()
    assert found.max() == pytest.approx(1)
    assert (np.diff(np.sort(found)) > 0).all()


def test_less_memory_gives_the_same_in_more_runs() -> None:
    _, graph, images, _ = small(24)
    whole, parts = (scores(graph, Cap(memory=memory), [images]) for memory in (1 << 30, 8 * 36**2))
    for group, worth in whole.items():
        assert parts[group] == pytest.approx(worth)


def test_where_nothing_fits_energies_count() -> None:
    model, graph, images, _ = small(24)
    found = scores(graph, Cap(memory=1), [images])[MIDDLE]
    with torch.no_grad():
        energy = model.third(model.second(model.first(images))).square().sum(0).numpy()
    share = energy / energy.sum()
    assert np.sort(found) == pytest.approx(np.cumsum(np.sort(share)))


def test_progress_is_told() -> None:
    _, graph, images, _ = small(24)
    told: list[tuple[int, int]] = []
    one = Cap()
    one.comparing = lambda done, of: told.append((done, of))
    scores(graph, one, [images])
    assert told == [(1, 2), (2, 2)]


def test_nan_names_a_layer() -> None:
    _, graph, images, _ = small()
    images[0, 0, 0, 0] = float("nan")
    with pytest.raises(fxprune.FxpruneError, match="criterion cap is NaN for channels of one,"):
        site_scores(graph, [site_of(graph, STREAM)], "cap", Samples.of(graph, [images]))


def test_of_a_network_with_blocks_the_classifier_reads_as_one() -> None:
    torch.manual_seed(0)
    graph = fxprune.trace(Blocks().double().eval(), IMAGES)
    found = scores(graph, Cap(), [IMAGES])
    assert found["stem"].max() == pytest.approx(3)  # two blocks and the classifier read it


@pytest.mark.parametrize("name", sorted(NETS))
def test_any_network_has_finite_scores(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = NETS[name]()
    graph = fxprune.trace(model.eval(), inputs)
    for site, found in zip(sites := channel_sites(graph), site_scores(graph, sites, "cap"), strict=True):
        assert found.shape == (site.width,)
        assert (found >= -1e-9).all()
        assert np.isfinite(found).all()
