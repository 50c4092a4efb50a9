"""The shell, run in this process."""

from __future__ import annotations

import pytest

from fxprune.cli import main

NET = "fxprune.training.cifar_resnet:CifarResNet"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Return the exit code and what was written to stdout and stderr."""
    try:
        main(list(arguments))
        code = 0
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    out, err = capsys.readouterr()
    return code, out, err
