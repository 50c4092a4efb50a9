"""How true predicted times are: of networks that the fit has not seen, on each backend.

    python -m benchmarks.speed.prediction resnet50 mobilenet_v2 --backends eager onnxruntime
    python -m benchmarks.speed.prediction --table

The first measures what is not measured yet, a line each of RUNS/prediction.jsonl: random weights, eight random
prunings to fit, eight others to judge. A row has, of these, predicted over measured (median and worst), the rank
correlation, the spread of repeats, and the seconds that measuring took, the first time and from the cache. The second
writes results/prediction.json. Nothing else should run meanwhile: the spread tells.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

import fxprune
from benchmarks import RESULTS, networks
from benchmarks.accuracy.rows import read_rows
from benchmarks.provenance import provenance
from fxprune.costs.macs import total_macs
from fxprune.files import append_line, make_folder, write_json
from fxprune.pruning.latency_model import LatencyModel
from fxprune.sources.models import load_model

NETWORKS = {
    "resnet56": 32,
    "torchvision:resnet50": 224,
    "torchvision:mobilenet_v2": 224,
    "torchvision:efficientnet_b0": 224,
    "torchvision:convnext_tiny": 224,
    "c2f": 224,
}
"""The networks, and the side of their images."""
BACKENDS = ("eager", "onnxruntime", "compile")
_FILE = "prediction.jsonl"


class Row(NamedTuple):
    """What names a measurement."""

    network: str
    backend: str
    batch: int
    threads: int


def main() -> None:
    """Measure what is not measured yet, or write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=["eager", "onnxruntime"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the rows")
    parser.add_argument("--table", action="store_true", help="write the result of what was measured")
    arguments = parser.parse_args()
    file = arguments.runs / _FILE
    rows = read_rows(file, Row)
    if arguments.table:
        measured = [{**row._asdict(), **found} for row, found in rows.items()]
        write_json(RESULTS / "prediction.json", {**provenance("onnxruntime"), "rows": measured})
        return
    make_folder(arguments.runs)
    for backend in arguments.backends:
        for network in arguments.networks:
            row = Row(network, backend, arguments.batch, arguments.threads)
            if row not in rows:
                found = measured_row(row)
                append_line(file, json.dumps({**row._asdict(), **found}))
                print(f"{', '.join(map(str, row))}: {found}", flush=True)


def measured_row(row: Row) -> dict[str, Any]:
    """Measure one network on one backend, twice: the second time all is in the cache."""
    torch.manual_seed(0)
    own = getattr(networks, row.network, None)
    model = own() if own is not None else load_model(row.network, None, None).model
    size = NETWORKS[row.network]
    graph = fxprune.trace(model.eval(), torch.randn(1, 3, size, size))
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            start = time.monotonic()
            found = LatencyModel.measure(
                graph, backend=row.backend, batch=row.batch, threads=row.threads, cache=Path(folder)
            )
            seconds.append(round(time.monotonic() - start, 1))
    assert found.table.error is not None
    whole = found.measured(graph)
    return {
        **found.table.error._asdict(),
        "macs": total_macs(graph),
        "milliseconds": whole.milliseconds,
        "spread_of_whole": whole.spread,
        "seconds": seconds[0],
        "seconds_from_cache": seconds[1],
        "missing": list(found.table.missing),
    }


if __name__ == "__main__":
    main()
