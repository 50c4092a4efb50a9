"""How images are prepared: as validation did, as timm reads the same words, from files of many kinds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from fxprune.errors import FxpruneError, LoadError
from fxprune.training.data import ImageData, load_data
from fxprune.training.preprocessing import (
    CONFIG,
    Preprocessing,
    copy_preprocessing,
    read_image,
    read_preprocessing,
    told_preprocessing,
    usual_preprocessing,
)

HALF = (0.5, 0.5, 0.5)


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.to(torch.uint8).numpy())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image folder of two classes, not square."""
    for split in ("train", "val"):
        for seed, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            noise(90, 70, seed).save(tmp_path / split / name / "0.png")
    return tmp_path


@pytest.mark.parametrize("size", [16, 64, 65, 96, 224])
def test_it_is_what_validation_does(folder: Path, size: int) -> None:
    data = load_data(f"imagefolder:{folder}", size)
    prepared = data.preprocessing
    assert prepared is not None
    assert (prepared.labels, prepared.input_size) == (("cat", "dog"), data.shape)
    for index, name in enumerate(prepared.labels):
        image, label = data.held_out[index]
        assert (prepared.label(label), label) == (name, index)
        assert torch.equal(prepared.prepared(folder / "val" / name / "0.png"), image)


def test_images_in_memory_are_prepared_alike(folder: Path) -> None:
    data = load_data(f"imagefolder:{folder}", 16, in_memory=True)
    assert data.preprocessing is not None
    image = data.preprocessing.prepared(folder / "val" / "dog" / "0.png")
    assert torch.allclose(image, data.held_out[1][0], atol=1e-6)


def test_what_validation_did_before_is_what_it_does(folder: Path) -> None:
    from torchvision.transforms import v2

    resize = v2.Compose([v2.Resize(round(96 * 256 / 224)), v2.CenterCrop(96)])
    with Image.open(folder / "val" / "cat" / "0.png") as image:
        expected = v2.functional.to_dtype(v2.functional.to_image(resize(image)), torch.float32, scale=True)
    found = Preprocessing((3, 96, 96), (0.0,) * 3, (1.0,) * 3)
    usual = usual_preprocessing(96, found.mean, found.std)
    assert torch.equal(usual.prepared(folder / "val" / "cat" / "0.png"), expected)


@pytest.mark.parametrize("size", [8, 12])
def test_digits_are_grey_images_of_their_values(tmp_path: Path, size: int) -> None:
    from sklearn.datasets import load_digits

    data = load_data("digits", size)
    assert data.preprocessing is not None
    assert data.preprocessing.labels == tuple("0123456789")
    pixels = load_digits().images[7] * 255 / 16
    Image.fromarray(pixels.round().astype(numpy.uint8)).save(tmp_path / "7.png")
    found = data.preprocessing.prepared(tmp_path / "7.png")
    images = [data.held_out[i][0] for i in range(450)] + [data.plain_train[i][0] for i in range(1347)]
    assert min(float((found - image).abs().max()) for image in images) < (0.005 if size == 8 else 0.05)


def test_classes_of_cifar10_are_those_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Small:
        classes = ("plane", "car")

        def __init__(self, root: Path, train: bool, transform: Any) -> None:
            self.transform = transform

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> tuple[Any, int]:
            return self.transform(noise(32, 32)), 1

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Small)
    data: ImageData = load_data(f"cifar10:{tmp_path}")
    assert data.preprocessing is not None
    assert (data.preprocessing.labels, data.preprocessing.input_size) == (("plane", "car"), (3, 32, 32))
    noise(32, 32).save(tmp_path / "x.png")
    assert torch.equal(data.preprocessing.prepared(tmp_path / "x.png"), data.held_out[0][0])


@pytest.mark.parametrize("size", [32, 64, 65, 97, 160, 224, 299, 384])
def test_timm_reads_the_same(tmp_path: Path, size: int) -> None:
    timm_data = pytest.importorskip("timm.data", reason="the extra timm is not installed")
    prepared = usual_preprocessing(size, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), ["a", "b"])
    config = json.loads(json.dumps(prepared.to_config()))
    transform = timm_data.create_transform(**timm_data.resolve_data_config(pretrained_cfg=config["pretrained_cfg"]))
    noise(400, 500).save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        assert torch.allclose(prepared.prepared(tmp_path / "x.png"), transform(image), atol=1e-6)


def test_timm_takes_all_keys() -> None:
    models = pytest.importorskip("timm.models", reason="the extra timm is not installed")
    told = usual_preprocessing(224, HALF, HALF, ["a", "b"]).to_config()["pretrained_cfg"]
    assert models.PretrainedCfg(**told).label_names == ["a", "b"]


def test_the_share_is_that_of_whole_pixels_at_every_size() -> None:
    assert usual_preprocessing(224, HALF, HALF).crop_pct == 0.875
    for size in range(65, 1025):
        share = usual_preprocessing(size, HALF, HALF).crop_pct
        assert math.floor(size / share) == round(size * 256 / 224)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    prepared = usual_preprocessing(96, (0.1, 0.2, 0.3), HALF, ["\u00e9t\u00e9", "b"])
    (tmp_path / CONFIG).write_text(json.dumps(prepared.to_config()))
    assert read_preprocessing(tmp_path) == prepared
    (tmp_path / "other").mkdir()
    assert read_preprocessing(tmp_path / "other") is None
    copy_preprocessing(tmp_path / "other", tmp_path)
    copy_preprocessing(tmp_path, tmp_path / "other")
    assert read_preprocessing(tmp_path / "other") == prepared


def test_labels_may_be_edited(tmp_path: Path) -> None:
    config = usual_preprocessing(32, HALF, HALF, ["n01", "n02"]).to_config()
    config["id2label"]["1"] = "goldfish"
    (tmp_path / CONFIG).write_text(json.dumps(config))
    assert told_preprocessing(tmp_path).labels == ("n01", "goldfish")
    del config["id2label"]
    (tmp_path / CONFIG).write_text(json.dumps(config))
    assert told_preprocessing(tmp_path).labels == ("n01", "n02")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("pretrained_cfg"), "lacks 'pretrained_cfg'"),
        (lambda d: d["pretrained_cfg"].pop("crop_mode"), "lacks 'crop_mode'"),
        (lambda d: d["pretrained_cfg"].update(crop_mode="border"), "'border' is none of squash, center"),
        (lambda d: d["pretrained_cfg"].update(interpolation=["bicubic"]), "is none of nearest, bilinear"),
        (lambda d: d["pretrained_cfg"].update(crop_pct=1e-9), "no share"),
        (lambda d: d["pretrained_cfg"].update(mean=[0.5]), "one number for each of 3"),
        (lambda d: d["pretrained_cfg"].update(std=[0.5, 0, 0.5]), "std is above 0"),
        (lambda d: d["pretrained_cfg"].update(std=[0.5, float("nan"), 0.5]), "std is above 0"),
        (lambda d: d["pretrained_cfg"].update(input_size=[3, 10**9, 10**9]), "is not .1 or 3, height, width."),
        (lambda d: d["pretrained_cfg"].update(input_size=[3, 32]), "how images are prepared"),
        (lambda d: d["pretrained_cfg"].update(input_size=[2, 32, 32]), "is not .1 or 3, height, width."),
        (lambda d: d["pretrained_cfg"].update(input_size=[3, 32, 31], crop_mode="center"), "for squares"),
        (lambda d: d.update(pretrained_cfg=[1]), "how images are prepared"),
        (lambda d: d.update(id2label={"1": "a"}), "id2label is to name the classes 0 to 0"),
        (lambda d: d.update(id2label=["a"]), "id2label is to name the classes 0 to 0"),
    ],
)
def test_a_file_that_is_damaged_is_named(tmp_path: Path, change: Any, message: str) -> None:
    config = usual_preprocessing(32, HALF, HALF, ["a", "b"]).to_config()
    change(config)
    (tmp_path / CONFIG).write_text(json.dumps(config))
    with pytest.raises(LoadError, match=message) as told:
        read_preprocessing(tmp_path)
    assert str(tmp_path / CONFIG) in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "3", "[" * 100_000])
def test_a_file_that_is_no_json(tmp_path: Path, text: str) -> None:
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(LoadError, match="does not tell how images are prepared"):
        read_preprocessing(tmp_path)


def test_what_is_given_takes_the_place_of_what_is_told(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"has no config\.json .*give --image-size, --mean and --std"):
        told_preprocessing(tmp_path, 32, HALF)
    assert told_preprocessing(tmp_path, 32, HALF, HALF) == usual_preprocessing(32, HALF, HALF)
    told = usual_preprocessing(32, HALF, HALF, ["a"])
    (tmp_path / CONFIG).write_text(json.dumps(told.to_config()))
    assert told_preprocessing(tmp_path) == told
    assert told_preprocessing(tmp_path, 224).crop_pct == 0.875
    assert told_preprocessing(tmp_path, mean=(0.0, 0.1, 0.2)).mean == (0.0, 0.1, 0.2)
    with pytest.raises(FxpruneError, match="one number for each of 3"):
        told_preprocessing(tmp_path, mean=(0.5,))


def pixel(file: Path, channels: int = 3) -> Any:
    return read_image(file, channels).getpixel((0, 0))


def test_images_of_every_kind(tmp_path: Path) -> None:
    kinds: dict[str, tuple[Any, Any]] = {
        "L": (200, (200, 200, 200)),
        "LA": ((200, 7), (200, 200, 200)),
        "RGB": ((1, 2, 3), (1, 2, 3)),
        "RGBA": ((1, 2, 3, 7), (1, 2, 3)),
        "1": (255, (255, 255, 255)),
        "I;16": (40_000, (155, 155, 155)),
    }
    for mode, (value, expected) in kinds.items():
        file = tmp_path / f"{mode}.png"
        Image.new(mode, (4, 4), value).save(file)
        assert pixel(file) == expected, mode
        assert isinstance(pixel(file, 1), int), mode
    palette = tmp_path / "P.gif"
    Image.new("RGB", (4, 4), (255, 0, 0)).convert("P").save(palette)
    assert pixel(palette) == (255, 0, 0)


def test_images_are_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 16), (0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 8, 8))  # white above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: white is on the right then
    image.save(tmp_path / "turned.png", exif=exif)
    upright = read_image(tmp_path / "turned.png")
    assert upright.size == (16, 8)
    assert (upright.getpixel((1, 4)), upright.getpixel((14, 4))) == ((0, 0, 0), (255, 255, 255))
    image.save(tmp_path / "damaged.jpg", exif=b"Exif\0\0nonsense")
    assert read_image(tmp_path / "damaged.jpg").size == (8, 16)


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    prepared = usual_preprocessing(8, HALF, HALF)
    with pytest.raises(LoadError, match="there is no file"):
        prepared.prepared(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(LoadError, match=r"cannot read image .*text\.png: cannot identify"):
        prepared.prepared(tmp_path / "text.png")
    noise(50, 50).save(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LoadError, match=r"cannot read image .*cut\.png"):
        prepared.prepared(tmp_path / "cut.png")
