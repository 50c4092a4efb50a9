"""What was measured, kept in files: each is of one machine, its versions, and some conditions."""

from __future__ import annotations

import importlib.util
import os
import platform
import warnings
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import platformdirs
import torch

from fxprune.costs.latency.conditions import Conditions
from fxprune.costs.latency.latency_table import Family, families_from_json, families_to_json
from fxprune.costs.latency.workloads import digest
from fxprune.errors import FxpruneWarning, LoadError, first_line
from fxprune.files import make_folder, read_json_of, write_json

_SCHEMA = 8
_PACKAGES = ("fxprune", "torch", "onnxruntime")


class LatencyCache:
    """The file of some conditions.

    What it does not hold, or cannot be read, is measured anew.

    Args:
        conditions: under which was measured.
        folder: where it lies; None: what is measured is kept nowhere.

    Attributes:
        families: what was measured of ops.
        networks: what was measured of whole networks, by :func:`digest` of what these are.
        pace: the milliseconds that a fixed work usually took (:mod:`fxprune.costs.latency.pace`); 0: nobody looked.
    """

    def __init__(self, conditions: Conditions, folder: Path | None) -> None:
        self._made_by = made_by(conditions)
        self.path = None if folder is None else folder / f"{digest(self._made_by)}.json"
        self.families: dict[str, Family] = {}
        self.networks: dict[str, Any] = {}
        self.pace = 0.0
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def _read(self, path: Path) -> None:
        try:
            data = read_json_of(path, "record of latencies")
            if data["made_by"] == self._made_by:
                self.families, self.networks = families_from_json(data["families"]), dict(data["networks"])
                self.pace = float(data["pace"])
        except (LoadError, KeyError, TypeError, ValueError, AttributeError) as error:
            message = f"the latencies in {path} cannot be read, and are measured anew: {first_line(error)}"
            warnings.warn(message, FxpruneWarning, stacklevel=4)

    def keep(self) -> None:
        """Write what is known, whole or not at all; raises LoadError where nothing can be written."""
        if self.path is None:
            return
        make_folder(self.path.parent)
        families = families_to_json(self.families)
        content = {"made_by": self._made_by, "pace": self.pace, "families": families, "networks": self.networks}
        write_json(self.path, content, indent=0)


def cache_folder(cache: bool | str | os.PathLike[str]) -> Path | None:
    """Return where measurements are kept: in the user's folder of caches, in another, or (False) nowhere."""
    if isinstance(cache, bool):
        return Path(platformdirs.user_cache_dir("fxprune", appauthor=False)) / "latency" if cache else None
    return Path(cache)


def made_by(conditions: Conditions) -> Mapping[str, Any]:
    """Return the hardware, the versions and the conditions that times are of."""
    return {"schema": _SCHEMA, "conditions": conditions.to_json(), **_hardware(conditions.device), **_versions()}


def _hardware(device: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }
    if device.startswith("cuda"):
        found["gpu"] = [torch.cuda.get_device_name(device), torch.version.cuda]
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is not None:
            module: Any = import_module(package)
            found[package] = str(module.__version__)
    return found
