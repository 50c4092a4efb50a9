"""Data sets by name; layouts that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from fxprune.errors import LoadError
from fxprune.training.data import batches, load_data, sample_inputs


def test_digits() -> None:
    data = load_data("digits")
    assert (data.classes, data.shape) == (10, (1, 8, 8))
    images, labels = next(iter(batches(data.held_out, 450)))
    assert images.shape == (450, 1, 8, 8)
    assert set(labels.tolist()) == set(range(10))
    train = next(iter(batches(data.plain_train, 2000)))[0]
    assert not {tuple(x.flatten().tolist()) for x in train} & {tuple(x.flatten().tolist()) for x in images}


def test_the_order_is_a_function_of_the_seed() -> None:
    data = load_data("digits").plain_train
    first, again, other = (next(iter(batches(data, 64, shuffle_seed=seed)))[1] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_sample_inputs_are_spread_over_the_data() -> None:
    data = load_data("digits")
    assert sample_inputs(data, 16).shape == (16, 1, 8, 8)
    assert len(sample_inputs(data, 10_000)) == 1347


def save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 30)).save(path)


@pytest.mark.parametrize(("size", "held_out"), [(8, "val"), (80, "test")])
def test_image_folders(tmp_path: Path, size: int, held_out: str) -> None:
    for split in ("train", held_out):
        for name in ("a", "b"):
            save(tmp_path / split / name / "0.jpg")
    data = load_data(f"imagefolder:{tmp_path}", size)
    assert data.classes == 2
    for part in (data.train, data.plain_train, data.held_out):
        assert part[0][0].shape == (3, size, size)


def test_layouts_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="there is no folder"):
        load_data(f"imagefolder:{tmp_path / 'none'}")
    with pytest.raises(LoadError, match=r"expected .*train"):
        load_data(f"imagefolder:{tmp_path}")
    save(tmp_path / "train" / "a" / "0.jpg")
    save(tmp_path / "val" / "b" / "0.jpg")
    with pytest.raises(LoadError, match="class 'a' is in one of train and val only"):
        load_data(f"imagefolder:{tmp_path}")
    (tmp_path / "val" / "b" / "0.jpg").unlink()
    with pytest.raises(LoadError, match="imagefolder"):
        load_data(f"imagefolder:{tmp_path}")


def test_cifar10_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="no CIFAR-10 batches"):
        load_data(f"cifar10:{tmp_path}")
