"""The page of a search for a blend: plots of fitness and of the criteria, and their clusters; nothing unescaped."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from fxprune.choosing.blend_record import Generation, SearchRecord
from fxprune.choosing.criterion_blend import Blend
from fxprune.choosing.criterion_clusters import Clusters
from fxprune.errors import FxpruneError
from fxprune.render.blend_page import blend_page, blend_plots

pytest.importorskip("matplotlib")
GROUP = "layer<b>$x$.conv1"
CLUSTERS = {
    GROUP: Clusters(("l1", "taylor"), np.array([[1, 0.5], [0.5, 1]]), (("l1",), ("taylor",))),
    "head": Clusters(("l1", "apoz"), np.array([[1, -0.5], [-0.5, 1]]), (("l1",), ("apoz",))),
}
GENERATIONS = [Generation([[0.1], [0.2]], [0.25, 0.5]), Generation([[0.2], [0.3]], [0.5, 0.75])]
RECORD = SearchRecord({}, CLUSTERS, GENERATIONS)
BLEND = Blend({GROUP: {"l1": 1.0, "taylor": 0.25}, "head": {"l1": 0.0, "apoz": 1.0}}, 0.75)


def test_plots_tell_fitness_and_how_alike_criteria_are() -> None:
    plots = blend_plots(RECORD)
    fitness, alike = plots.values()
    assert list(plots) == ["held-out top-1 by generation", "rank correlation, mean over groups"]
    assert all(text in fitness for text in ("best of the generation", "mean", "generation"))
    assert all(text in alike for text in ("l1", "taylor", "apoz", "0.5", "-0.5"))
    assert "<image" not in alike  # the page's policy lets no picture in
    assert plots == blend_plots(RECORD)


@pytest.mark.parametrize("given", [{}, {"clusters": CLUSTERS}, {"generations": GENERATIONS}])
def test_plots_of_nothing_are_left_out(given: Any) -> None:
    assert len(blend_plots(SearchRecord({}, **given))) == len(given)


def test_the_page_names_what_counts_and_escapes_it() -> None:
    page = blend_page(RECORD, BLEND, title="NET<i>")
    assert "2 generations; the best blend has a held-out top-1 of 75.0%" in page
    assert "<td>l1 | taylor</td><td>l1 1.00, taylor 0.25</td>" in page
    assert "<td>head</td><td>l1 | apoz</td><td>apoz 1.00</td>" in page
    assert "layer&lt;b&gt;$x$.conv1" in page
    assert not any(text in page for text in ("<b>", "NET<i>", "<script"))


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(FxpruneError, match=r"plots need matplotlib; pip install 'fxprune\[plot\]'"):
        blend_page(RECORD, BLEND, title="")
