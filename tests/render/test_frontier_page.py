"""The page of networks on the way down: plain data, escaped, with links to what was changed."""

from __future__ import annotations

from typing import Any

from render_helpers import Open

from fxprune.render.frontier_page import frontier_page, frontier_plot

BEFORE = {"target": None, "folder": None, "ms": 4.0, "spread": 0.01, "predicted_ms": 4.1, "top1": 0.9, "moved": None}
AFTER = {"target": 0.5, "folder": "a b<", "ms": 2.0, "spread": 0.01, "predicted_ms": 2.1, "top1": 0.8, "moved": 0.1}
COSTS = {"macs": 1_000_000, "params": 2_000}
TOLD: dict[str, Any] = {"conditions": "eager & <1 thread>", "points": [{**BEFORE, **COSTS}, {**AFTER, **COSTS}]}


def test_everything_is_escaped() -> None:
    page = frontier_page(TOLD, title="<i>NET")
    assert page.isascii()
    assert "<i>" not in page
    assert "eager &amp; &lt;1 thread&gt;" in page
    assert 'href="a%20b%3C/diff.html"' in page


def test_points_are_links_and_the_same_data_give_the_same_plot() -> None:
    assert 'xlink:href="a%20b%3C/diff.html"' in frontier_plot(TOLD)
    assert frontier_plot(TOLD) == frontier_plot(TOLD)


def test_the_page_opens(opened: Open) -> None:
    tab = opened(frontier_page(TOLD, title="NET"))
    rows = tab.locator("tbody tr").all_inner_texts()
    assert rows[1].split("\t") == [
        "50%",
        "2",
        "1.0%",
        "2.1",
        "80.00%",
        "10.00%",
        "1,000,000",
        "2,000",
        "what was changed",
    ]
    assert tab.locator("svg a").count() == 1
