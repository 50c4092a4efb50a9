"""The page of what is missed: plots and tables of plain data."""

from __future__ import annotations

from typing import Any

from render_helpers import Open

from fxprune.render.sensitivity_page import sensitivity_page, sensitivity_plots

MOVED = {"missed": 0.25, "error": None, "moved": 0.5, "agreement": 0.75, "loss": 0.1, "top1": -0.05, "images": 64}
TOLD: dict[str, Any] = {
    "network": {"macs": 100, "params": 10, "images": 64, "is_logits": True, "top1": 0.5},
    "sites": [
        {"kind": "branch", "path": "a<b>$x$", "goes": 1, "width": 1, "saves_macs": 50, "saves_params": 1, **MOVED},
        {"kind": "channels", "path": "c", "goes": 2, "width": 8, "saves_macs": 20, "saves_params": 2, **MOVED},
    ],
    "not_measured": [],
    "curve": [
        {"target": 0.5, "why": "", "macs_left": 0.4, "params_left": 0.9, "foretold": 0.3, "measured": MOVED},
        {"target": 0.01, "why": "cannot <be> met", "macs_left": None, "params_left": None, "foretold": None,
         "measured": None},
    ],
}  # fmt: skip


def test_plots_hold_what_was_measured() -> None:
    plots = sensitivity_plots(TOLD)
    assert list(plots) == ["sites", "curve"]
    assert ">branches</text>" in plots["sites"]
    assert ">foretold</text>" in plots["curve"]
    assert plots == sensitivity_plots(TOLD)
    assert list(sensitivity_plots({**TOLD, "curve": []})) == ["sites"]


def test_everything_is_escaped() -> None:
    page = sensitivity_page(TOLD, title="<i>NET", notes=["a note & <more>"])
    assert "<i>" not in page
    assert "a&lt;b&gt;$x$" in page
    assert "a note &amp; &lt;more&gt;" in page
    assert "cannot &lt;be&gt; met" in page
    assert page.isascii()
    assert "<script" not in page
    assert "default-src 'none'" in page


def test_the_page_opens_without_script_or_network(opened: Open) -> None:
    tab = opened(sensitivity_page(TOLD, title="NET"))
    assert tab.locator("svg").count() == 2
    cells = tab.locator("table").nth(1).locator("tbody tr").all_inner_texts()
    assert cells[1].split("\t") == [
        *("c", "channels", "2 of 8", "20.0%", "20.0%", "0.25", "", "0.5", "75.0%", "+0.1", "-5.0%", "64")
    ]
