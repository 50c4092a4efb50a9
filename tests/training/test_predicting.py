"""What an emitted network says of images: from the folder alone, as validation would have it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import fxprune
from fxprune.errors import FxpruneError, LoadError
from fxprune.training.predicting import images_in, load_predictor, require_emitted
from fxprune.training.preprocessing import Preprocessing

GREY = Preprocessing((1, 4, 4), (0.5,), (0.5,), ("dark", "bright"))


class Brightness(nn.Module):
    """Says "bright" of images above the middle grey, "dark" of others; of one size only."""

    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        self.head = nn.Linear(16, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        nn.init.ones_(self.head.weight[1:2])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(x.flatten(1))
        return y


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fxprune.emit(fxprune.trace(Brightness().eval(), torch.zeros(2, 1, 4, 4)), tmp_path / "net")


def grey(path: Path, value: int) -> Path:
    Image.new("L", (6, 5), value).save(path)
    return path


def test_the_best_classes_come_first(folder: Path, tmp_path: Path) -> None:
    predictor = load_predictor(folder, GREY, "cpu")
    files = [grey(tmp_path / f"{value}.png", value) for value in (0, 255, *[10] * 40)]
    found = list(predictor(files))
    assert [one.image for one in found] == files
    assert [one.top[0].label for one in found] == ["dark", "bright", *["dark"] * 40]
    (first, second) = found[1].top
    assert (first.index, second.index) == (1, 0)
    assert first.probability == pytest.approx(1 / (1 + torch.tensor(-16.0, dtype=torch.float64).exp().item()))
    assert first.probability + second.probability == pytest.approx(1)
    assert json.dumps(found[1].to_json()["top"][1]["label"]) == '"dark"'
    assert [len(one.top) for one in predictor(files[:1], 1)] == [1]


def test_half_precision(tmp_path: Path) -> None:
    graph = fxprune.trace(Brightness().eval().bfloat16(), torch.zeros(2, 1, 4, 4, dtype=torch.bfloat16))
    predictor = load_predictor(fxprune.emit(graph, tmp_path / "net"), GREY, "cpu")
    (found,) = predictor([grey(tmp_path / "x.png", 255)])
    assert found.top[0].label == "bright"


def test_outputs_without_names_have_numbers(tmp_path: Path) -> None:
    graph = fxprune.trace(Brightness(3).eval(), torch.zeros(2, 1, 4, 4))
    folder = fxprune.emit(graph, tmp_path / "net")
    (found,) = load_predictor(folder, GREY, "cpu")([grey(tmp_path / "x.png", 255)])
    assert {guess.label for guess in found.top} == {"dark", "bright", "2"}
    names = replace(GREY, labels=("a", "b", "c", "d"))
    with pytest.raises(LoadError, match=r"config.json names 4 classes, but the network has 3 outputs"):
        list(load_predictor(folder, names, "cpu")([tmp_path / "x.png"]))


def test_no_code_of_the_folder_is_run(folder: Path, tmp_path: Path) -> None:
    from emit_helpers import rewrite

    (folder / "model.py").write_text("raise SystemExit('executed')")
    rewrite(folder)
    (found,) = load_predictor(folder, GREY, "cpu")([grey(tmp_path / "x.png", 255)])
    assert found.top[0].label == "bright"


def test_what_the_network_does_not_take(folder: Path, tmp_path: Path) -> None:
    grey(tmp_path / "x.png", 255)
    with pytest.raises(FxpruneError, match=r"does not take images of 1x8x8: .*; --image-size sets their side"):
        list(load_predictor(folder, replace(GREY, input_size=(1, 8, 8)), "cpu")([tmp_path / "x.png"]))
    detector = fxprune.trace(nn.Conv2d(1, 1, 3), torch.zeros(2, 1, 4, 4))
    predictor = load_predictor(fxprune.emit(detector, tmp_path / "conv"), GREY, "cpu")
    with pytest.raises(FxpruneError, match="does not return logits"):
        list(predictor([tmp_path / "x.png"]))
    with pytest.raises(FxpruneError, match="cannot predict on device nowhere"):
        load_predictor(folder, GREY, "nowhere")


def test_folders_that_hold_no_network(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="there is no folder"):
        require_emitted(tmp_path / "none")
    with pytest.raises(LoadError, match=r"it has no graph\.json"):
        require_emitted(tmp_path)
    (tmp_path / "model.pt").touch()
    with pytest.raises(LoadError, match=r"holds model\.pt alone, which can run any code"):
        require_emitted(tmp_path)


def test_images_of_folders_come_in_order(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("b.PNG", "a.jpg", "deep/c.png", "notes.txt"):
        (tmp_path / "in" / name).touch()
    names = [path.name for path in images_in([tmp_path / "in" / "notes.txt", tmp_path / "in"])]
    assert names == ["notes.txt", "a.jpg", "b.PNG", "c.png"]
    with pytest.raises(LoadError, match="there is no file"):
        images_in([tmp_path / "none"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(LoadError, match="holds no images"):
        images_in([tmp_path / "empty"])
