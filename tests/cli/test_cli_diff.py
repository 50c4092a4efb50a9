"""``fxprune diff``: what it prints, its exit codes, and what it does not run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cli_helpers
import pytest
from cli_helpers import NET
from emit_helpers import rewrite

from fxprune.cli import main
from fxprune.diffing.graph_diff import GraphDiff


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    return cli_helpers.run(capsys, "diff", *arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of ``fxprune run``: ResNet-20 with its norms folded."""
    out = tmp_path_factory.mktemp("run") / "folded"
    passes = "fold-batch-norm,simplify"
    main(["run", NET, "--passes", passes, "--input", "2,3,16,16", "--out", str(out), "--no-verify"])
    return out


def test_what_a_run_did(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, out, err = run(capsys, str(folder))
    assert (code, err) == (1, "")
    assert out == (folder / "diff.txt").read_text()
    assert "fold-batch-norm: is folded into layer1_0_conv1" in out
    code, out, _ = run(capsys, str(folder), "--stat")
    assert code == 1
    assert " layer1.0 | " in out
    code, removed, err = run(capsys, str(folder), "--kinds", "removed")
    assert (code, removed.count("\n"), err) == (1, 2, "")  # the totals only
    told = "fxprune: warning: --only is deprecated: write --kinds\n"
    assert run(capsys, str(folder), "--only", "removed") == (1, removed, told)
    code, out, _ = run(capsys, str(folder), "--why", "layer1.0.conv1")
    assert code == 1
    assert out.splitlines()[-1] == "  fused: layer1_0_conv1 and layer1_0_bn1 are now layer1_0_conv1, a Conv2d"
    _, block, _ = run(capsys, str(folder), "--why", "layer1.0")
    assert out in block  # what lies in a module belongs to it
    assert run(capsys, str(folder), "--why", "layer1.0.branch_scale")[1] == block  # so reports name a branch


def test_two_folders_and_a_model_by_name(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path) -> None:
    assert run(capsys, str(folder), str(folder))[0] == 0
    code, out, err = run(capsys, NET, str(folder), "--stat")
    assert (code, err) == (1, "")
    assert "a guess" not in out  # the same network: it has the same origins
    assert "19 fused, 0 removed, 0 added" in out
    code, out, _ = run(capsys, "torchvision:squeezenet1_1", str(folder), "--stat")
    assert code == 1
    assert "a guess" in out


def test_other_formats(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    _, out, _ = run(capsys, str(folder), "--format", "json")
    assert GraphDiff.from_json(json.loads(out)).count("fused") == 19
    assert run(capsys, str(folder), "--format", "dot")[1].startswith("digraph diff {")
    assert run(capsys, str(folder), "--format", "graphml")[1].startswith("<graphml")


def test_no_code_of_a_folder_is_run(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)
    (copied / "model.py").write_text("raise SystemExit('this code ran')\n")
    rewrite(copied)
    assert run(capsys, str(copied), str(folder))[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["FOLDER", "README.md"], "README.md is no model that fxprune reads: it is a file"),
        (["EMPTY", "FOLDER"], "it is a folder without graph.json"),
        (["EMPTY"], "holds no diff.json; give a second model"),
        (["FOLDER", "missing.pt2"], "there is no file missing.pt2"),
        (["FOLDER", "TEXT.pt2"], "is no .pt2 file, or cut short"),
        (["FOLDER", "nothing"], "no model 'nothing': give"),
        (["FOLDER", "torchvision:resnet19"], "did you mean"),
        (["FOLDER", "NEWER"], "schema 99, this fxprune reads 3; update fxprune"),
        (["FOLDER", "SHORT"], "is not a whole emitted folder"),
        (["FOLDER", "--why", "layer9.conv1"], "has a node or a module"),
        (["FOLDER", "--why", "conv2"], "a module 'conv2'; there is layer1.0.conv2, "),
        (["FOLDER", "--why", "head", "--stat"], "exclude one another"),
        (["FOLDER", "--kinds", "eaten"], "'eaten' is not one of"),
        ([], "Missing argument 'BEFORE'"),
    ],
)
def test_trouble_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"FOLDER": folder, **{name: tmp_path / name for name in ("EMPTY", "NEWER", "SHORT", "TEXT.pt2")}}
    places["EMPTY"].mkdir()
    Path("README.md").write_text("# a text\n")
    places["TEXT.pt2"].write_text("a text")
    for name in ("NEWER", "SHORT"):
        shutil.copytree(folder, places[name])
    graph = json.loads((folder / "graph.json").read_text())
    (places["NEWER"] / "graph.json").write_text(json.dumps({**graph, "schema": 99}))
    (places["SHORT"] / "weights.safetensors").write_bytes((folder / "weights.safetensors").read_bytes()[:100])
    code, out, err = run(capsys, *(str(places.get(argument, argument)) for argument in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("fxprune: error: ")
    assert err.count("\n") == 1
    assert message in err
