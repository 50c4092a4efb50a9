"""How an image becomes what a network takes, and what its outputs are called: one recipe, for validation and for use.

``config.json`` in the folder of a run tells it in the words of others: ``pretrained_cfg`` is timm's
(``timm.data.resolve_data_config(pretrained_cfg=...)`` takes it), ``id2label`` and ``label2id`` are those of Hugging
Face's configurations. Labels may be edited: :func:`read_preprocessing` takes those of ``id2label``.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from fxprune.errors import FxpruneError, FxpruneValueError, LoadError, first_line

CONFIG = "config.json"
"""The file of a folder that tells how images are prepared."""
SMALL = 64
"""The largest side in pixels of images that are squeezed to their size; larger ones are cropped."""
CropMode = Literal["squash", "center"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
_LARGEST = 1 << 14


@dataclass(frozen=True)
class Preprocessing:
    """How an image is prepared, by timm's names and with timm's meaning.

    Args:
        input_size: (C, H, W); C is 1 for grey images, 3 for RGB.
        mean: of each channel, for values between 0 and 1.
        std: likewise.
        labels: the names of the first outputs; empty where nobody knows them.
        crop_pct: the share of the scaled image's side that is left: it is scaled to ``floor(side / crop_pct)``.
        crop_mode: "squash" scales both sides to that, "center" the shorter one, before the centre is cut out.
        interpolation: of scaling.

    Raises:
        FxpruneValueError: one of them can be no image's.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    labels: tuple[str, ...] = ()
    crop_pct: float = 1.0
    crop_mode: CropMode = "squash"
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        channels, height, width = self.input_size
        if channels not in (1, 3) or not 1 <= min(height, width) <= max(height, width) <= _LARGEST:
            raise FxpruneValueError(f"input_size {list(self.input_size)} is not (1 or 3, height, width) of an image")
        if not len(self.mean) == len(self.std) == channels:
            raise FxpruneValueError(f"mean and std are one number for each of {channels} channels")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise FxpruneValueError("mean and std are numbers, and std is above 0")
        if not 0.1 <= self.crop_pct <= 1:
            raise FxpruneValueError(f"crop_pct {self.crop_pct} is no share in [0.1, 1]")
        for name, kinds in (("crop_mode", CropMode), ("interpolation", Interpolation)):
            if getattr(self, name) not in get_args(kinds):
                raise FxpruneValueError(f"{name} {getattr(self, name)!r} is none of {', '.join(get_args(kinds))}")
        if self.crop_mode == "center" and height != width:
            raise FxpruneValueError(f"crop_mode center is for squares, not for {height}x{width}")

    def geometry(self) -> list[Any]:
        """Return the transforms that bring an image to its size."""
        from torchvision.transforms import InterpolationMode, v2

        size = self.input_size[1:]
        scaled = [math.floor(side / self.crop_pct) for side in size]
        squash = self.crop_mode == "squash"
        resize = v2.Resize(scaled if squash else scaled[0], InterpolationMode(self.interpolation))
        return [resize] if squash and tuple(scaled) == size else [resize, v2.CenterCrop(size)]

    def finish(self) -> list[Any]:
        """Return the transforms that make a normalised tensor of an image."""
        from torchvision.transforms import v2

        return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(self.mean, self.std)]

    def prepared(self, file: Path) -> torch.Tensor:
        """Return the image in ``file`` as the network takes it, (C, H, W).

        Raises LoadError, naming the file, if it cannot be read.
        """
        from torchvision.transforms import v2

        if not file.is_file():
            raise LoadError(f"there is no file {file}")
        try:
            image = read_image(file, self.input_size[0])
        except Exception as error:  # Pillow's decoders raise SyntaxError, ValueError and others of their own
            raise LoadError(f"cannot read image {file}: {first_line(error)}") from error
        tensor: torch.Tensor = v2.Compose([*self.geometry(), *self.finish()])(image)
        return tensor.as_subclass(torch.Tensor)

    def label(self, index: int) -> str:
        """Return the name of an output; its number where it has none."""
        return self.labels[index] if index < len(self.labels) else str(index)

    def to_config(self) -> dict[str, Any]:
        """Return the content of ``config.json``."""
        named = {
            "id2label": {str(index): label for index, label in enumerate(self.labels)},
            "label2id": {label: index for index, label in enumerate(self.labels)},
        }
        classes = {"num_classes": len(self.labels), "label_names": list(self.labels)}
        return {
            **(named if self.labels else {}),
            "pretrained_cfg": {
                **(classes if self.labels else {}),
                "input_size": list(self.input_size),
                "interpolation": self.interpolation,
                "crop_pct": self.crop_pct,
                "crop_mode": self.crop_mode,
                "mean": list(self.mean),
                "std": list(self.std),
            },
        }


def usual_preprocessing(
    size: int, mean: Sequence[float], std: Sequence[float], labels: Sequence[str] = ()
) -> Preprocessing:
    """Return how squares of ``size`` pixels are made of images here.

    Up to 64 pixels the whole image is scaled to them; of larger ones, the shorter side is scaled to 256/224 of it,
    as is usual on ImageNet, and the centre is cut out.
    """
    whole = Preprocessing((len(mean), size, size), tuple(mean), tuple(std), tuple(labels))
    if size <= SMALL:
        return whole
    return replace(whole, crop_pct=_crop_pct(size, round(size * 256 / 224)), crop_mode="center")


def _crop_pct(size: int, scaled: int) -> float:
    """Return the share whose ``floor(size / share)`` is ``scaled``, in floating point too."""
    share = size / scaled
    while math.floor(size / share) < scaled:
        share = math.nextafter(share, 0)
    return share


def read_image(file: str | Path, channels: int = 3) -> Any:
    """Return an image of Pillow's with 8 bits a channel, grey (1) or RGB (3), upright, as its EXIF data tell.

    Transparency is left out. Raises what Pillow raises.
    """
    from PIL import Image, ImageOps

    with Image.open(file) as opened:
        image: Image.Image = opened
        with suppress(Exception):  # damaged EXIF data; a damaged image says so below
            ImageOps.exif_transpose(image, in_place=True)
        if image.mode == "I" or image.mode.startswith("I;16"):
            image = _eight_bits(image)
        return image.convert("L" if channels == 1 else "RGB")


def _eight_bits(image: Any) -> Any:
    """Return a grey image of 16 bits with 8: Pillow would clip it at 255."""
    import numpy
    from PIL import Image

    return Image.fromarray((numpy.asarray(image).clip(0, 65535) // 257).astype(numpy.uint8))


def read_preprocessing(folder: Path) -> Preprocessing | None:
    """Read ``config.json`` of ``folder``; None if it is not there.

    Raises LoadError if it is damaged, or does not say all that it should.
    """
    file = folder / CONFIG
    if not file.is_file():
        return None
    try:
        return _from_config(json.loads(file.read_text(encoding="utf-8")))
    except KeyError as error:
        raise LoadError(f"{file} does not tell how images are prepared: pretrained_cfg lacks {error}") from error
    except FxpruneError as error:
        raise LoadError(f"{file}: {error}") from error
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise LoadError(f"{file} does not tell how images are prepared: {first_line(error)}") from error


def _from_config(data: Any) -> Preprocessing:
    told = data["pretrained_cfg"]
    channels, height, width = map(int, told["input_size"])
    return Preprocessing(
        input_size=(channels, height, width),
        mean=tuple(map(float, told["mean"])),
        std=tuple(map(float, told["std"])),
        labels=_labels(data.get("id2label"), told.get("label_names")),
        crop_pct=float(told["crop_pct"]),
        crop_mode=told["crop_mode"],
        interpolation=told["interpolation"],
    )


def _labels(by_id: dict[str, Any] | None, names: Sequence[Any] | None) -> tuple[str, ...]:
    if not by_id:
        return tuple(map(str, names or ()))
    if set(by_id) != {str(index) for index in range(len(by_id))}:
        raise FxpruneValueError(f"id2label is to name the classes 0 to {len(by_id) - 1}, each once")
    return tuple(str(by_id[str(index)]) for index in range(len(by_id)))


def copy_preprocessing(source: Path, out: Path) -> None:
    """Tell in the folder ``out`` what ``source`` tells, where that is a folder that tells it."""
    if (source / CONFIG).is_file():
        shutil.copyfile(source / CONFIG, out / CONFIG)


def told_preprocessing(
    folder: Path,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Preprocessing:
    """Return how images are prepared for the network in ``folder``: what is given, else what its file tells.

    Raises:
        LoadError: the file is damaged, or not there and not all of it is given.
        FxpruneValueError: what is given can be no image's.
    """
    found = read_preprocessing(folder)
    if found is not None:
        mean, std = mean or found.mean, std or found.std
        if image_size is None:
            return replace(found, mean=tuple(mean), std=tuple(std))
        new = usual_preprocessing(image_size, mean, std, found.labels)
        return replace(new, interpolation=found.interpolation)
    if image_size is None or mean is None or std is None:
        raise LoadError(
            f"{folder} has no {CONFIG} to tell how images are prepared: give --image-size, --mean and --std "
            "as it was trained with, or write it anew with fxprune prune"
        )
    return usual_preprocessing(image_size, mean, std)
