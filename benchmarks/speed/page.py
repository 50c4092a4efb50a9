"""How fast the page of a diff opens, scrolls and searches in Chromium, and the README's picture of it.

    python -m benchmarks.speed.page                            # measures; writes results/page.json
    python -m benchmarks.speed.page --picture docs/diff.png    # ResNet-56, half removed

Measured on a network of 978 nodes with the diffs of all eight steps of its pruning (a CIFAR ResNet of depth 278 with
random scales), and on five such side by side, 4,890 nodes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from playwright.sync_api import Browser, Page, sync_playwright

import fxprune
from benchmarks import RESULTS
from benchmarks.provenance import provenance
from fxprune import AFTER_TRAINING, GraphDiff, passes
from fxprune.diffing.entries import Change, NodeInfo, Totals
from fxprune.files import write_json
from fxprune.pipelines.chains import insert_scales
from fxprune.render.html import page
from fxprune.structures.gated_layers import layers
from fxprune.training.cifar_resnet import CifarResNet

Diffs = tuple[list[tuple[str, GraphDiff]], GraphDiff]

_SCROLL = """async () => {
  const scroller = document.getElementById("scroller"), times = [];
  for (let step = 0; step <= 200; step += 1) {
    const start = performance.now();
    scroller.scrollTop = step / 200 * scroller.scrollHeight;
    await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    times.push(performance.now() - start);
  }
  return times;
}"""
_SEARCH = """(text) => {
  const search = document.getElementById("search"), start = performance.now();
  search.value = text;
  search.dispatchEvent(new Event("input"));
  document.body.offsetHeight;
  return performance.now() - start;
}"""


def main() -> None:
    """Measure, or take the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, help="write a PNG for the README instead of measuring")
    arguments = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        parser.error("needs chromium: apt-get install chromium")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        if arguments.picture is not None:
            _picture(browser, Path(folder), arguments.picture)
            return
        one = _pruned(278)
        rows = [_measure(browser, Path(folder), diffs) for diffs in (one, _side_by_side(one, 5))]
        write_json(RESULTS / "page.json", {"rows": rows, "chromium": browser.version, **provenance()})
        print(json.dumps(rows, indent=2))


def _pruned(depth: int) -> Diffs:
    """Return the diffs of a CIFAR ResNet of which three tenths of the layers, chosen at random, are removed."""
    torch.manual_seed(0)
    traced = fxprune.trace(CifarResNet(depth), torch.randn(2, 3, 32, 32))
    inserted = insert_scales(traced, "all", verify=False)
    for layer in layers(inserted.graph_module):
        scale = float(torch.rand(()))
        layer.assign(scale=0.0 if scale < 0.3 else scale)
        if layer.kind == "conv":
            layer.assign(shortcut=1.0)
    removal = [passes.RemoveLayers(threshold=0.0), *AFTER_TRAINING]
    result = fxprune.Pipeline(removal, verify=False)(inserted.graph_module.eval())
    whole = fxprune.diff(traced, result.graph_module, results=[inserted, result])
    return [(step.name, step.diff) for part in (inserted, result) for step in part.steps], whole


def _side_by_side(diffs: Diffs, count: int) -> Diffs:
    """Return the diffs of ``count`` such networks in one graph, each a module of its own."""

    def node(one: NodeInfo, number: int) -> NodeInfo:
        reads = tuple(f"net{number}_{name}" for name in one.inputs)
        return replace(one, name=f"net{number}_{one.name}", path=f"net{number}.{one.path}".rstrip("."), inputs=reads)

    def change(one: Change, number: int) -> Change:
        before = tuple(node(each, number) for each in one.before)
        return replace(one, before=before, after=one.after and node(one.after, number))

    def totals(one: Totals) -> Totals:
        return Totals(one.nodes * count, one.macs * count, one.params * count)

    def repeated(one: GraphDiff) -> GraphDiff:
        changes = tuple(change(each, number) for number in range(count) for each in one.changes)
        return replace(one, changes=changes, before=totals(one.before), after=totals(one.after))

    stages, whole = diffs
    return [(name, repeated(stage)) for name, stage in stages], repeated(whole)


def _measure(browser: Browser, folder: Path, diffs: Diffs) -> dict[str, Any]:
    """Return sizes and times of one page; the file is opened five times, and the median is kept."""
    start = time.perf_counter()
    text = page(*diffs, title="benchmark")
    made = time.perf_counter() - start
    opened = []
    for _ in range(5):
        tab, milliseconds = _open(browser, folder, text)
        opened.append(milliseconds)
    scrolled: Sequence[float] = tab.evaluate(_SCROLL)
    searched = [tab.evaluate(_SEARCH, words) for words in ("c", "conv", "conv2 removed", "")]
    return {
        "nodes": diffs[1].before.nodes,
        "steps": len(diffs[0]),
        "megabytes": round(len(text.encode()) / 1e6, 2),
        "written_ms": round(made * 1e3),
        "opened_ms": round(statistics.median(opened)),
        "scrolled_two_frames_ms": {"median": round(statistics.median(scrolled)), "largest": round(max(scrolled))},
        "searched_ms": {"median": round(statistics.median(searched)), "largest": round(max(searched))},
    }


def _open(browser: Browser, folder: Path, text: str) -> tuple[Page, float]:
    """Return the page and the milliseconds until it is loaded and its first rows are drawn."""
    file = folder / "page.html"
    file.write_text(text, encoding="utf-8")
    tab = browser.new_page(viewport={"width": 1280, "height": 760})
    start = time.perf_counter()
    tab.goto(file.as_uri())
    tab.wait_for_selector(".row")
    return tab, (time.perf_counter() - start) * 1e3


def _picture(browser: Browser, folder: Path, file: Path) -> None:
    tab, _ = _open(browser, folder, page(*_pruned(56), title="ResNet-56, pruned"))
    tab.evaluate(
        "document.getElementById('scroller').scrollTop = 26 * 17"
    )  # rows down to where convs and blocks are gone
    tab.locator(".row.line.removed", has_text="Conv2d").nth(1).click()
    file.parent.mkdir(exist_ok=True)
    tab.screenshot(path=file)


if __name__ == "__main__":
    main()
