"""The criterion ``blend`` by its name: searched for what the pass that asks takes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from blend_nets import POOL, QUICK, judged, pictured
from helpers import TinyNet

import fxprune
from fxprune.choosing.channel_scores import channel_scores
from fxprune.choosing.criterion_blend import Blend
from fxprune.choosing.named import known_criteria
from fxprune.choosing.samples import Samples
from fxprune.passes import RemoveChannels
from fxprune.pruning.blend import by_name as blending
from fxprune.pruning.blend.by_name import Blending
from fxprune.pruning.blend.search import BlendSettings, evolved

pytestmark = pytest.mark.filterwarnings("ignore:a blend is chosen by top-1 on:fxprune.errors.FxpruneWarning")
FEW = BlendSettings(population=3, generations=1, pool=POOL)


def test_it_is_known_by_its_name() -> None:
    assert known_criteria()["blend"] is Blending


@pytest.mark.parametrize("step", [RemoveChannels(ratio=0.5), RemoveChannels(target_macs=0.6, scope="global")])
def test_what_goes_is_what_the_best_blend_was_judged_by(step: RemoveChannels, tmp_path: Path) -> None:
    graph, data = pictured()
    out, state = tmp_path / "blend.json", tmp_path / "search.json"
    options: dict[str, Any] = {"ratio": step.ratio, "scope": step.scope}
    targets = fxprune.Targets(macs=step.target_macs)
    criterion = Blending(QUICK, state, out)
    plan = fxprune.choose(graph, "channels", targets, criterion=criterion, data=data, **options)
    judge = judged(step)
    expected = evolved(judge, QUICK)
    assert Blend.load(out) == expected
    assert plan.indices == judge.choice(expected.factors)
    assert plan.criterion == "blend"
    assert state.exists()


def test_the_pass_takes_it_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, data = pictured()
    monkeypatch.setattr(blending, "evolved", lambda judge, settings, **more: evolved(judge, FEW, **more))
    result = RemoveChannels(ratio=0.5, criterion="blend", data=data)(graph)
    assert any("worth least by blend" in one.why for one in result.rewritten)


def test_nothing_is_searched_where_nobody_says_how_much_goes() -> None:
    graph, data = pictured()
    layered = fxprune.trace(TinyNet(), torch.randn(2, 3, 8, 8))
    with pytest.raises(
        fxprune.FxpruneError, match="criterion blend is searched for how much is to go: take it in Re"
    ):
        channel_scores(graph, "blend", Samples(data))
    with pytest.raises(fxprune.FxpruneError, match=r"criterion blend scores channels only, and .* is a conv"):
        fxprune.choose(layered, "convs,channels", fxprune.Targets(macs=0.5), criterion="blend")


def test_labels_are_needed() -> None:
    graph, data = pictured()
    for given in (None, [images for images, _ in data]):
        with pytest.raises(fxprune.FxpruneError, match="criterion blend needs labels: give data= as pairs"):
            fxprune.choose(graph, ratio=0.5, criterion="blend", data=given)
