"""--criterion blend in the shell: searched, gone on from its folder, read from a file, told of on a page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_helpers import NET, run

from fxprune.choosing.criterion_blend import Blend
from fxprune.pruning.blend import by_name as blending
from fxprune.pruning.blend.search import BlendSettings, evolved

pytest.importorskip("sklearn")
CODE = (
    "import torch\n"
    "from torch import nn\n"
    "def network():\n"
    "    torch.manual_seed(0)\n"
    "    layers = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()\n"
    "    return nn.Sequential(*layers, nn.Linear(8, 10))\n"
)
DIGITS = ("--data", "digits", "--images", "70")


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "net.py").write_text(CODE)
    return f"{tmp_path / 'net.py'}:network"


def test_a_search_goes_on_from_its_folder_and_leaves_a_criterion(
    network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, plan = tmp_path / "search", tmp_path / "plan.json"
    command = ("plan", network, "--ratio", "0.5", *DIGITS, "-o", str(plan))
    search = ("--criterion", "blend", "--search", str(folder), "--generations", "1")
    code, out, err = run(capsys, *command, *search)
    assert code == 0, err
    assert "4 channels of 1 layer, by blend" in out
    assert err == "fxprune: warning: a blend is chosen by top-1 on 35 held-out images, in steps of 2.9%: give more\n"
    assert {one.name for one in folder.iterdir()} == {"search.json", "blend.json", "blend.html"}
    assert "1 generations" in (folder / "blend.html").read_text()
    first, state = plan.read_text(), (folder / "search.json").read_text()
    assert run(capsys, *command, *search)[0] == 0
    assert (plan.read_text(), (folder / "search.json").read_text()) == (first, state)
    assert len(json.loads(state)["generations"]) == 1
    code, _, err = run(capsys, *command, *search, "--seed", "1")
    assert (code, err.count("is of another search: images is ")) == (1, 1)
    code, out, _ = run(capsys, *command, "--criterion", str(folder / "blend.json"), "--json")
    assert code == 0
    assert json.loads(out)["criterion"] == "blend"
    assert Blend.load(folder / "blend.json").top1 is not None


def test_the_pass_takes_blend(
    network: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = BlendSettings(population=3, generations=1)
    monkeypatch.setattr(blending, "evolved", lambda judge, settings, **more: evolved(judge, few, **more))
    chain = "remove-channels{ratio=0.5,criterion=blend}"
    code, out, err = run(capsys, "run", network, "--passes", chain, *DIGITS, "--no-verify")
    assert code == 0, err
    assert "4 channels were cut that were not zero" in out
    code, _, err = run(capsys, "run", NET, "--passes", chain, "--input", "2,3,16,16")
    assert (code, err.count("criterion blend needs labels: give data= as pairs")) == (1, 1)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--criterion", "l1", "--search", "x"), 2, "are of --criterion blend, and --criterion l1 is not searched"),
        (("--generations", "3"), 2, "are of --criterion blend, and --criterion l1 is not searched"),
        (("--criterion", "x.json", "--generations", "3"), 2, "are of --criterion blend, and x.json is found already"),
        (("--criterion", "x.json"), 1, "cannot read x.json: No such file"),
        (("--criterion", "blend"), 1, "criterion blend needs labels: give data="),
        (("--criterion", "blend", "--generations", "0"), 2, "--generations"),
    ],
)
def test_bad_input_is_one_line(
    options: tuple[str, ...], code: int, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    found, _, err = run(capsys, "plan", NET, "--input", "2,3,16,16", "--ratio", "0.5", *options, "-o", str(plan))
    assert (found, err.count("\n")) == (code, 1)
    assert message in err
    assert not plan.exists()
