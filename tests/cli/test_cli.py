"""The shell, run in this process: output, exit codes, one-line errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from cli_helpers import NET, run
from PIL import Image
from safetensors.torch import load_file

from fxprune.cli import main


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, bright and dark, as small PNG files."""
    root = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 12), ("val", 4)):
        for label, name in enumerate(("dark", "bright")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                noise = torch.randint(0, 100, (16, 16, 3), generator=generator, dtype=torch.uint8) + 150 * label
                Image.fromarray(noise.numpy()).save(folder / f"{index}.png")
    return root


def prune_command(images: Path, out: Path, *more: str) -> list[str]:
    data = ["--data", f"imagefolder:{images}", "--image-size", "16", "--workers", "0"]
    return ["prune", NET, *data, "--out", str(out), "--epochs", "2", "--batch-size", "8", "--lr", "0.01", *more]


def test_passes(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "passes")
    assert code == 0
    assert "insert-resconv" in out
    assert "shortcut=0.0" in out
    example = out.rpartition("--passes ")[2].strip().strip("'")
    code, out, err = run(capsys, "run", NET, "--passes", example)
    assert (code, err) == (0, ""), err
    assert "remove-layers" in out


def test_inspect(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "inspect", NET, "--input", "2,3,32,32")
    assert code == 0
    assert "layer2.0.conv1  no: it changes the channels (16 -> 32)" in out
    assert "16 of 19 convs are eligible and hold 93.1% of 40,551,040 MACs" in out
    code, out, _ = run(capsys, "inspect", NET, "--input", "2,3,32,32", "--json")
    found = json.loads(out)
    assert found["macs"] == 40_551_040
    assert sum(conv["eligible"] for conv in found["convs"]) == 16
    kept = ("--keep", "layer2", "--keep", "layer3.*.conv1", "--only", "layer[23]")
    code, out, err = run(capsys, "inspect", NET, "--input", "2,3,32,32", *kept)
    assert (code, err) == (0, "")
    assert "layer1.0.conv1  no: kept by the user" in out
    assert "layer3.1.conv2  yes" in out
    assert "3 of 19 convs are eligible" in out
    assert "0 of 9 sums end a removable branch" in out


def test_patterns_are_given_to_every_pass_that_takes_some(capsys: pytest.CaptureFixture[str]) -> None:
    chain = "insert-resconv{keep=layer1},insert-branch-scale,remove-layers{threshold=1},simplify"
    arguments = ("run", NET, "--input", "2,3,16,16", "--no-verify", "--passes", chain)
    code, out, err = run(capsys, *arguments, "--keep", "layer2", "--only", "*.conv?")
    assert (code, err) == (0, "")
    sites = {line.split()[0]: line.split()[1] for line in out.splitlines() if line.startswith(("insert", "remove"))}
    assert sites == {"insert-resconv": "5", "insert-branch-scale": "5", "remove-layers": "6"}


def test_inspect_writes_a_page(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "net.html"
    code, out, _ = run(capsys, "inspect", NET, "--input", "2,3,32,32", "--html", str(file))
    assert (code, out) == (0, f"written to {file}\n")
    assert "it changes the channels (16 -\\u003e 32)" in file.read_text()
    code, _, err = run(capsys, "inspect", NET, "--input", "2,3,32,32", "--html", str(tmp_path / "no" / "net.html"))
    assert code == 1
    assert one_line(err)
    assert "cannot write" in err
    code, _, err = run(capsys, "inspect", NET, "--json", "--html", str(file))
    assert code == 2


def test_diff_writes_a_page(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    passes = ["--passes", "fold-batch-norm,simplify", "--input", "2,3,16,16", "--out", str(out)]
    code, _, err = run(capsys, "run", NET, *passes)
    assert code == 0, err
    written = (out / "diff.html").read_text()
    assert f"<title>{NET}</title>" in written
    assert '"name":"fold-batch-norm"' in written
    code, text, err = run(capsys, "diff", str(out), "--html", str(tmp_path / "diff.html"))
    assert (code, text) == (1, f"written to {tmp_path / 'diff.html'}\n"), err
    assert '"fused"' in (tmp_path / "diff.html").read_text()
    code, _, err = run(capsys, "diff", str(out), "--stat", "--html", str(tmp_path / "diff.html"))
    assert code == 2
    assert "exclude one another" in err


def test_run_writes_a_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out_folder = tmp_path / "out"
    arguments = ["--passes", "fold-batch-norm,simplify", "--input", "2,3,16,16", "--out", str(out_folder)]
    code, out, _ = run(capsys, "run", NET, *arguments)
    assert code == 0
    assert "verified in float64" in out
    assert "bn1.weight" not in load_file(out_folder / "weights.safetensors")
    code, _, err = run(capsys, "run", NET, *arguments)
    assert code == 1
    assert "is not empty" in err
    code, out, _ = run(capsys, "inspect", str(out_folder))
    assert code == 0
    assert "16 of 19 convs" in out
    assert "counted on 2x3x16x16" in out


def test_prune_from_the_shell_and_its_resuming(
    capsys: pytest.CaptureFixture[str], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    targets = ("--target-memory", "0.7", "--target-params", "0.8", "--target-macs", "0.6")
    code, text, err = run(capsys, *prune_command(images, out, *targets))
    assert code == 0, err
    report = json.loads((out / "report.json").read_text())
    assert report["macs_after"] <= 0.6 * report["macs_before"]
    assert report["params_after"] <= 0.8 * report["params_before"]
    assert report["activation_bytes_after"] <= 0.7 * report["activation_bytes_before"]
    assert "peak activation bytes" in text
    assert report["accuracy_after"] == report["accuracy_before_removal"]
    assert report["max_relative_difference"] < 1e-9
    left = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["layers_left"]
    shares = [f"{1 - report[f'{cost}_after'] / report[f'{cost}_before']:.1%}" for cost in ("macs", "params")]
    removed = {kind: len(paths) for kind, paths in report["removed"].items()}
    assert sum(removed.values()) == 23 - left
    assert f"are gone, of 16 convs and 7 branches, with {shares[0]} of the MACs and {shares[1]} of" in text
    assert f"{removed['branch']} branch" in text
    assert all(not path.endswith("branch_scale") for path in report["removed"]["branch"])
    assert "removed" in (out / "diff.txt").read_text()

    code, text, err = run(capsys, *prune_command(images, out, *targets))
    assert (code, err) == (0, "")
    assert text.startswith(f"{out} holds this run, finished: ")
    assert len(text.splitlines()) == 1
    code, _, err = run(capsys, *prune_command(images, out, *targets), "--epochs", "7")
    assert code == 1
    assert "a finished run, with other options" in err

    # killed in the second epoch: the same command goes on and ends with the same network
    from fxprune.training.loop import Trainer

    interrupted = tmp_path / "interrupted"
    real = Trainer.run_epoch
    calls: list[int] = []

    def killed(trainer: Trainer, *args: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(trainer, *args)

    monkeypatch.setattr(Trainer, "run_epoch", killed)
    command = prune_command(images, interrupted, *targets)
    code, _, err = run(capsys, *command)
    assert code == 130
    assert "goes on from its last checkpoint, if it has written one" in err
    monkeypatch.setattr(Trainer, "run_epoch", real)
    code, _, err = run(capsys, *command[:-1], "0.7")
    assert code == 1
    assert "target_macs 0.6, not 0.7" in err
    code, _, err = run(capsys, *command, "--keep", "layer1")
    assert code == 1
    assert "keep None, not ['layer1']" in err
    code, text, err = run(capsys, *command)
    assert code == 0, err
    assert "resuming after epoch 1" in text
    first, second = load_file(out / "weights.safetensors"), load_file(interrupted / "weights.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_run_leaves_a_plan_that_another_run_trains_to_zero(
    capsys: pytest.CaptureFixture[str], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = ("--what", "branches,channels", "--target-macs", "0.6")
    code, _, err = run(capsys, *prune_command(images, tmp_path / "first", *what))
    assert code == 0, err
    plan = tmp_path / "first" / "plan.json"
    macs = json.loads((tmp_path / "first" / "report.json").read_text())["macs_after"]
    code, text, err = run(capsys, "apply", str(plan), NET, "--input", "1,3,16,16", "--json")
    assert code == 0, err
    assert json.loads(text)["steps"][-1]["macs"] == macs

    # killed in the second epoch: the same command goes on, with the same plan
    from fxprune.training.loop import Trainer

    real = Trainer.run_epoch

    def killed(trainer: Trainer, *args: Any) -> None:
        if trainer.step:
            raise KeyboardInterrupt
        real(trainer, *args)

    out = tmp_path / "second"
    command = prune_command(images, out, "--plan", str(plan))
    monkeypatch.setattr(Trainer, "run_epoch", killed)
    assert run(capsys, *command)[0] == 130
    monkeypatch.setattr(Trainer, "run_epoch", real)
    content = json.loads(plan.read_text())
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**content, "sites": content["sites"][1:]}))
    code, _, err = run(capsys, *command[:-1], str(other))
    assert (code, one_line(err)) == (1, True)
    assert "holds an unfinished run with plan sha256 " in err
    code, text, err = run(capsys, *command)
    assert code == 0, err
    assert "resuming after epoch 1" in text
    report = json.loads((out / "report.json").read_text())
    assert report["macs_after"] == macs
    assert report["settings"]["plan"] == json.loads((out / "run.json").read_text())["plan"]
    closed = [json.loads(file.read_text())["sites"] for file in (plan, out / "plan.json")]
    assert closed[1] == closed[0]
    assert run(capsys, *command)[1].startswith(f"{out} holds this run, finished: ")


def test_a_plan_in_the_shell_is_refused_in_a_line(
    capsys: pytest.CaptureFixture[str], images: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    run(capsys, "plan", NET, "--input", "1,3,16,16", "--target-macs", "0.6", "-o", str(plan))
    other = tmp_path / "other.json"
    other.write_text(plan.read_text().replace('"conv1 Conv2d', '"stem Conv2d'))
    for more, code, message in (
        (("--plan", "none.json"), 1, "cannot read none.json"),
        (("--plan", str(plan), "--target-macs", "0.5"), 2, "--target-macs needs no --plan: that says what goes"),
        (("--plan", str(plan), "--keep", "layer1"), 2, "--keep needs no --plan"),
        (
            ("--plan", str(other)),
            1,
            "plan is for another network: its layer 1 is stem Conv2d 16x3x3x3, and here it is",
        ),
    ):
        got, _, err = run(capsys, *prune_command(images, tmp_path / "out", *more))
        assert got == code
        assert message in err
        assert not (tmp_path / "out").exists()


def one_line(err: str) -> bool:
    return err.startswith("fxprune: error: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["inspect", "torchvision:resnet19"], 1, "did you mean"),
        (["inspect", NET, "--input", "big"], 2, "no shape"),
        (["inspect", NET, "--input", "2,4,32,32"], 1, "do not fit the model: at node conv1"),
        (
            ["inspect", NET, "--keep", "layr1.*"],
            1,
            "which matches no module of the model; the nearest paths are 'layer1",
        ),
        (["inspect", NET, "--only", "layer1", "--keep", "layer1"], 1, "nothing that may go is left by keep and only"),
        (["run", NET, "--passes", "simplify", "--keep", "layer1"], 2, "--passes has none"),
        (["prune", NET, "--data", "digits", "--out", "x", "--keep", "x"], 1, "does not take images"),
        (["inspect", NET, "--weights", "nothing.pt"], 1, "there is no file nothing.pt"),
        (["run", NET, "--passes", "simplfy"], 1, "did you mean 'simplify'"),
        (["run", NET, "--passes", "remove-layers{target_macs=0.5}"], 1, "put scales in first, with insert-resconv"),
        (["run", NET, "--passes", "simplify", "--out", __file__], 1, "is a file; give another folder"),
        (
            ["run", NET, "--passes", "simplify", "--out", f"{__file__}/x"],
            1,
            f"cannot write {__file__}/x: Not a",
        ),
        (["run", NET], 2, "Missing option '--passes'"),
        (["prune", "torchvison:resnet18", "--data", "digits", "--out", "x"], 1, "did you mean 'torchvision'"),
        (["prune", "torchvision:resnet18", "--data", "digits", "--out", "x"], 1, "does not take images of 1x8x8"),
        (["prun", NET], 2, "No such command"),
        (["prune", NET, "--data", "cifar", "--out", "x"], 1, "unknown data 'cifar'"),
        (["prune", NET, "--data", "cifar10:/nowhere", "--out", "x"], 1, "there is no folder"),
        (["prune", NET, "--data", "digits", "--out", "x", "--target-macs", "2"], 2, "--target-macs"),
        (
            ["prune", NET, "--data", "digits", "--out", "x", "--strength", "1", "--target-memory", "0.5"],
            2,
            "--target-memory needs no --strength",
        ),
        (
            ["prune", NET, "--data", "digits", "--out", "x", "--strength", "1", "--target-params", "0.5"],
            2,
            "--target-params needs no --strength",
        ),
    ],
)
def test_errors_are_one_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    found, _, err = run(capsys, *arguments)
    assert (found, message in err, one_line(err)) == (code, True, True), err
    assert not list(tmp_path.iterdir())


def test_an_impossible_target_says_what_is_possible(
    capsys: pytest.CaptureFixture[str], images: Path, tmp_path: Path
) -> None:
    code, _, err = run(capsys, *prune_command(images, tmp_path / "out", "--target-macs", "0.01"))
    assert code == 1
    assert one_line(err)
    assert "cannot be met: without all 23 removable layers" in err
    targets = ("--target-macs", "0.6", "--target-memory", "0.3")
    code, _, err = run(capsys, *prune_command(images, tmp_path / "out", *targets))
    assert code == 1
    assert one_line(err)
    assert "target_memory=0.3 cannot be met: without all 23 removable layers" in err
    code, _, err = run(capsys, *prune_command(images, tmp_path / "out", "--keep", "layr1"))
    assert code == 1
    assert one_line(err)
    assert "the nearest paths are 'layer1'" in err
    kept = ("--target-macs", "0.9", "--epochs", "1", "--only", "layer3", "--keep", "layer3.1")
    code, _, err = run(capsys, *prune_command(images, tmp_path / "out", *kept))
    assert code == 0, err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["settings"]["keep"], report["settings"]["only"]) == (["layer3.1"], ["layer3"])
    assert report["layers_removable"] == 4  # two convs and a branch in one block, a conv in the one that reshapes
    assert report["layers_removed"]
    assert all(path.startswith(("layer3.0", "layer3.2")) for path in report["layers_removed"])


def test_a_corrupt_image_is_named(capsys: pytest.CaptureFixture[str], images: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "images"
    shutil.copytree(images, broken)
    victim = broken / "val" / "dark" / "0.png"
    victim.write_bytes(victim.read_bytes()[:40])
    for workers in ("0", "1"):
        command = prune_command(broken, tmp_path / f"out{workers}")
        command[command.index("--workers") + 1] = workers
        code, _, err = run(capsys, *command)
        assert code == 1
        assert one_line(err), err
        assert str(victim) in err


def test_an_output_folder_with_other_files_is_left_alone(
    capsys: pytest.CaptureFixture[str], images: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    code, _, err = run(capsys, *prune_command(images, tmp_path))
    assert code == 1
    assert "is not empty" in err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_labels_that_the_model_lacks(capsys: pytest.CaptureFixture[str], images: Path, tmp_path: Path) -> None:
    arguments = prune_command(images, tmp_path / "out")
    arguments[1] = "torchvision:resnet18"
    code, _, err = run(capsys, *arguments, "--classes", "1")
    assert code == 1
    assert "label 1, but the model has 1 outputs" in err


@pytest.mark.parametrize("option", ["--weights", "--teacher-weights"])
def test_a_teacher_whose_classifier_would_be_random(
    capsys: pytest.CaptureFixture[str], images: Path, tmp_path: Path, option: str
) -> None:
    weights = tmp_path / "imagenet.pth"
    torch.save(torchvision.models.shufflenet_v2_x0_5(weights=None).state_dict(), weights)
    arguments = prune_command(images, tmp_path / "out", "--classes", "2", "--distill", "0.5", option, str(weights))
    arguments[1] = "torchvision:shufflenet_v2_x0_5"
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert one_line(err)
    assert "the teacher's fc.weight, fc.bias would be random, since" in err
    assert not (tmp_path / "out").exists()


def test_the_program_alone_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys)
    assert (code, err) == (0, "")
    assert out.startswith("Usage: fxprune")
    assert "predict" in out


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(Exception, match="did you mean"):
        main(["inspect", "torchvision:resnet19", "--debug"])


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    import fxprune

    assert run(capsys, "--version")[1].split()[-1] == fxprune.__version__


def test_layers_of_an_untrained_network_are_ranked_by_images_if_there_are_some(
    capsys: pytest.CaptureFixture[str], images: Path
) -> None:
    chain = "insert-branch-scale,remove-layers{target_macs=0.9}"
    code, out, err = run(
        capsys, "run", NET, "--passes", chain, "--data", f"imagefolder:{images}", "--image-size", "16"
    )
    assert code == 0, err
    assert "no scale was trained" not in out
    code, out, _ = run(capsys, "run", NET, "--passes", chain, "--input", "2,3,16,16")
    assert code == 0
    assert "ranked by the norm of their weights per MAC" in out
    code, _, err = run(
        capsys, "run", NET, "--passes", chain, "--input", "2,3,16,16", "--data", f"imagefolder:{images}"
    )
    assert code == 2
    assert "exclude one another" in err


@pytest.mark.parametrize(("norms", "has_norms"), [("keep", True), ("fold", False)])
def test_run_makes_a_plain_network(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, norms: str, has_norms: bool
) -> None:
    out_folder = tmp_path / "out"
    chain = ["--passes", "insert-resconv,insert-branch-scale,remove-layers{target_macs=0.7}", "--norms", norms]
    code, _, err = run(capsys, "run", NET, *chain, "--input", "2,3,16,16", "--out", str(out_folder))
    assert code == 0, err
    assert ("bn1.weight" in load_file(out_folder / "weights.safetensors")) == has_norms
