"""The folder of a run: who may write to it, and which run may go on in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fxprune.errors import FxpruneError, LoadError, TargetError
from fxprune.training.folder import open_folder
from fxprune.training.settings import Settings

QUICK = Settings(epochs=1, batch_size=512, device="cpu")
RUN = {"model": "net", "weights_sha256": "0a"}


def test_one_process_at_a_time(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with open_folder(out, RUN), pytest.raises(LoadError, match="another process is at work"), open_folder(out, RUN):
        pass
    with open_folder(tmp_path / "out", RUN):
        assert (tmp_path / "out" / "run.json").exists()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"run.json"}


def test_a_refused_run_leaves_nothing_behind(tmp_path: Path) -> None:
    for out in (tmp_path / "new", tmp_path):
        with pytest.raises(TargetError), open_folder(out, RUN):
            raise TargetError("too much")
    assert not any(tmp_path.iterdir())


def test_what_was_trained_stays_when_a_run_fails(tmp_path: Path) -> None:
    def fail() -> None:
        (tmp_path / "checkpoint.pt").touch()
        raise FxpruneError("the loss became nan")

    with pytest.raises(FxpruneError), open_folder(tmp_path, RUN):
        fail()
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "checkpoint.pt"}


def test_weights_that_changed_are_another_run(tmp_path: Path) -> None:
    with open_folder(tmp_path / "out", RUN):
        (tmp_path / "out" / "checkpoint.pt").touch()
    with (
        pytest.raises(LoadError, match="a file of weights has changed since it began"),
        open_folder(tmp_path / "out", {**RUN, "weights_sha256": "0b"}),
    ):
        pass


def test_a_run_goes_on_that_is_older_than_a_setting(tmp_path: Path) -> None:
    out = tmp_path / "out"
    older = {name: value for name, value in {**RUN, **QUICK.shared()}.items() if name != "distill_features"}
    with open_folder(out, older):
        pass
    (out / "checkpoint.pt").touch()
    with open_folder(out, {**RUN, **QUICK.shared()}):
        pass
    changed = {**RUN, **replace(QUICK, distill_features=1.0).shared()}
    with pytest.raises(LoadError, match=r"distill_features 0\.0, not 1\.0"), open_folder(out, changed):
        pass


def test_widths_that_are_not_chosen_yet_may_be_asked_for_otherwise(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = {**RUN, "method": "ucp", "alpha": 3.0, "target_macs": None}
    with open_folder(out, first):
        (out / "attention.pt").touch()
    other = {**first, "alpha": None, "target_macs": 0.5}
    with open_folder(out, other):
        pass
    (out / "widths.json").touch()
    with pytest.raises(LoadError, match=r"unfinished run with alpha None, not 3\.0"), open_folder(out, first):
        pass
    with pytest.raises(LoadError, match="unfinished run with method ucp, not None"), open_folder(out, RUN):
        pass
