"""``fxprune predict``: from images to a folder, from the folder to classes; with onnxruntime alone too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_helpers import run
from PIL import Image

from fxprune.training.preprocessing import CONFIG

NAMES = ["bright tea", "dark", "green", "red", "violet"]
COLOURS = [(230, 230, 230), (20, 20, 20), (30, 200, 30), (200, 30, 30), (150, 30, 200)]
FACTORY = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x):
        return torch.relu(x + self.norm(self.conv(x)))

def make():
    torch.manual_seed(0)
    stem = [nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*stem, Block(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
"""
# What somebody without torch and fxprune writes: NumPy, Pillow, onnxruntime and the written files.
ONNX_ALONE = """
import json, pathlib, sys
import numpy, onnxruntime
from PIL import Image

folder, images = map(pathlib.Path, sys.argv[1:])
told = json.loads((folder / "config.json").read_text())
how = told["pretrained_cfg"]
size = how["input_size"][1]
side = int(size / how["crop_pct"])

def prepared(file):
    image = Image.open(file).convert("RGB")
    shorter = min(image.size)
    width, height = (int(side * length / shorter) for length in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    image = image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))
    pixels = numpy.asarray(image, numpy.float32) / 255
    return ((pixels - numpy.float32(how["mean"])) / numpy.float32(how["std"])).transpose(2, 0, 1)

session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
(given,) = session.get_inputs()
found = {}
for file in sorted(images.rglob("*.jpg")):
    (logits,) = session.run(None, {given.name: prepared(file)[None]})
    found[str(file)] = told["id2label"][str(logits[0].argmax())]
assert "torch" not in sys.modules
print(json.dumps({"shape": given.shape, "found": found}))
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five classes of noisy colours, as JPEGs of many sizes."""
    root = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 8), ("val", 4)):
        for name, colour in zip(NAMES, COLOURS, strict=True):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                noise = torch.randint(-90, 90, (70 + 3 * index, 90 - 4 * index, 3), generator=generator)
                pixels = (noise + torch.tensor(colour)).clamp(0, 255).to(torch.uint8)
                Image.fromarray(pixels.numpy()).save(root / split / name / f"{index}.jpg", quality=90)
    return root


@pytest.fixture(scope="module")
def pruned(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a newcomer's run writes, with ONNX for images of any size."""
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    root = tmp_path_factory.mktemp("run")
    (root / "factory.py").write_text(FACTORY)
    command = ["prune", f"{root / 'factory.py'}:make", "--data", f"imagefolder:{images}", "--image-size", "72"]
    options = [
        "--epochs",
        "2",
        "--batch-size",
        "8",
        "--lr",
        "0.05",
        "--workers",
        "0",
        "--format",
        "onnx",
        "--dynamic",
    ]
    command += [*options, "--out", str(root / "pruned"), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "fxprune", *command], capture_output=True, text=True, timeout=300, check=True
    )
    report = json.loads(done.stdout)
    assert report.pop("out") == str(root / "pruned")
    assert report == json.loads((root / "pruned" / "report.json").read_text())
    assert "can go; held-out top-1" in done.stderr
    return root / "pruned"


def accuracy(found: dict[str, str]) -> float:
    return sum(Path(file).parent.name == label for file, label in found.items()) / len(found)


def test_the_folder_tells_how_images_are_prepared(pruned: Path) -> None:
    told = json.loads((pruned / CONFIG).read_text())
    assert told == json.loads((pruned / "report.json").read_text())["preprocessing"]
    assert list(told["label2id"]) == NAMES
    assert told["pretrained_cfg"]["input_size"] == [3, 72, 72]


def test_accuracy_is_that_of_the_report(capsys: pytest.CaptureFixture[str], images: Path, pruned: Path) -> None:
    code, out, err = run(capsys, "predict", str(pruned), str(images / "val"), "--json", "--device", "cpu")
    assert (code, err) == (0, "")
    found = {one["image"]: one["top"][0]["label"] for one in json.loads(out)["images"]}
    assert len(found) == 20
    report = json.loads((pruned / "report.json").read_text())
    assert accuracy(found) == pytest.approx(report["accuracy_after"])
    done = subprocess.run(
        [sys.executable, "-c", ONNX_ALONE, str(pruned), str(images / "val")],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    alone = json.loads(done.stdout)
    assert alone["found"] == found
    assert alone["shape"] == ["batch", 3, "height", "width"]


def test_it_prints_a_table(capsys: pytest.CaptureFixture[str], images: Path, pruned: Path) -> None:
    files = [str(images / "val" / "red" / f"{index}.jpg") for index in range(2)]
    code, out, err = run(capsys, "predict", str(pruned), *files, "--top-k", "2")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["image", "class", "probability"]
    assert len(lines) == 2 + 2 * 2
    assert [line.startswith(file) for line, file in zip(lines[2::2], files, strict=True)] == [True, True]
    assert lines[3].startswith(" ")
    assert lines[3].endswith("%")


def test_what_passes_make_of_the_folder_tells_it_too(
    capsys: pytest.CaptureFixture[str], images: Path, pruned: Path, tmp_path: Path
) -> None:
    code, _, err = run(capsys, "run", str(pruned), "--passes", "simplify", "--out", str(tmp_path / "again"))
    assert code == 0, err
    assert (tmp_path / "again" / CONFIG).read_text() == (pruned / CONFIG).read_text()
    code, _, err = run(capsys, "predict", str(tmp_path / "again"), str(images / "val" / "red"))
    assert code == 0, err


def test_a_folder_that_does_not_tell(
    capsys: pytest.CaptureFixture[str], images: Path, pruned: Path, tmp_path: Path
) -> None:
    import shutil

    old = tmp_path / "old"
    shutil.copytree(pruned, old)
    (old / CONFIG).unlink()
    image = str(images / "val" / "red" / "0.jpg")
    code, _, err = run(capsys, "predict", str(old), image)
    assert code == 1
    assert one_line(err)
    assert "give --image-size, --mean and --std" in err
    usual = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225", "--image-size", "72")
    code, out, err = run(capsys, "predict", str(old), image, *usual, "--json")
    assert (code, err) == (0, "")
    top: list[Any] = json.loads(out)["images"][0]["top"]
    known = json.loads(run(capsys, "predict", str(pruned), image, "--json")[1])["images"][0]["top"]
    assert [guess["probability"] for guess in top] == [guess["probability"] for guess in known]
    assert [guess["label"] for guess in top] == [str(guess["index"]) for guess in known]


def one_line(err: str) -> bool:
    return err.startswith("fxprune: error: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing", __file__], 1, "there is no folder nothing"),
        (["FOLDER", "nothing.jpg"], 1, "there is no file nothing.jpg"),
        (["FOLDER", __file__], 1, "cannot read image"),
        (["FOLDER"], 2, "Missing argument 'IMAGES...'"),
        (["FOLDER", __file__, "--mean", "a"], 2, "write for example 0.5,0.5,0.5"),
        (["FOLDER", __file__, "--mean", "1,2"], 1, "one number for each of 3 channels"),
        (["FOLDER", __file__, "--top-k", "0"], 2, "--top-k"),
        (["FOLDER", __file__, "--device", "nowhere"], 1, "cannot predict on device nowhere"),
    ],
)
def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], pruned: Path, arguments: list[str], code: int, message: str
) -> None:
    given = [str(pruned) if one == "FOLDER" else one for one in arguments]
    found, out, err = run(capsys, "predict", *given)
    assert (found, out, message in err, one_line(err)) == (code, "", True, True), err
