"""What touches no model loads no torch: help, versions and errors of usage come at once."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest

from fxprune.choosing.channel_amounts import Scope
from fxprune.choosing.channel_scores import Normalize
from fxprune.choosing.criteria.base import Aggregate
from fxprune.choosing.sites import Groups, Statistics
from fxprune.cli import plans
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


COMMANDS = ("demo", "inspect", "prune", "run", "plan", "apply", "diff", "report", "predict", "passes")


@pytest.mark.parametrize("command", ["", *COMMANDS])
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
        (("plan", "m", "--target-macs", "1.5", "-o", "p.json"), "1.5 is not in the range 0<x<=1"),
        (("plan", "m", "--scope", "all", "-o", "p.json"), "'all' is not one of 'uniform', 'global'"),
        (("plan", "m", "--target-macs", "0.5"), "Missing option '-o' / '--out'"),
        (("report", "no-such-folder"), "no-such-folder is not a folder"),
    ],
)
def test_errors_of_usage_load_no_torch(arguments: tuple[str, ...], message: str) -> None:
    code, out, err = shell(*arguments)
    assert code in (1, 2)
    assert message in err
    assert err.count("\n") == 1
    assert out.splitlines()[-1] == "loaded: []"


def test_words_of_plans_are_those_of_the_pass() -> None:
    assert get_args(Scope) == plans.SCOPES
    assert get_args(Aggregate) == plans.AGGREGATES
    assert get_args(Normalize) == plans.NORMALIZATIONS
    assert get_args(Groups) == plans.GROUPS
    assert get_args(Statistics) == plans.STATISTICS


def test_norms_are_those_of_the_chains() -> None:
    assert get_args(Norms) == NORMS


def test_the_version_loads_no_torch() -> None:
    code, out, _ = shell("--version")
    assert code == 0
    assert out.splitlines()[-1] == "loaded: []"
