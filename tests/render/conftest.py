"""A headless Chromium, a page of a small network's diff, and what may never happen in one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import tiny
from playwright.sync_api import Browser, Page, sync_playwright
from render_helpers import Open, Stages

import fxprune
from fxprune import AFTER_TRAINING, GraphDiff, passes
from fxprune.pipelines.chains import insert_scales
from fxprune.structures.gated_layers import layers

_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium here (apt-get install chromium): the page was not tested in a browser")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=_FLAGS.split())
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Open HTML from disk; afterwards, nothing was complained of and nothing was loaded but the file."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    complaints: list[str] = []
    requests: list[str] = []

    def open_html(text: str) -> Page:
        file = tmp_path / "page.html"
        file.write_text(text, encoding="utf-8")
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())
        assert page.evaluate("document.readyState") == "complete"
        return page

    yield open_html
    context.close()
    assert complaints == []
    assert all(url.startswith("file://") for url in requests)
    assert len(requests) == 1


@pytest.fixture(scope="session")
def pruned() -> tuple[Stages, GraphDiff]:
    """TinyNet with one conv and one branch removed, fused and simplified: the diffs of its steps, and of it all."""
    graph = tiny()
    scaled = insert_scales(graph, "all")
    for layer in layers(scaled.graph_module):
        layer.assign(scale=0.0 if layer.path in ("block1.conv1", "block2.branch_scale") else 0.5)
        if layer.path == "block1.conv1":
            assert isinstance(layer.module, fxprune.ResConv)
            layer.assign(shortcut=1.0)  # so that what follows is not zero
    result = fxprune.Pipeline([passes.RemoveLayers(threshold=1e-2), *AFTER_TRAINING])(scaled.graph_module)
    whole = fxprune.diff(graph, result.graph_module, results=[scaled, result])
    return [(step.name, step.diff) for one in (scaled, result) for step in one.steps], whole
