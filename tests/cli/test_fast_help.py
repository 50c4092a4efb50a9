"""What touches no model loads no torch: help, versions and errors of usage come at once."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest

from fxprune.cli.options import NORMS
from fxprune.passes.chains import Norms

HEAVY = ("torch", "torchvision", "rich", "networkx", "sklearn", "timm", "matplotlib", "accelerate")
CODE = f"""
import atexit, sys
from fxprune.cli import main
atexit.register(lambda: print("loaded:", [name for name in {HEAVY} if name in sys.modules]))
main(sys.argv[1:])
"""


def shell(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", ["", "demo", "inspect", "prune", "run", "diff", "report", "predict", "passes"])
def test_help_loads_no_torch(command: str) -> None:
    code, out, err = shell(*command.split(), "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: fxprune {command}".rstrip())
    assert out.splitlines()[-1] == "loaded: []"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prun",), "No such command 'prun'"),
        (("inspect", "--colour"), "No such option"),
        (
            ("run", "torchvision:resnet18", "--passes", "simplify", "--format", "pt"),
            "'pt' is not one of 'pt2', 'onnx'",
        ),
        (("prune", "m", "--data", "digits", "--out", "x", "--layers", "none"), "'all', 'convs', 'branches'"),
        (("diff", "a", "b", "--stat", "--html", "x"), "exclude one another"),
        (("inspect", "m", "--json", "--html", "x"), "exclude one another"),
        (("report", "no-such-folder"), "no-such-folder is not a folder"),
    ],
)
def test_errors_of_usage_load_no_torch(arguments: tuple[str, ...], message: str) -> None:
    code, out, err = shell(*arguments)
    assert code in (1, 2)
    assert message in err
    assert err.count("\n") == 1
    assert out.splitlines()[-1] == "loaded: []"


def test_norms_are_those_of_the_chains() -> None:
    assert get_args(Norms) == NORMS


def test_the_version_loads_no_torch() -> None:
    code, out, _ = shell("--version")
    assert code == 0
    assert out.splitlines()[-1] == "loaded: []"
