"""What was measured is found again, of this machine and these versions alone."""

from __future__ import annotations

from pathlib import Path

import pytest

import fxprune
from fxprune.costs.latency.conditions import Conditions
from fxprune.costs.latency.latency_cache import LatencyCache, cache_folder
from fxprune.costs.latency.latency_table import Family
from fxprune.costs.latency.timing import Timing
from fxprune.errors import FxpruneWarning, LoadError

FAMILY = Family(points={(8, 16): Timing(1.5, 0.01, 12)})


def kept(folder: Path) -> LatencyCache:
    cache = LatencyCache(Conditions(), folder)
    cache.families["conv"] = FAMILY
    cache.networks["net"] = {"fit": None}
    cache.keep()
    return cache


def test_it_is_read_back(tmp_path: Path) -> None:
    kept(tmp_path / "new" / "folder")
    again = LatencyCache(Conditions(), tmp_path / "new" / "folder")
    assert again.families == {"conv": FAMILY}
    assert again.networks == {"net": {"fit": None}}


def test_other_conditions_have_a_file_of_their_own(tmp_path: Path) -> None:
    path = kept(tmp_path).path
    other = LatencyCache(Conditions(threads=2), tmp_path)
    assert other.path != path
    assert not other.families


def test_another_version_measures_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(tmp_path)
    monkeypatch.setattr(fxprune, "__version__", "9.9")
    assert not LatencyCache(Conditions(), tmp_path).families


@pytest.mark.parametrize("damage", ["", "{", "[]", "null"])
def test_a_damaged_file_is_measured_anew(tmp_path: Path, damage: str) -> None:
    path = kept(tmp_path).path
    assert path is not None
    path.write_text(damage)
    with pytest.warns(FxpruneWarning, match=rf"^the latencies in {path} cannot be read, and are measured anew: "):
        cache = LatencyCache(Conditions(), tmp_path)
    assert not cache.families
    path.unlink()
    kept(tmp_path)
    assert LatencyCache(Conditions(), tmp_path).families


def test_nothing_is_kept_without_a_folder() -> None:
    assert cache_folder(False) is None
    assert LatencyCache(Conditions(), None).path is None
    kept_in = cache_folder(True)
    assert kept_in is not None
    assert kept_in.parent.name == "fxprune"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LoadError, match="cannot write"):
        kept(tmp_path / "file" / "below")
