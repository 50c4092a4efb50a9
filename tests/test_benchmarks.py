"""The benchmarks as they are written about: named commands exist, links lead somewhere, tables are the records'."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fxprune
from benchmarks import networks
from benchmarks.accuracy.paired import difference, packed, unpacked, without_choosing
from benchmarks.report.narrowed import channels
from fxprune.passes import RemoveChannels
from fxprune.training.data import load_data

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").rglob("*.md")]
SOURCES = [*(ROOT / "benchmarks").rglob("*.py"), ROOT / ".ci" / "run"]


def test_every_command_that_is_named_is_a_module_with_a_main() -> None:
    texts = "\n".join(path.read_text() for path in (*PAGES, *SOURCES))
    named = set(re.findall(r"-m (benchmarks(?:\.[a-z]\w*)+)", texts))
    assert len(named) > 10
    for name in named:
        assert "def main()" in (ROOT / f"{name.replace('.', '/')}.py").read_text(), name


def test_every_benchmark_that_can_be_run_is_in_the_readme() -> None:
    readme = (ROOT / "benchmarks" / "README.md").read_text()
    by_others = {"benchmarks.speed.compile_steps", "benchmarks.zoo.timm_cnns"}
    for path in (ROOT / "benchmarks").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if "def main()" in path.read_text() and name not in by_others:
            assert f"-m {name}" in readme


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        if "://" not in link:
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """Return the names that GitHub gives to a page's headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_tables_are_what_the_records_say() -> None:
    code = (
        "from benchmarks import RESULTS\n"
        "from benchmarks.report.tables import pages\n"
        "print([page.name for page in pages() if (RESULTS / f'{page.name}.md').read_text() != page.markdown])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.strip() == "[]", "run python -m benchmarks.report.tables"


def test_images_to_choose_on_are_neither_trained_on_nor_test_images() -> None:
    pytest.importorskip("sklearn")
    data = load_data("digits")
    split, test = without_choosing(data, 100, seed=1)
    assert test is data.held_out
    assert split.train_count == data.train_count - 100
    parts = [_images(part) for part in (split.plain_train, split.held_out)]
    assert sorted(parts[0] + parts[1]) == sorted(_images(data.plain_train))
    again, _ = without_choosing(data, 100, seed=1)
    assert _images(again.held_out) == parts[1] != _images(without_choosing(data, 100, seed=2)[0].held_out)


def _images(data: torch.utils.data.Dataset[Any]) -> list[bytes]:
    return [data[index][0].numpy().tobytes() for index in range(len(data))]  # type: ignore[arg-type]


def test_differences_are_of_the_same_images_over_all_seeds() -> None:
    ours = [np.array([True, True, False, True, True]), np.array([True, False, False, True, True])]
    others = [np.array([True, False, False, True, False]), np.array([False, False, False, True, True])]
    by_image = torch.tensor([0.5, 0.5, 0.0, 0.0, 0.5])
    found, error = difference(ours, others)
    assert found == pytest.approx(0.3)
    assert error == pytest.approx(float(by_image.std()) / 5**0.5)
    assert unpacked(packed(ours[0]), 5).tolist() == ours[0].tolist()


def test_the_streams_of_a_resnet_with_projections_can_go() -> None:
    graph = fxprune.trace(networks.resnet20b().eval(), torch.randn(2, 3, 32, 32))
    assert graph.get_submodule("layer2.0.shortcut.0").kernel_size == (1, 1)
    cut = RemoveChannels(ratio=0.5)(graph).graph_module
    assert [cut.get_submodule(path).out_channels for path in ("conv1", "layer3.2.conv2")] == [8, 32]


def test_the_section_of_channels_has_a_row_an_arm() -> None:
    mean = {"macs": 50, "params": 60, "top1_choosing": 0.9, "top1": 0.89}
    against = {"difference": -0.012, "standard_error": 0.003}
    removed = [{"top1": 0.88, "top1_before_removal": 0.87}, {"top1": 0.90, "top1_before_removal": 0.91}]
    arms: dict[str, Any] = {
        "baseline trained on": {"mean": mean, "against": against},
        "trained to zero": {"mean": mean, "seeds": dict(enumerate(removed))},
        "l1, uniform": {"mean": {**mean, "top1_choosing_cut": 0.2}, "against": against},
    }
    record = {
        "settings": {"target": 0.5, "precision": "bf16", "epochs": 12, "choosing": 5000},
        "seeds": [0, 1],
        "baseline": {"macs": 100, "params": 100, "top1_choosing": {"0": {"fine_tuned": 0.91}}},
        "chosen": {"trained to zero": "trained to zero"},
        "arms": {arm: {"seeds": {"0": {}, "1": {}}, "path": [], **one} for arm, one in arms.items()},
        "not_run": ["l2, uniform"],
    }
    section = channels("resnet20", record)
    assert [row[0] for row in section.rows] == list(arms)
    assert section.rows[2][2:5] == ["50.0%", "60.0%", "20.00%"]
    assert section.rows[2][-1] == "-1.20 ± 0.30"
    assert all(len(row) == len(section.headers) for row in section.rows)
    assert "at most 1.00 points" in section.text
    assert "Not run: l2, uniform" in section.text
