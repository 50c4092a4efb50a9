"""``fxprune inspect``: what it says of channels, and of one layer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_helpers import NET, run

INPUT = ("--input", "2,3,32,32")


def inspect(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    code, out, err = run(capsys, "inspect", NET, *INPUT, *options)
    assert (code, err) == (0, "")
    return out


def test_one_line_of_channels_comes_last(capsys: pytest.CaptureFixture[str]) -> None:
    last = inspect(capsys).splitlines()[-1]
    assert last.startswith("channels: ")
    assert "output channels can go" in last
    assert last.endswith("; --channels lists them")
    kept = inspect(capsys, "--keep", "layer1").splitlines()[-1]
    assert kept != last


def test_groups_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    out = inspect(capsys, "--channels", "--keep", "layer2.1.conv1")
    assert out.startswith(inspect(capsys, "--keep", "layer2.1.conv1").rpartition("channels: ")[0].rstrip())
    rows = {line.split()[0]: line.split()[1:] for line in out.partition("channels of")[2].splitlines()[2:] if line}
    assert rows["layer2.0.conv1"][:2] == ["32", "32"]
    assert rows["layer2.1.conv1"][:2] == ["32", "0"]
    assert "layer2.1.conv1: kept by the user" in out
    assert "--channels" not in out


def test_all_that_is_known_of_a_layer(capsys: pytest.CaptureFixture[str]) -> None:
    out = inspect(capsys, "--why", "layer1.0.conv2")
    name, conv, makes, *_ = out.splitlines()
    assert name == "layer1.0.conv2"
    assert conv.startswith("  conv: can be removed; ")
    assert makes.startswith("  makes: 64 of the 64 channels of the group conv1 can go, with ")
    assert "\n    go with those of conv1, layer1.1.conv2" in out
    assert "\n  reads: 16 of the 16 channels of the group layer1.0.conv1 can go" in out


def test_all_that_is_known_of_a_module(capsys: pytest.CaptureFixture[str]) -> None:
    out = inspect(capsys, "--why", "layer2.0")
    heads = [line for line in out.splitlines() if not line.startswith(" ")]
    assert {"layer2.0.conv1", "layer2.0.bn1", "layer2.0.conv2"} < set(heads)
    assert all(head.startswith("layer2.0") for head in heads)
    assert "conv: stays: it changes the channels (16 -> 32)" in out


def test_channels_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(inspect(capsys, "--json"))
    groups = {one["name"]: one for one in found["channels"]}
    assert groups["layer1.0.conv1"]["read_by"] == ["layer1.0.conv2"]
    assert groups["conv1"]["tied_at"]
    assert found["removable_channel_outputs"] < found["channel_outputs"]
    assert found["removable_macs_in_channels"] <= found["macs"]
    assert found["closed_to_channels"] == []


def test_the_page_tells_of_channels(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "net.html"
    inspect(capsys, "--html", str(file))
    assert "makes: 64 of the 64 channels of the group conv1 can go" in file.read_text()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (
            ("--why", "layr1.0.conv1"),
            1,
            "no conv, no branch, no linear layer and no channels are called 'layr1.0.conv1'; did you mean",
        ),
        (("--why", "@"), 1, "are called '@'; fxprune inspect lists them"),
        (("--why", "conv1", "--json"), 2, "exclude one another"),
        (("--channels", "--json"), 2, "exclude one another"),
        (("--channels", "--html", "x.html"), 2, "exclude one another"),
    ],
)
def test_errors(capsys: pytest.CaptureFixture[str], options: tuple[str, ...], code: int, message: str) -> None:
    found, out, err = run(capsys, "inspect", NET, *INPUT, *options)
    assert (found, out) == (code, "")
    assert message in err


def test_linear_layers_are_listed_with_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    out = inspect(capsys)
    assert "linear layer" in out
    found = json.loads(inspect(capsys, "--json"))["linears"]
    assert [one["path"] for one in found] == ["linear"]
    assert found[0]["chain"] == []
    assert "an output of the network" in found[0]["reason"]
    assert f"partition: no: {found[0]['reason']}" in inspect(capsys, "--why", "linear")
