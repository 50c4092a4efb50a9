"""The zoo: every torchvision model and one timm CNN a family, through fxprune from end to end.

    pip install -e '.[bench]'
    python -m benchmarks.zoo.run --jobs 2                       # goes on where it stopped; rows in results/zoo/
    python -m benchmarks.zoo.run --retry                        # again, those whose last row is no success
    python -m benchmarks.zoo.run --only 'timm:resnet*'          # some of them
    python -m benchmarks.zoo.run --what channels                # half of the channels, and of the layers too
    python -m benchmarks.zoo.run --peer torch-pruning           # Torch-Pruning on the same models, or torch-kirigami
    python -m benchmarks.zoo.run --summarize                    # results/zoo.json, from the rows
    python -m benchmarks.zoo.run --subset ci --jobs 2           # a few models, from the start; exits 1 if one fails

Each model has a process of its own (worker.py); a crash or time-out is a row.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from benchmarks import RESULTS
from benchmarks.zoo.models import CI_SUBSET, all_specs, kind
from benchmarks.zoo.row import read_rows
from benchmarks.zoo.summary import summarize
from benchmarks.zoo.worker import work

PEERS = {
    "torch-pruning": "benchmarks.zoo.torch_pruning_steps",
    "torch-kirigami": "benchmarks.zoo.kirigami_steps",
}
WORKERS = {"fxprune": "benchmarks.zoo.fxprune_steps", "channels": "benchmarks.zoo.channel_steps", **PEERS}
_FORKS = multiprocessing.get_context("forkserver")

Row = dict[str, Any]


def main() -> None:
    """Run the models that have no row yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="PATTERN", default="*", help="of model names, as timm:resnet*")
    parser.add_argument("--subset", choices=["ci"], help="a fixed few; rows are not kept")
    parser.add_argument("--peer", choices=list(PEERS), help="run this package instead of fxprune")
    parser.add_argument("--what", choices=["layers", "channels"], default="layers", help="what fxprune takes out")
    parser.add_argument("--retry", action="store_true", help="run those again that did not succeed")
    parser.add_argument("--summarize", action="store_true", help="only write the summary")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time, one thread each")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for a model")
    parser.add_argument("--runs", type=Path, default=RESULTS / "zoo")
    arguments = parser.parse_args()

    worker = arguments.peer or {"layers": "fxprune"}.get(arguments.what, arguments.what)
    os.environ["OMP_NUM_THREADS"] = "1"
    _FORKS.set_forkserver_preload(["torch", "torchvision", "timm"])
    rows_file = arguments.runs / f"{worker}.jsonl"
    if arguments.summarize:
        summarize(list(read_rows(arguments.runs / "fxprune.jsonl").values()))
        return
    if arguments.subset:
        rows = run_models(CI_SUBSET, worker, None, arguments.jobs, arguments.timeout)
        sys.exit(any(row["status"] != "ok" for row in rows))
    done = read_rows(rows_file)
    finished = {name for name, row in done.items() if row["status"] == "ok" or not arguments.retry}
    wanted = [spec for spec in all_specs() if fnmatch(spec, arguments.only) and spec not in finished]
    print(f"{len(wanted)} to run, {len(finished)} have a row in {rows_file}")
    run_models(wanted, worker, rows_file, arguments.jobs, arguments.timeout)


def run_models(specs: Iterable[str], worker: str, rows_file: Path | None, jobs: int, timeout: float) -> list[Row]:
    """Run each model in a process of its own; print and append its row as it comes."""
    commit = _commit()
    finished: list[Row] = []
    if rows_file is not None:
        rows_file.parent.mkdir(parents=True, exist_ok=True)

    def one(spec: str) -> None:
        row = {**_run_model(spec, worker, timeout), "commit": commit}
        if rows_file is not None:
            with rows_file.open("a") as file:
                file.write(json.dumps(row) + "\n")
        finished.append(row)
        seconds = row.get("seconds", {}).get("total", 0)
        print(
            f"{row['status']:9} {spec:50} {seconds:6.1f} s {row.get('peak_mb', 0):6} MB  {row['error']}", flush=True
        )

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, specs))
    return finished


def _run_model(spec: str, worker: str, timeout: float) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "row.json"
        process = _FORKS.Process(target=work, args=(WORKERS[worker], spec, str(path), os.getpid()))
        process.start()
        process.join(timeout)
        stop = f"exit {process.exitcode}" if process.exitcode else ""
        if process.is_alive():
            stop = f"time-out after {timeout:g} s"
        with contextlib.suppress(ProcessLookupError):
            assert process.pid
            os.killpg(process.pid, signal.SIGKILL)  # its own session: it and the process that it reloads in
        process.join()
        try:
            row: Row = json.loads(path.read_text())
        except (OSError, ValueError):
            row = {"model": spec, "kind": kind(spec), "step": "start", "seconds": {}}
        return {**row, "status": "failed", "error": stop} if stop else row


def _commit() -> str:
    command = ["git", "-C", str(RESULTS), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
