"""What the options of fxprune prune say together, before anything is loaded."""

from __future__ import annotations

import pytest
from cli_helpers import run

from fxprune.cli.pruning import spread

PRUNE = ("prune", "torchvision:resnet18", "--data", "digits", "--out", "unused")


def test_a_frontier_takes_all_numbers_behind_it() -> None:
    given = ["m", "--frontier", "0.8", "0.6", "--out", "4", "--frontier", "0.2"]
    assert spread("--frontier", given) == [
        *("m", "--frontier", "0.8", "--frontier", "0.6", "--out", "4", "--frontier", "0.2")
    ]
    assert spread("--frontier", ["m", "0.5"]) == ["m", "0.5"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--backend", "eager"), "--backend needs --target-ms, --target-latency or --frontier"),
        (("--frontier", "0.8", "--target-macs", "0.5"), "--frontier says what is asked for"),
        (("--frontier", "1.5"), "1.5 is not in the range"),
        (("--target-ms", "1", "--target-latency", "0.5"), "both say how long it may take"),
        (("--target-ms", "0"), "not in the range"),
        (("--target-latency", "0.5", "--strength", "0.1"), "--target-latency needs no --strength"),
        (("--target-latency", "0.5", "--backend", "tflite"), "'tflite' is not one of"),
        (("--method", "gates"), "'gates' is not 'ucp'"),
        (("--alpha", "0.9"), "--alpha needs --method ucp"),
        (("--method", "ucp", "--alpha", "0"), "0.0 is not in the range"),
        (("--method", "ucp", "--alpha", "nan"), "alpha is a share of the mean gate"),
        (
            ("--method", "ucp", "--alpha", "0.9", "--target-ms", "3"),
            "--alpha says how much goes: leave --target-ms out",
        ),
        (("--method", "ucp", "--what", "all"), "leave --what out, or give --what channels"),
        (("--method", "ucp", "--strength", "0.1"), "--strength makes no sense with --method ucp"),
        (("--method", "ucp", "--no-train"), "--no-train makes no sense with --method ucp"),
        (("--method", "ucp", "--plan", "plan.json"), "--plan makes no sense with --method ucp"),
        (("--method", "ucp", "--frontier", "0.8"), "--frontier makes no sense with --method ucp"),
        (("--method", "ucp", "--shrink-share", "0.5"), "--shrink-share makes no sense with --method ucp"),
        (("--method", "ucp", "--distill-features", "1"), "--distill-features makes no sense with --method ucp"),
        (("--method", "ucp", "--criterion", "l1"), "--criterion needs --no-train"),
    ],
)
def test_what_makes_no_sense_together_is_told(
    options: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, *PRUNE, *options)
    assert code != 0
    assert told in err
    assert len(err.splitlines()) == 1
