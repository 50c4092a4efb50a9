"""A script that two processes run together, as torchrun has them: each saves what it came to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


def of_two_processes(text: str, folder: Path) -> list[Any]:
    """Return what each saved; a script is called with a file to meet at, its rank, and where it saves.

    In its text ``{tests!r}`` is the folder of the tests.
    """
    script = folder / "train.py"
    script.write_text(text.format(tests=str(Path(__file__).parent)))
    running = [
        subprocess.Popen(
            [sys.executable, str(script), str(folder / "store"), str(rank), str(folder / f"{rank}.pt")],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for one in running:
        _, errors = one.communicate()
        assert one.returncode == 0, errors
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
