"""Where a recorded result comes from: the command, versions, hardware."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import fxprune

_ROOT = Path(__file__).resolve().parent.parent
_TOLD = ("OMP_NUM_THREADS", "MALLOC_")


def provenance(*packages: str) -> dict[str, Any]:
    """Return the running command, the versions of fxprune, torch and ``packages``, and the machine's kind.

    With the command the variables of the environment that set threads and allocator.
    """
    module = ".".join(Path(sys.argv[0]).resolve().relative_to(_ROOT).with_suffix("").parts)
    return {
        "command": shlex.join(["python", "-m", module, *map(_without_folder, sys.argv[1:])]),
        "environment": {name: value for name, value in os.environ.items() if name.startswith(_TOLD)},
        "versions": {"fxprune": fxprune.__version__, **{name: version(name) for name in ("torch", *packages)}},
        "hardware": {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def _without_folder(word: str) -> str:
    """Return a word without folders of this machine: files of ours as seen from here, others by name, data as DIR."""
    before, separator, folder = word.rpartition(":") if ":/" in word else word.rpartition("=")
    if not folder.startswith(("/", "../")):
        return word
    path = Path(folder).resolve()
    if path.is_relative_to(_ROOT):
        return f"{before}{separator}{path.relative_to(_ROOT)}"
    return f"{before}{separator}{path.name if path.suffix else 'DIR'}"
