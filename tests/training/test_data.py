"""Data sets by name; layouts that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from fxprune.errors import FxpruneWarning, LoadError
from fxprune.training.data import Seeded, load_data, loader, sample_inputs, step_batches
from fxprune.training.evaluation import evaluate


def test_digits() -> None:
    data = load_data("digits")
    assert (data.classes, data.shape) == (10, (1, 8, 8))
    images, labels = next(iter(loader(data.held_out, [range(450)])))
    assert images.shape == (450, 1, 8, 8)
    assert set(labels.tolist()) == set(range(10))
    train = next(iter(loader(data.plain_train, [range(1347)])))[0]
    assert not {tuple(x.flatten().tolist()) for x in train} & {tuple(x.flatten().tolist()) for x in images}


def test_the_order_is_a_function_of_the_seed() -> None:
    assert step_batches(100, 30, seed=1) == step_batches(100, 30, seed=1) != step_batches(100, 30, seed=2)
    assert [len(batch) for batch in step_batches(100, 30, seed=1)] == [30, 30, 30]
    assert len({index for batch in step_batches(100, 30, seed=1) for index in batch}) == 90
    assert [len(batch) for batch in step_batches(7, 30, seed=1)] == [7]


def test_augmentation_is_a_function_of_seed_and_index() -> None:
    data = load_data("digits").train
    state = torch.get_rng_state()
    first, again, other = (Seeded(data, seed)[5][0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert any(not torch.equal(Seeded(data, seed)[5][0], other) for seed in range(5))
    assert torch.equal(torch.get_rng_state(), state)
    in_workers = torch.cat([x for x, _ in loader(Seeded(data, 3), [range(8), range(8, 16)], workers=2)])
    assert torch.equal(in_workers, torch.stack([Seeded(data, 3)[index][0] for index in range(16)]))


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


def test_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("a", "b"):
            save(tmp_path / split / name / "0.jpg")
            save(tmp_path / split / name / "1.jpg")
    bad = tmp_path / "val" / "a" / "1.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2))
    with pytest.raises(LoadError, match=r"cannot read image .*val/a/1\.jpg"):
        evaluate(model, load_data(f"imagefolder:{tmp_path}", 8).held_out)
    data = load_data(f"imagefolder:{tmp_path}", 8, on_bad_image="skip")
    with pytest.warns(FxpruneWarning, match=r"val/a/1\.jpg.*left out"):
        labels = next(iter(loader(data.held_out, [range(4)])))[1]
    assert labels.tolist() == [0, 1, 1]
    with pytest.warns(FxpruneWarning):
        assert next(iter(loader(data.held_out, [[1]]))) is None
    with pytest.warns(FxpruneWarning):
        assert 0 <= evaluate(model, data.held_out, batch_size=1) <= 1


def test_a_class_without_images(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("a", "b"):
            save(tmp_path / split / name / "0.jpg")
    (tmp_path / "train" / "b" / "0.jpg").unlink()
    with pytest.raises(LoadError, match="no valid file for the classes b"):
        load_data(f"imagefolder:{tmp_path}")


def test_cifar10_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="no CIFAR-10 batches"):
        load_data(f"cifar10:{tmp_path}")
