"""A model's own process, and beside it one that has never imported fxprune and cannot.

Both are forked from a server that has torch and timm loaded, which saves several seconds a model.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch.fx.node import map_aggregate

from benchmarks.zoo.row import Row

MEMORY = 16 << 30
"""Bytes of address space; more than that is an error of the model's own process, before the machine runs out."""
_FORK = multiprocessing.get_context("fork")


class CleanProcess:
    """Runs emitted models where importing fxprune is an error; start it before fxprune is imported."""

    def __init__(self) -> None:
        if any(name.partition(".")[0] == "fxprune" for name in sys.modules):
            raise RuntimeError("fxprune is imported already")
        self._pipe, theirs = _FORK.Pipe()
        _FORK.Process(target=_serve, args=(theirs,), daemon=True).start()

    def outputs(self, folder: Path, inputs: object) -> list[torch.Tensor]:
        """Return what the model in ``folder`` returns for ``inputs``; raises RuntimeError if it cannot be run."""
        torch.save(inputs, folder / "inputs.pt")
        self._pipe.send(str(folder))
        error = self._pipe.recv()
        if error:
            raise RuntimeError(f"the emitted model: {error}")
        found: list[torch.Tensor] = torch.load(folder / "outputs.pt")
        return found


def _serve(pipe: Connection) -> None:
    sys.modules["fxprune"] = None  # type: ignore[assignment]  # importing it is an error from here on
    folder = pipe.recv()
    try:
        sys.path.insert(0, folder)
        load = importlib.import_module("model").load
        found: list[torch.Tensor] = []
        with torch.no_grad():
            value = load()(*torch.load(f"{folder}/inputs.pt"))
        map_aggregate(value, lambda item: found.append(item) if isinstance(item, torch.Tensor) else None)
        torch.save(found, f"{folder}/outputs.pt")
        pipe.send("")
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


def _die_with(owner: int) -> None:
    """Kill this process and its children as soon as the process ``owner`` is gone."""
    while True:
        time.sleep(2)
        try:
            os.kill(owner, 0)
        except ProcessLookupError:
            os.killpg(0, signal.SIGKILL)


def work(module: str, spec: str, path: str, owner: int) -> None:
    """Run ``module``'s steps on the model ``spec`` and write the row to ``path``; a session of its own."""
    os.setsid()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    clean = CleanProcess()
    threading.Thread(target=_die_with, args=(owner,), daemon=True).start()  # after the fork: forks copy no threads
    with open(os.devnull, "w") as nowhere:
        sys.stdout = nowhere
        fill_row(importlib.import_module(module).run_and_judge, clean, spec, path)


def fill_row(run: Callable[[str, Row, CleanProcess], None], clean: CleanProcess, spec: str, path: str) -> None:
    """Run the model ``spec`` and write its row to ``path``.

    ``run`` fills the row; an exception that it raises is the row's error, and may name the row's status.
    """
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    row = Row(spec, Path(path))
    start = time.perf_counter()
    try:
        run(spec, row, clean)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        row["error"] = f"{type(error).__name__}: {lines[0]}"[:400]
    finally:
        row["seconds"]["total"] = round(time.perf_counter() - start, 2)
        row.save()
