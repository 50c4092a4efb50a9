"""Records of benchmarks, and the pages made of them, by small rows with known answers."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import fxprune
from benchmarks import networks
from benchmarks.accuracy import depth_and_width, ucp
from benchmarks.accuracy import partition as choosing
from benchmarks.accuracy.equal_time import WHAT, Row
from benchmarks.accuracy.equal_time_record import record
from benchmarks.accuracy.paired import packed
from benchmarks.accuracy.untrained import at_random
from benchmarks.provenance import provenance
from benchmarks.report import in_time, narrowed, partition, untrained
from benchmarks.report.pages import Draw
from fxprune.costs.macs import total_macs

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
    found = {**provenance(), **record(rows, "net", WHAT, "Torch-Pruning")}
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


def seeds_of(folder: Path, arm: str, right: dict[int, int], **more: float) -> None:
    """Write what the runs of an arm tell that had so many of ten test images right, by seed."""
    for seed, count in right.items():
        out = folder / f"ucp-net-seed{seed}" / arm
        out.mkdir(parents=True)
        flags = packed(np.arange(10) < count)
        told = {"macs": 50, "params": 60, "top1_choosing": 0.9, "top1": count / 10, "correct": flags, "path": []}
        (out / "report.json").write_text(json.dumps({**told, **more}))


def test_the_page_of_widths_compares_each_arm_with_its_own(tmp_path: Path) -> None:
    seeds_of(tmp_path, "unpruned", {0: 8, 1: 8}, macs=100, params=100)
    seeds_of(tmp_path, "UCP", {0: 6, 1: 8}, alpha=0.95)
    seeds_of(tmp_path, "uniform, MACs", {0: 5}, alpha=0.4)
    seeds_of(tmp_path, "UCP, a small rate", {0: 9, 1: 9}, alpha=0.8)
    for seed in (0, 1):
        settings = {"seed": seed, "target": 0.5, "small": 0.9, "choosing": 5000, "epochs": 3, "precision": "bf16"}
        told = {"settings": settings, "macs": 100, "params": 100, "test_images": 10}
        (tmp_path / f"ucp-net-seed{seed}" / "settings.json").write_text(json.dumps(told))
    found = ucp.record(tmp_path, "net")
    section = narrowed.ucp("net", found)
    cells = {row[0]: row[1:] for row in section.rows}
    assert all(len(row) == len(section.headers) for row in section.rows)
    assert cells["unpruned"] == [2, "", "100.0%", "100.0%", "90.00%", "80.00%", "+10.00 ± 6.67"]
    assert cells["uniform, MACs"][-1] == "-10.00 ± 10.00"  # of the seed that both were run with
    assert cells["UCP, a small rate"][-1] == "+10.00 ± 10.00"  # against the unpruned network, not against UCP
    assert (cells["UCP"][1], cells["uniform, MACs"][1]) == ("0.95", "")
    assert "less that of UCP, or for 'UCP, a small rate' that of 'unpruned'" in section.text
    assert "Not run: with gates; random, MACs; uniform, parameters; random, parameters." in section.text
    assert "## net, widths alone" in section.markdown("ucp_net", found)


@pytest.mark.parametrize("what", ["all", "channels"])
def test_as_many_are_drawn_of_padded_streams_too(what: str) -> None:
    graph = fxprune.trace(networks.resnet20().eval(), torch.randn(2, 3, 32, 32))
    plan = fxprune.choose(graph, what, fxprune.Targets(macs=0.5), criterion="l1", scope="global")
    drawn = at_random(graph, plan, 1)
    assert drawn.indices != plan.indices
    layers = [Counter(one.kind for one in each.sites if one.kind != "channels") for each in (plan, drawn)]
    assert layers[0] == layers[1]
    assert bool(layers[0]) == (what == "all")
    macs = [total_macs(each.apply(graph).graph_module) for each in (plan, drawn)]
    assert macs[1] == pytest.approx(macs[0], rel=0 if what == "channels" else 0.03)


def test_the_table_of_depth_and_width_is_against_both_and_against_the_baseline(tmp_path: Path) -> None:
    arms: dict[str, tuple[int, dict[str, object]]] = {
        "baseline trained on": (9, {}),
        "layers, MACs": (7, {"saved_by": {"convs": {"macs": 0.2}, "branches": {"macs": 0.3}}, "at_removal": 0.0}),
        "both, MACs": (8, {"saved_by": {"branches": {"macs": 0.1}, "channels": {"macs": 0.4}}, "at_removal": 0.0}),
    }
    for seed in (0, 1):
        tuned = tmp_path / f"channels-net-seed{seed}" / "fine-tuned"
        tuned.mkdir(parents=True)
        told = {"macs": 100, "params": 100, "top1_choosing": {"fine_tuned": 0.9}}
        (tuned / "report.json").write_text(json.dumps(told))
        for arm, (right, more) in arms.items():
            out = tmp_path / f"depth-and-width-net-seed{seed}" / arm
            out.mkdir(parents=True)
            settings = {"seed": seed, "epochs": 6, "precision": "bf16", "target": 0.5, "test_images": 10}
            costs = {"macs": 50, "params": 60, "top1_choosing": right / 10, "top1": right / 10, "path": []}
            flags = {"correct": packed(np.arange(10) < right), "settings": settings}
            (out / "report.json").write_text(json.dumps({**costs, **flags, **more}))
        (out / "times.json").write_text(json.dumps({"1": {"ratio": 0.4 + seed / 5}, "64": {"ratio": 0.5}}))
    found = depth_and_width.record(tmp_path, "net")
    section = narrowed.depth_and_width("net", found)
    cells = {row[0]: row[1:] for row in section.rows}
    assert all(len(row) == len(section.headers) for row in section.rows)
    assert cells["both, MACs"][3:6] == ["10.0%, 40.0%", "0.50", "0.50"]
    assert cells["layers, MACs"][3:6] == ["50.0%, 0.0%", "", ""]
    assert cells["layers, MACs"][-2:] == ["-10.00 ± 10.00", "-20.00 ± 13.33"]
    assert cells["baseline trained on"][-2:] == ["", "+0.00 ± 0.00"]
    assert "Not run: channels, MACs;" in section.text


def test_the_table_of_choices_is_of_means_and_differences_to_drawn_blocks_of_the_same_seed() -> None:
    numbers = {"macs_left": 0.5, "top1_choosing": 0.0, "settings": {"epochs": 1, "lr": 0.01}}
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
