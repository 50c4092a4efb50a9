"""Records of benchmarks, and the pages made of them, by small rows with known answers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from benchmarks.accuracy import partition as choosing
from benchmarks.accuracy.equal_time import WHAT, Row
from benchmarks.accuracy.equal_time_record import record
from benchmarks.accuracy.paired import packed
from benchmarks.report import in_time, partition, untrained
from benchmarks.report.pages import Draw

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def of_a_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records tell of the running command, which is a benchmark."""
    monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks" / "accuracy" / "partition.py"), "net"])


def row(right: int, ratio: float) -> dict[str, object]:
    """Return what a row tells of a network that has the first ``right`` of ten images right."""
    flags = np.arange(10) < right
    told = {"clock": {"ratio": ratio}, "top1": right / 10, "correct": packed(flags), "images": 10}
    return {**told, "macs_left": 0.4, "agreement": 0.9, "top1_unpruned": 0.9}


def test_the_record_says_how_far_both_is_above_the_others_and_how_many_hit_their_time() -> None:
    rows = {
        Row("a", 1, 0.5, "layers", 0): row(5, 0.40),
        Row("a", 1, 0.5, "both", 0): row(8, 0.50),
        Row("a", 1, 0.5, "Torch-Pruning", 0): row(6, 0.60),
    }
    found = record(rows, "net", WHAT, "Torch-Pruning")
    above = {one["arm"]: one.get("both_above", {}).get("difference") for one in found["rows"]}
    assert above == {"layers": pytest.approx(0.3), "both": None, "Torch-Pruning": pytest.approx(0.2)}
    assert (found["on_target"]["hit"], found["on_target"]["of"]) == (1, 2)  # the peer's is not ours to hit
    assert all("correct" not in one for one in found["rows"])
    text = in_time.equal_time("net", found).markdown("equal_time_net", found)
    assert "+30.00 ± 15.28" in text
    assert "1 of 2 runs" in text


def test_no_rows_are_no_record() -> None:
    with pytest.raises(SystemExit, match="no row of net"):
        record({}, "net", WHAT, "Torch-Pruning")


def test_the_table_of_repairs_has_a_row_a_repair_and_the_unpruned_network_in_its_text() -> None:
    ours = {"mask": "L1", "left": 0.5, "repair": "ours", "images": 512, "norms": False, "macs_left": 0.5, "top1": 0.8}
    other = {**ours, "repair": "GRAIL", "top1": 0.7, "against_ours": {"difference": -0.1, "standard_error": 0.01}}
    whole = {**ours, "mask": "", "repair": "none", "images": 0, "top1": 0.88}
    settings = {"test_images": 5000, "mask_images": 512}
    section = untrained.repairs("net", {"rows": [whole, ours, other], "checkpoints": ["a"], "settings": settings})
    assert "88.00% unpruned" in section.text
    assert [(cells[2], cells[5], cells[6]) for cells in section.rows] == [
        ("ours", "80.00%", ""),
        ("GRAIL", "70.00%", "-10.00 ± 1.00"),
    ]


def test_the_table_of_choices_is_of_means_and_differences_to_drawn_blocks_of_the_same_seed() -> None:
    numbers = {"macs_left": 0.5, "top1_choosing": 0.0, "settings": {"epochs": 1}}
    tops = {"random": (0.5, 0.6), "alternating, weight": (0.7, 0.9)}
    rows = {choosing.Row("a", 1, "", 0, "unpruned"): {**numbers, "top1": 0.95}}
    for choice, of in tops.items():
        rows |= {
            choosing.Row("a", 4, choice, seed, "masked"): {**numbers, "top1": top} for seed, top in enumerate(of)
        }
    section = partition.accuracy("net", choosing.record(rows, "net"))
    assert "(1; 95.00% unpruned)" in section.text
    assert section.rows == [
        [4, "random", "masked", 2, "50.0%", "55.00%", ""],
        [4, "alternating, weight", "masked", 2, "50.0%", "80.00%", "+25.00 ± 5.00"],
    ]
    draw(section.draw)


def test_the_table_of_times_says_how_many_times_as_fast_blocks_are() -> None:
    times = {"unpruned": 8.0, "linears": 4.0, "conv": 2.0, "bmm": 8.0, "drawn, picked by index": 5.0, "sparse": 16.0}
    whole = {"macs": 100, "weight_bytes": 400, "millijoules_of_model": 2.0}
    blocks = {"macs": 50, "weight_bytes": 220, "millijoules_of_model": 1.0}
    two = {"unpruned": 5.0, "linears": 3.0}
    row = {"one_thread_ms": times, "two_threads_ms": two, "processes_ms": 3.2, "unpruned": whole, "blocks": blocks}
    section = partition.speed({"rows": {"vgg16/1/2": row}})
    ratios = ["2.00", "4.00", "1.00", "1.60", "0.50", "2.50"]
    assert section.rows == [["vgg16", "1", "2", "8.00", *ratios, "5.00", "3.00", "50.0%", "55.0%", "50.0%"]]
    assert len(section.rows[0]) == len(section.headers)
    draw(section.draw)


def draw(how: Draw) -> None:
    """Draw a plot, and throw it away."""
    figure = Figure()
    how(figure.subplots())
