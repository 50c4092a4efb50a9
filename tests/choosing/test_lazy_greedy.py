"""The least missed layer, found with few measurements."""

from __future__ import annotations

from fxprune.choosing.search.lazy_greedy import LazyGreedy


def search(
    weights: dict[str, float], known: dict[str, float], damages: dict[str, float], may_go: str = "abcd"
) -> tuple[str | None, list[str]]:
    measured: list[str] = []

    def missed(path: str) -> float:
        measured.append(path)
        return damages[path]

    return LazyGreedy().next_layer(weights, known, missed, may_go.__contains__, lambda done, of: None), measured


def test_all_are_measured_where_nothing_is_known() -> None:
    known: dict[str, float] = {}
    damages = {"a": 3.0, "b": 1.0, "c": 2.0}
    assert search({"a": 1.0, "b": 4.0, "c": 1.0}, known, damages) == ("c", ["a", "b", "c"])
    assert known == damages


def test_what_was_missed_more_is_not_measured_again() -> None:
    known = {"a": 0.1, "b": 0.3, "c": 9.0}
    assert search(dict.fromkeys("abc", 1.0), known, {"a": 0.5, "b": 0.4}) == ("b", ["a", "b"])
    assert known == {"a": 0.5, "b": 0.4, "c": 9.0}


def test_the_first_of_equals_goes() -> None:
    assert search(dict.fromkeys("bac", 1.0), {}, dict.fromkeys("abc", 0.5))[0] == "b"


def test_only_what_may_go_is_measured() -> None:
    weights, damages = dict.fromkeys("abc", 1.0), {"a": 1.0, "b": 2.0, "c": 3.0}
    assert search(weights, {}, damages, may_go="bc") == ("b", ["b", "c"])
    assert search(weights, {}, damages, may_go="") == (None, [])


def test_layers_whose_removal_changes_a_shape_may_be_all_that_is_left() -> None:
    assert search({"a": 1.0}, {}, {"a": float("inf")})[0] == "a"
