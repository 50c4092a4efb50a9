"""Data sets by name; layouts that are wrong."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from fxprune.errors import FxpruneError, FxpruneWarning, LoadError
from fxprune.training.batches import Seeded, loader, step_batches
from fxprune.training.data import IMAGENET_MEAN, IMAGENET_STD, load_data, sample_batches, sample_inputs
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


def test_sample_batches_have_the_labels_of_these_images() -> None:
    data = load_data("digits")
    batches = sample_batches(data, 100, 40)
    assert [(tuple(x.shape), tuple(y.shape)) for x, y in batches] == [
        ((40, 1, 8, 8), (40,)),
        ((40, 1, 8, 8), (40,)),
        ((20, 1, 8, 8), (20,)),
    ]
    assert torch.equal(torch.cat([x for x, _ in batches]), sample_inputs(data, 100))
    image, label = data.plain_train[0]
    assert torch.equal(batches[0][0][0], image)
    assert int(batches[0][1][0]) == int(label)
    assert batches[0][1].dtype == torch.int64


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
    with pytest.raises(LoadError, match="class 'a' is in train only"):
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


def test_samples_of_which_none_can_be_read() -> None:
    class Bad(Dataset[Any]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            return (torch.ones(1, 8, 8), 0) if index == 1 else None

    data = replace(load_data("digits"), train=Bad(), plain_train=Bad())
    assert sample_inputs(data, 4).shape == (1, 1, 8, 8)
    with pytest.raises(LoadError, match="none of 2 training images can be read"):
        sample_inputs(data, 2)


def test_images_that_their_decoder_cannot_read_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, {"train/a": 2, "val/a": 2})

    def broken(path: str) -> None:
        raise SyntaxError("broken PNG file")  # as Pillow does for damaged chunks

    monkeypatch.setattr("fxprune.training.data.read_image", broken)
    with pytest.raises(LoadError, match=r"cannot read image .*\.png: broken PNG file; --on-bad-image skip"):
        load_data(f"imagefolder:{tmp_path}", 8).train[0]
    data = load_data(f"imagefolder:{tmp_path}", 8, on_bad_image="skip")
    with pytest.warns(FxpruneWarning, match="broken PNG file; it is left out"):
        assert data.held_out[0] is None


@pytest.mark.parametrize("on_bad_image", ["fail", "skip"])
def test_folders_of_images_can_be_sent_to_workers(tmp_path: Path, on_bad_image: Literal["fail", "skip"]) -> None:
    write_images(tmp_path, {"train/a": 2, "val/a": 2})
    data = load_data(f"imagefolder:{tmp_path}", 8, on_bad_image=on_bad_image)
    again = pickle.loads(pickle.dumps(Seeded(data.train, 1)))  # as where processes are spawned, not forked
    assert torch.equal(again[1][0], Seeded(data.train, 1)[1][0])


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


def write_images(root: Path, counts: dict[str, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for number in range(count):
            pixels = torch.randint(0, 256, (16, 16, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(root / folder / f"{number}.png")


def test_images_in_memory_are_the_same_images(tmp_path: Path) -> None:
    write_images(tmp_path, {"train/cat": 5, "train/dog": 4, "val/cat": 2, "val/dog": 1})
    spec = f"imagefolder:{tmp_path}"
    plain, kept = load_data(spec, 16), load_data(spec, 16, in_memory=True).to(torch.device("cpu"))
    for a, b in ((plain.plain_train, kept.plain_train), (plain.held_out, kept.held_out)):
        count = len(a)  # type: ignore[arg-type]
        for one, other in zip(*(next(iter(loader(data, [range(count)]))) for data in (a, b)), strict=True):
            assert torch.allclose(one.float(), other.float(), atol=1e-6)
    assert torch.allclose(sample_inputs(plain, 3), sample_inputs(kept, 3), atol=1e-6)


def test_batches_for_a_gpu_are_pinned_unless_they_are_there_already(tmp_path: Path) -> None:
    write_images(tmp_path, {"train/cat": 4, "val/cat": 1})
    plain, kept = (load_data(f"imagefolder:{tmp_path}", 16, in_memory=in_memory).train for in_memory in (False, True))
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert loader(Seeded(plain, 0), [[0]], device=gpu).pin_memory
    assert not loader(Seeded(plain, 0), [[0]], device=cpu).pin_memory
    assert not loader(Seeded(plain, 0), [[0]]).pin_memory
    assert not loader(Seeded(kept, 0), [[0]], device=gpu).pin_memory


def test_images_in_memory_are_shifted_and_mirrored_by_seed_and_index(tmp_path: Path) -> None:
    write_images(tmp_path, {"train/cat": 40, "val/cat": 1})
    kept = load_data(f"imagefolder:{tmp_path}", 16, in_memory=True)

    def batch(indices: list[int], seed: int) -> torch.Tensor:
        images: torch.Tensor = next(iter(loader(Seeded(kept.train, seed), [indices], workers=2)))[0]
        return images

    first = batch(list(range(40)), seed=1)
    assert torch.equal(first[7:9], batch([7, 8], seed=1))
    assert not torch.equal(first, batch(list(range(40)), seed=2))
    plain = next(iter(loader(kept.plain_train, [range(40)])))[0]
    black = (-torch.tensor(IMAGENET_MEAN) / torch.tensor(IMAGENET_STD)).view(-1, 1, 1)
    moved = 0
    for image, original in zip(first, plain, strict=True):
        padded = black.expand(3, 20, 20).clone()
        padded[:, 2:18, 2:18] = original
        shifted = [padded[:, y : y + 16, x : x + 16] for y in range(5) for x in range(5)]
        found = [(n, f) for n, s in enumerate(shifted) for f in (s, s.flip(2)) if torch.allclose(f, image, atol=1e-6)]
        assert found
        moved += found[0][0] != 12
    assert moved > 20


def test_large_images_are_not_kept_in_memory(tmp_path: Path) -> None:
    write_images(tmp_path, {"train/cat": 1, "val/cat": 1})
    with pytest.raises(FxpruneError, match="224 pixels are not kept in memory"):
        load_data(f"imagefolder:{tmp_path}", in_memory=True)
    with pytest.raises(FxpruneError, match="leave out --in-memory"):
        load_data("digits", in_memory=True)
