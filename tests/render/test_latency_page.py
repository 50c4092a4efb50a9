"""The page of where time goes: plots and tables of plain data."""

from __future__ import annotations

from typing import Any

from render_helpers import Open

from fxprune.render.latency_page import latency_page, latency_plots

TOLD: dict[str, Any] = {
    "notes": ["eager, 1 thread & <more>: 2 ms predicted"],
    "batch": 4,
    "predicted_ms": 2.0,
    "ops": [
        {"path": "a<b>$x$", "what": "conv 3x3", "ms": 1.5, "macs": 3_000_000, "params": 10},
        {"path": "relu", "what": "relu", "ms": 0.5, "macs": 0, "params": 0},
    ],
    "sites": [
        {"kind": "branch", "path": "layer1.0", "goes": 1, "width": 1, "ms": 0.2, "macs": 50, "params": 1},
        {"kind": "channels", "path": "c", "goes": 8, "width": 64, "ms": 1.0, "macs": 2_000, "params": 2},
    ],
    "stairs": [{"path": "a<b>$x$", "widths": [8, 16, 24], "ms": [1.0, 1.0, 1.5]}],
}


def test_plots_hold_what_was_measured() -> None:
    plots = latency_plots(TOLD)
    assert list(plots) == ["ops", "stairs"]
    assert ">with MACs</text>" in plots["ops"]
    assert plots == latency_plots(TOLD)
    assert list(latency_plots({**TOLD, "stairs": []})) == ["ops"]


def test_everything_is_escaped() -> None:
    page = latency_page(TOLD, title="<i>NET")
    assert page.isascii()
    assert "<i>" not in page
    assert "a&lt;b&gt;$x$" in page
    assert "1 thread &amp; &lt;more&gt;" in page


def test_speeds_are_of_all_inputs_of_a_batch() -> None:
    assert ">8</td>" in latency_page(TOLD, title="NET")  # 4 x 3,000,000 MACs in 1.5 ms are 8 GMAC/s


def test_a_network_of_no_ops_has_a_page() -> None:
    assert "<svg" in latency_page({**TOLD, "ops": [], "sites": [], "stairs": [], "predicted_ms": 0.0}, title="NET")


def test_tables_are_sorted_by_numbers(opened: Open) -> None:
    tab = opened(latency_page(TOLD, title="NET"))
    sites = tab.locator("table").nth(1)
    sites.locator("th button").nth(5).click()  # MACs: 2,000 is more than 50
    cells = sites.locator("tbody tr").all_inner_texts()
    assert cells[0].split("\t") == ["c", "channels", "8 of 64", "1", "50.0%", "2,000", "2"]
    assert tab.locator("table").first.locator("tbody tr").first.inner_text().split("\t") == [
        *("a<b>$x$", "conv 3x3", "1.5", "75.0%", "3,000,000", "10", "8")
    ]
