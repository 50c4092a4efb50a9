"""The images of a search: shuffled, split, and refused where there are too few, or no labels."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from criterion_nets import small

import fxprune
from fxprune.choosing.fingerprint import digest_of
from fxprune.errors import FxpruneWarning
from fxprune.pruning.blend.images import split

pytestmark = pytest.mark.filterwarnings("ignore:a blend is chosen by top-1 on:fxprune.errors.FxpruneWarning")


def numbered(count: int, start: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return batches of 40 images that hold their own number, which is their label."""
    numbers = torch.arange(start, start + count)
    images = numbers.double().view(-1, 1, 1, 1).expand(-1, 2, 6, 6)
    return list(zip(torch.split(images, 40), torch.split(numbers, 40), strict=True))


def numbers_in(batches: Any) -> list[int]:
    for one in batches:
        assert torch.equal(one.inputs[0][:, 0, 0, 0].long(), one.labels)
    return torch.cat([one.labels for one in batches]).tolist()


def test_half_is_held_out_and_none_is_in_both() -> None:
    graph = small()[1]
    found = split(graph, numbered(600), None, seed=0)
    seen, held_out = numbers_in(found.seen), numbers_in(found.held_out)
    assert (len(seen), len(held_out)) == (300, 300)
    assert sorted(seen + held_out) == list(range(600))
    assert sorted(seen) != list(range(300, 600))
    assert {one.size for one in found.seen} == {150}


def test_others_may_be_held_out() -> None:
    found = split(small()[1], iter(numbered(40)), iter(numbered(50, start=100)), seed=0)
    assert sorted(numbers_in(found.seen)) == list(range(40))
    assert numbers_in(found.held_out) == list(range(100, 150))


def test_the_seed_shuffles() -> None:
    graph = small()[1]
    first, again, other = (split(graph, numbered(64), None, seed=one) for one in (0, 0, 1))
    assert first.digest == again.digest != other.digest
    assert numbers_in(first.seen) == numbers_in(again.seen) != numbers_in(other.seen)


def test_few_are_warned_of_and_too_few_refused() -> None:
    graph = small()[1]
    with pytest.warns(FxpruneWarning, match=r"top-1 on 32 held-out images, in steps of 3.1%: give more"):
        split(graph, numbered(64), None, seed=0)
    with pytest.raises(fxprune.FxpruneError, match="needs at least 32 images with labels; got 31"):
        split(graph, numbered(31), None, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split(graph, numbered(512), None, seed=0)


@pytest.mark.parametrize("what", ["none", "unlabelled", "maps", "real"])
def test_labels_are_needed(what: str) -> None:
    graph = small()[1]
    images = torch.randn(64, 2, 6, 6, dtype=torch.float64)
    data: Any = {
        "none": None,
        "unlabelled": [images],
        "maps": [(images, torch.zeros(64, 6, 6, dtype=torch.long))],
        "real": [(images, torch.zeros(64))],
    }[what]
    with pytest.raises(fxprune.FxpruneError, match="criterion blend needs labels: give data= as pairs") as caught:
        split(graph, data, None, seed=0)
    assert "\n" not in str(caught.value)


def test_images_of_several_shapes_are_refused() -> None:
    data = [(torch.zeros(40, 2, side, side), torch.zeros(40, dtype=torch.long)) for side in (6, 7)]
    with pytest.raises(fxprune.FxpruneError, match="criterion blend takes images of one shape: Sizes of tensors"):
        split(small()[1], data, None, seed=0)


def test_digests_are_of_values() -> None:
    one = torch.arange(6.0).view(2, 3)
    assert digest_of([one]) == digest_of([one.t().contiguous().t(), None]) != digest_of([one + 1])
    assert digest_of([one.bfloat16(), torch.tensor(3)])
