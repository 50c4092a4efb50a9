"""Image classification data sets by name: ``digits``, ``cifar10:DIR``, ``imagefolder:DIR``.

``imagefolder:DIR`` expects torchvision's layout, DIR/train/CLASS/*.jpg and the same under DIR/val (or test,
or valid). How images are prepared is in :mod:`fxprune.training.preprocessing`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import Dataset, TensorDataset

from fxprune.errors import FxpruneError, FxpruneValueError, FxpruneWarning, LoadError
from fxprune.training.batches import default_workers, in_order, loader
from fxprune.training.in_memory import InMemory
from fxprune.training.preprocessing import SMALL, Preprocessing, read_image, usual_preprocessing

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_HELD_OUT_DIGITS = 450


@dataclass(frozen=True)
class ImageData:
    """Training and held-out images as (image tensor, label) data sets.

    ``plain_train`` holds the training images without augmentation; ``shape`` is one image's (C, H, W).
    ``preprocessing`` tells how images were prepared, and what classes are called; None where nobody knows.
    """

    train: Dataset[Any]
    plain_train: Dataset[Any]
    held_out: Dataset[Any]
    classes: int
    shape: tuple[int, int, int]
    preprocessing: Preprocessing | None = None

    @property
    def train_count(self) -> int:
        """The number of training images."""
        return len(self.train)  # type: ignore[arg-type]  # every map-style data set has a length

    def to(self, device: torch.device) -> ImageData:
        """Return the same data with the images that are kept in memory on ``device``."""

        def move(data: Dataset[Any]) -> Dataset[Any]:
            return data.to(device) if isinstance(data, InMemory) else data

        return replace(self, train=move(self.train), plain_train=move(self.plain_train), held_out=move(self.held_out))


def load_data(
    spec: str,
    image_size: int | None = None,
    *,
    on_bad_image: Literal["fail", "skip"] = "fail",
    in_memory: bool = False,
) -> ImageData:
    """Open the data set that ``spec`` names; ``image_size`` is the side in pixels that the model takes.

    An image of a folder that cannot be read is an error that names it, or with "skip" a warning, and it is left out.
    With ``in_memory`` images of up to 64 pixels are decoded once, to be kept and augmented on the device
    (:meth:`ImageData.to`).

    Raises:
        LoadError: there is no such data, or it is not laid out as it should be.
        FxpruneError: the images are too large to be kept in memory.
    """
    kind, _, folder = spec.partition(":")
    if kind == "digits":
        if in_memory:
            raise FxpruneValueError("the digits always are in memory; leave out --in-memory")
        return _digits(image_size or 8)
    if kind not in ("cifar10", "imagefolder"):
        raise LoadError(f"unknown data {spec!r}; use digits, cifar10:DIR or imagefolder:DIR")
    root = Path(folder)
    if not folder or not root.is_dir():
        raise LoadError(f"{spec}: there is no folder {folder!r}")
    size = image_size or (32 if kind == "cifar10" else 224)
    if in_memory and size > SMALL:
        raise FxpruneValueError(
            f"images of {size} pixels are not kept in memory, only up to {SMALL}: set --image-size"
        )
    data = (
        _cifar10(root, size, in_memory) if kind == "cifar10" else _image_folder(root, size, on_bad_image, in_memory)
    )
    return _decoded(data) if in_memory else data


def _decoded(data: ImageData) -> ImageData:
    """Return ``data``, of uint8 images, with all of them decoded."""

    def decode(images: Dataset[Any]) -> InMemory:
        indices = in_order(len(images), 1000)  # type: ignore[arg-type]  # every map-style data set has a length
        batches = [batch for batch in loader(images, indices, workers=default_workers()) if batch is not None]
        if not batches:
            raise LoadError("none of the images can be read")
        pixels, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        return InMemory(pixels, labels, IMAGENET_MEAN, IMAGENET_STD)

    train = decode(data.plain_train)
    return replace(data, train=train, plain_train=train, held_out=decode(data.held_out))


def _digits(size: int) -> ImageData:
    """Scikit-learn's 1,797 handwritten digits of 8 x 8 pixels; a fixed quarter of them is held out."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise FxpruneError("the digits need scikit-learn; pip install 'fxprune[demo]'") from error
    from torchvision.transforms import v2

    digits = load_digits()
    prepared = Preprocessing((1, size, size), (0.5,), (0.5,), tuple(map(str, range(10))))
    pixels = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    images = v2.Normalize(prepared.mean, prepared.std)(pixels)
    if size != 8:
        images = v2.functional.resize(images, [size, size])
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    held_out, train = order[:_HELD_OUT_DIGITS], order[_HELD_OUT_DIGITS:]
    plain = TensorDataset(images[train], labels[train])
    crop = v2.RandomCrop(size, padding=max(1, size // 8), fill=-1)
    other = TensorDataset(images[held_out], labels[held_out])
    return ImageData(_Augmented(plain, crop), plain, other, 10, prepared.input_size, prepared)


class _Augmented(Dataset[Any]):
    def __init__(self, base: Dataset[Any], transform: Callable[[Any], Any]) -> None:
        self.base, self.transform = base, transform

    def __len__(self) -> int:
        return len(self.base)  # type: ignore[arg-type]  # every map-style data set has a length

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, label = self.base[index]
        return self.transform(image), label


def _transforms(size: int, in_memory: bool) -> tuple[Any, Any]:
    """Return the (train, eval) transforms: small images are shifted and mirrored, large ones cropped at random.

    With ``in_memory`` both only make uint8 tensors of one size; :class:`InMemory` does the rest.
    """
    from torchvision.transforms import v2

    prepared = usual_preprocessing(size, IMAGENET_MEAN, IMAGENET_STD)
    same, finish = prepared.geometry(), prepared.finish()
    if in_memory:
        return (v2.Compose([*same, v2.ToImage()]),) * 2
    shift = [*same, v2.RandomCrop(size, padding=size // 8)]
    augment = [*(shift if size <= SMALL else [v2.RandomResizedCrop(size)]), v2.RandomHorizontalFlip()]
    return v2.Compose([*augment, *finish]), v2.Compose([*same, *finish])


def _of_photographs(train: Any, plain_train: Any, held_out: Any, size: int, classes: Sequence[str]) -> ImageData:
    prepared = usual_preprocessing(size, IMAGENET_MEAN, IMAGENET_STD, classes)
    return ImageData(train, plain_train, held_out, len(classes), prepared.input_size, prepared)


def _cifar10(root: Path, size: int, in_memory: bool) -> ImageData:
    from torchvision.datasets import CIFAR10

    augmented, plain = _transforms(size, in_memory)
    try:
        train, plain_train, held_out = (
            CIFAR10(root, train=is_train, transform=transform)
            for is_train, transform in ((True, augmented), (True, plain), (False, plain))
        )
    except RuntimeError as error:
        raise LoadError(f"cifar10:{root}: no CIFAR-10 batches there, or a damaged one: {error}") from error
    return _of_photographs(train, plain_train, held_out, size, train.classes)


def _image_folder(root: Path, size: int, on_bad_image: str, in_memory: bool) -> ImageData:
    from torchvision.datasets import ImageFolder

    held_out_folder = next((root / name for name in ("val", "test", "valid") if (root / name).is_dir()), None)
    if not (root / "train").is_dir() or held_out_folder is None:
        raise LoadError(
            f"imagefolder:{root}: expected {root}/train and {root}/val (or test), one folder a class in each"
        )
    augmented, plain = _transforms(size, in_memory)
    try:
        train, plain_train, held_out = (
            ImageFolder(folder, transform=transform, loader=_open_image)
            for folder, transform in (
                (root / "train", augmented),
                (root / "train", plain),
                (held_out_folder, plain),
            )
        )
    except FileNotFoundError as error:
        raise LoadError(f"imagefolder:{root}: {error}") from error
    if train.classes != held_out.classes:
        odd = min(set(train.classes) ^ set(held_out.classes))
        where = "train" if odd in train.classes else held_out_folder.name
        raise LoadError(
            f"imagefolder:{root}: class {odd!r} is in {where} only; "
            f"train and {held_out_folder.name} must have the same classes"
        )
    classes = train.classes
    if on_bad_image == "skip":
        train, plain_train, held_out = map(_WithoutBadImages, (train, plain_train, held_out))
    return _of_photographs(train, plain_train, held_out, size, classes)


class _WithoutBadImages(Dataset[Any]):
    """A folder of images; one that cannot be read is None, with a warning."""

    def __init__(self, base: Dataset[Any]) -> None:
        self.base = base

    def __len__(self) -> int:
        return len(self.base)  # type: ignore[arg-type]  # every map-style data set has a length

    def __getitem__(self, index: int) -> Any:
        try:
            return self.base[index]
        except LoadError as error:
            warnings.warn(f"{str(error).partition(';')[0]}; it is left out", FxpruneWarning, stacklevel=1)
            return None


def _open_image(path: str | Path) -> Any:
    try:
        return read_image(path)
    except Exception as error:  # Pillow's decoders raise SyntaxError, ValueError and others of their own
        raise LoadError(f"cannot read image {path}: {error}; --on-bad-image skip leaves such images out") from error


def sample_inputs(data: ImageData, count: int = 16) -> torch.Tensor:
    """Return ``count`` training images without augmentation, spread over the data set, as (N, C, H, W).

    By default as many as networks are traced with. Those that cannot be read are left out; raises LoadError if none
    of them can be.
    """
    return torch.stack([image for image, _ in _samples(data, count)])


def sample_batches(data: ImageData, count: int, batch_size: int = 64) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the images of :func:`sample_inputs` with their labels, in batches: (N, C, H, W) and (N,)."""
    samples = _samples(data, count)
    batches = [samples[first : first + batch_size] for first in range(0, len(samples), batch_size)]
    return [
        (torch.stack([image for image, _ in batch]), torch.tensor([int(label) for _, label in batch]))
        for batch in batches
    ]


def _samples(data: ImageData, count: int) -> list[tuple[torch.Tensor, Any]]:
    total = data.train_count
    count = min(count, total)
    chosen = torch.linspace(0, total - 1, count).long().tolist()
    samples = [data.plain_train[index] for index in chosen]
    found = [sample for sample in samples if sample is not None]
    if not found:
        raise LoadError(f"none of {count} training images can be read")
    return found
