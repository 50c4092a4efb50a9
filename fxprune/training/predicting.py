"""What an emitted network says of images: its best classes for each, from the folder alone.

The folder is read as data (:func:`fxprune.emission.emit.load_emitted`): no code in it is run. Images are prepared as
those of validation were (:mod:`fxprune.training.preprocessing`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx

from fxprune.emission.emit import is_emitted, load_emitted
from fxprune.errors import FxpruneError, LoadError, first_line
from fxprune.ir.nodes import EXAMPLE_INPUTS
from fxprune.training.checks import PICKLED
from fxprune.training.evaluation import to_device
from fxprune.training.preprocessing import CONFIG, Preprocessing

_AT_ONCE = 32  # images


@dataclass(frozen=True)
class Guess:
    """A class, its index among the network's outputs, and its share of their softmax."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The best classes of one image, the best one first."""

    image: Path
    top: tuple[Guess, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"image": str(self.image), "top": [asdict(guess) for guess in self.top]}


@dataclass(frozen=True)
class Predictor:
    """An emitted network on its device, and how images are prepared for it."""

    graph_module: fx.GraphModule
    preprocessing: Preprocessing
    device: torch.device

    def __call__(self, files: Sequence[Path], top_k: int = 5) -> Iterator[Prediction]:
        """Yield the ``top_k`` best classes of the image in each file.

        Raises:
            LoadError: a file is no image (names it).
            FxpruneError: the network does not take such images, or is no classifier.
        """
        for start in range(0, len(files), _AT_ONCE):
            some = files[start : start + _AT_ONCE]
            logits = self._logits(torch.stack([self.preprocessing.prepared(file) for file in some]))
            shares, indices = logits.double().softmax(1).topk(min(top_k, logits.shape[1]))
            for file, *best in zip(some, shares.tolist(), indices.tolist(), strict=True):
                yield Prediction(file, tuple(self._guess(*one) for one in zip(*best, strict=True)))

    def _guess(self, share: float, index: int) -> Guess:
        return Guess(self.preprocessing.label(index), index, share)

    def _logits(self, images: torch.Tensor) -> torch.Tensor:
        example = (self.graph_module.meta.get(EXAMPLE_INPUTS) or (images,))[0]
        dtype = example.dtype if isinstance(example, torch.Tensor) else images.dtype
        try:
            with torch.no_grad():
                outputs = self.graph_module(to_device(images.to(dtype), self.device))
        except Exception as error:
            size = "x".join(map(str, images.shape[1:]))
            raise FxpruneError(
                f"the network does not take images of {size}: {first_line(error)}; --image-size sets their side"
            ) from error
        if not isinstance(outputs, torch.Tensor) or outputs.dim() != 2:
            raise FxpruneError("the network does not return logits of shape (N, classes); call it in Python")
        if outputs.shape[1] < len(self.preprocessing.labels):
            raise LoadError(
                f"{CONFIG} names {len(self.preprocessing.labels)} classes, but the network has {outputs.shape[1]} "
                "outputs: it is not this network's"
            )
        return outputs


def load_predictor(folder: Path, preprocessing: Preprocessing, device: str = "auto") -> Predictor:
    """Read the network in ``folder``, for images that are prepared by ``preprocessing``.

    ``device`` is torch's name of one; "auto" takes a CUDA GPU if there is one.

    Raises:
        LoadError: the folder is not one that :func:`fxprune.emit` wrote.
        FxpruneError: there is no such device.
    """
    require_emitted(folder)
    graph_module = load_emitted(folder)
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        chosen = torch.device(name)
        return Predictor(graph_module.to(chosen), preprocessing, chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise FxpruneError(f"cannot predict on device {name}: {first_line(error)}") from error


def require_emitted(folder: Path) -> None:
    """Raise LoadError, saying what there is instead, if no emitted network is in ``folder``."""
    if is_emitted(folder):
        return
    if not folder.is_dir():
        raise LoadError(f"there is no folder {folder}")
    if (folder / PICKLED).is_file():
        raise LoadError(f"{folder} holds {PICKLED} alone, which can run any code: read it in Python, with torch.load")
    raise LoadError(f"{folder} holds no network that fxprune wrote: it has no graph.json")


def images_in(paths: Sequence[Path]) -> list[Path]:
    """Return the files that ``paths`` name, and the images in and below those that are folders, by name.

    Raises LoadError for a path that is not there, and a folder without images.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise LoadError(f"there is no file {path}")
        inside = sorted(one for one in path.rglob("*") if one.suffix.lower() in IMG_EXTENSIONS and one.is_file())
        if path.is_dir() and not inside:
            raise LoadError(f"{path} holds no images ({', '.join(IMG_EXTENSIONS)})")
        found += inside if path.is_dir() else [path]
    return found
