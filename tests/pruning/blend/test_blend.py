"""The search for a blend: what it finds, that it goes on as if nothing had happened, what it says and refuses."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from blend_nets import NORMED, PLAIN, POOL, QUICK, judged, pictured

import fxprune
from fxprune.choosing.blend_record import SearchRecord
from fxprune.choosing.criterion_blend import Blend
from fxprune.pruning.blend.genes import Genome
from fxprune.pruning.blend.judge import Judge
from fxprune.pruning.blend.search import BlendSettings, evolved, first_generation, search_blend

pytestmark = pytest.mark.filterwarnings("ignore:a blend is chosen by top-1 on:fxprune.errors.FxpruneWarning")


def test_it_finds_a_blend_that_is_as_good_as_it_says(tmp_path: Path) -> None:
    graph, data = pictured()
    found = search_blend(graph, data, ratio=0.5, settings=QUICK, state=tmp_path / "search.json")
    assert set(found.factors) == {NORMED, PLAIN}
    assert judged().top1(found.factors) == found.top1
    record = SearchRecord.load(tmp_path / "search.json")
    assert found.top1 == max(max(one.top1) for one in record.generations)
    best = [max(one.top1) for one in record.generations]
    assert best == sorted(best)
    assert [len(one.genes) for one in record.generations] == [4, 4, 4]
    assert fxprune.choose(graph, ratio=0.5, criterion=found, data=data).sites


def test_it_starts_from_the_uniform_blend_and_each_criterion() -> None:
    judge = judged()
    genome = Genome(judge.clusters)
    found = first_generation(genome, judge, 6)
    assert found[:5] == [genome.uniform(), *map(genome.single, POOL)]
    assert first_generation(genome, judge, 6) == found
    assert len(first_generation(genome, judge, 3)) == 3


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [2, 4, 9])
def test_what_was_killed_goes_on_as_if_nothing_had_happened(after: int, tmp_path: Path) -> None:
    whole = evolved(judged(), QUICK, state=tmp_path / "whole.json")
    state = tmp_path / "search.json"

    def killing(done: int, of: int) -> None:
        if done == after:
            raise Killed

    with pytest.raises(Killed):
        evolved(judged(), QUICK, state=state, progress=killing)
    told: list[tuple[int, int]] = []
    found = evolved(judged(), QUICK, state=state, progress=lambda *one: told.append(one))
    assert found == whole
    assert told == [(one, 12) for one in range(after // 4 * 4, 12)]
    assert state.read_text() == (tmp_path / "whole.json").read_text()


def test_more_generations_go_on_from_fewer(tmp_path: Path) -> None:
    state = tmp_path / "search.json"
    few = BlendSettings(population=4, generations=1, pool=POOL)
    first = evolved(judged(), few, state=state)
    more = evolved(judged(), QUICK, state=state)
    assert more == evolved(judged(), QUICK)
    assert evolved(judged(), few, state=state) == first


def test_seeds_say_what_comes() -> None:
    graph, data = pictured()
    runs = [search_blend(graph, data, ratio=0.5, settings=QUICK, seed=seed) for seed in (0, 0, 1)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_the_state_of_another_search_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "search.json"
    graph, data = pictured()
    few: dict[str, Any] = {"settings": BlendSettings(population=3, generations=1, pool=POOL), "state": state}
    search_blend(graph, data, ratio=0.5, **few)
    before = state.read_text()
    for given, message in (
        ({"ratio": 0.4}, 'ratio is "0.5" there and "0.4" here'),
        ({"ratio": 0.5, "seed": 1}, "images is "),
        ({"targets": fxprune.Targets(macs=0.5)}, 'ratio is "0.5" there and "None" here'),
        ({"ratio": 0.5, **few, "settings": QUICK}, "population is 3 there and 4 here"),
    ):
        with pytest.raises(fxprune.FxpruneError, match=f"search.json is of another search: {message}"):
            search_blend(graph, data, **{**few, **given})
    graph.get_parameter("head.weight").data += 1
    with pytest.raises(fxprune.FxpruneError, match="of another search: weights is "):
        search_blend(graph, data, ratio=0.5, **few)
    assert state.read_text() == before


@pytest.mark.parametrize("change", ["short", "high", "text", "group", "criterion"])
def test_a_damaged_state_is_refused(change: str, tmp_path: Path) -> None:
    state = tmp_path / "search.json"
    few = BlendSettings(population=3, generations=1, pool=POOL)
    evolved(judged(), few, state=state)
    content = json.loads(state.read_text())
    genes, clusters = content["generations"][0]["genes"], content["clusters"]
    if change == "short":
        genes[1].pop()
    elif change in ("high", "text"):
        genes[1][0] = {"high": 1.5, "text": "x"}[change]
    elif change == "group":
        clusters.pop()
    else:
        clusters[0]["members"][0][0] = "l3"
    state.write_text(json.dumps(content))
    with pytest.raises(fxprune.FxpruneError, match="is a damaged search: its genes are not those of its clusters"):
        evolved(judged(), few, state=state)


def test_it_says_how_long_it_will_take(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "fxprune.pruning"):
        evolved(judged(), QUICK)
    messages = [one.getMessage() for one in caplog.records]
    assert messages[: len(POOL)] == [f"scoring the channels by {name}" for name in POOL]
    assert messages[len(POOL)] == "blend: generation 1, best top-1 0.0%, 1 of 12"
    assert messages[-1].startswith("blend: generation 3, best top-1 ")
    assert ", 12 of 12, about " in messages[-1]
    shares = [one.share for one in caplog.records if hasattr(one, "share")]
    assert shares == [one / 12 for one in range(12)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"population": 2}, "population of a blend is 3 at least; got 2"),
        ({"generations": 0}, "generations of a blend is 1 at least; got 0"),
        ({"population": 2.5}, "BlendSettings takes a whole number for population, got float 2.5"),
    ],
)
def test_wrong_settings_are_named(given: Any, message: str) -> None:
    with pytest.raises(fxprune.FxpruneError, match=message):
        BlendSettings(**given)


def test_wrong_arguments_are_named() -> None:
    graph, data = pictured()
    for given, message in (
        ({}, "search_blend takes targets, or a ratio of channels: how much is to go"),
        ({"ratio": 0.5, "criterion": "l1"}, "search_blend has no option 'criterion'"),
        ({"ratio": 0.5, "settings": 3}, "search_blend takes a BlendSettings for settings, got int 3"),
    ):
        with pytest.raises(fxprune.FxpruneError, match=message):
            search_blend(graph, data, **given)
    with pytest.raises(fxprune.FxpruneError, match="search_blend takes a graph, got int; "):
        search_blend(3, data, ratio=0.5)  # type: ignore[arg-type]


def test_what_was_found_is_saved_and_read(tmp_path: Path) -> None:
    found = evolved(judged(), BlendSettings(population=3, generations=1, pool=POOL))
    found.save(tmp_path / "blend.json")
    assert Blend.load(tmp_path / "blend.json") == found
    assert isinstance(judged(), Judge)
