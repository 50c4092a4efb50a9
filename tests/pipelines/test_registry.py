"""The text form of pipelines, and what is said when it is wrong."""

from __future__ import annotations

import inspect
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import fxprune
from fxprune import passes
from fxprune.errors import FxpruneWarning, PassSpecError
from fxprune.pipelines.registry import GROUP, known_passes, parse_passes

ROOT = Path(__file__).parents[2]


def test_names_and_options() -> None:
    text = (
        "insert-resconv{shortcut=1.0, parametrization=free}, fuse-resconv,remove-layers{target_macs=0.5, kinds=conv}"
    )
    assert parse_passes(text) == [
        passes.InsertResConv(shortcut=1.0, parametrization="free"),
        passes.FuseResConv(),
        passes.RemoveLayers(target_macs=0.5, kinds=("conv",)),
    ]
    assert parse_passes("insert-resconv{keep=layer4.*, keep='*.conv[13]', only=backbone}") == [
        passes.InsertResConv(keep=("layer4.*", "*.conv[13]"), only=("backbone",))
    ]
    assert parse_passes("remove-layers{threshold=1, target-macs=none}") == [passes.RemoveLayers(threshold=1.0)]
    both = passes.RemoveLayers(kinds=("conv", "branch"))
    assert parse_passes("remove-layers{kinds=conv, kinds='branch'},remove-layers") == [both, passes.RemoveLayers()]


def test_a_name_of_before_takes_no_kinds_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match="remove-layers{kinds=conv}"):
        assert parse_passes("remove-resconvs{threshold=1}")[0].name == "remove-resconvs"
    with pytest.raises(PassSpecError, match="pass remove-branches has no option 'kinds'"):
        parse_passes("remove-branches{kinds=conv}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fuse-resconvs", "did you mean 'fuse-resconv'"),
        ("insert-resconv{shortcuts=1}", "did you mean 'shortcut'"),
        ("fuse-resconv{fast=1}", "its options: none"),
        ("insert-resconv{shortcut}", "has no value"),
        ("insert-resconv{shortcut=much}", "is a float"),
        ("insert-resconv{parametrization=gates}", "one of gain-gate, free"),
        ("remove-layers{target_macs=7}", "share of MACs"),
        ("remove-layers{kinds=convs}", "did you mean 'conv'"),
        ("fuse-resconv;simplify", "cannot read"),
        ("", "no passes given"),
    ],
)
def test_errors_say_what_to_write(text: str, message: str) -> None:
    with pytest.raises(fxprune.FxpruneError, match=message):
        parse_passes(text)


def test_an_unknown_pass_is_a_spec_error() -> None:
    with pytest.raises(PassSpecError):
        parse_passes("nothing-like-it")


def test_a_package_whose_pass_cannot_be_loaded_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("drop-all", "no_such_package:DropAll", GROUP)
    monkeypatch.setattr("fxprune.joined.entry_points", lambda group: [broken])
    known_passes.cache_clear()
    try:
        with pytest.warns(FxpruneWarning, match="pass drop-all cannot be loaded: No module named 'no_such_package'"):
            assert "simplify" in known_passes()
    finally:
        known_passes.cache_clear()


def test_every_pass_is_listed_documented_and_tested() -> None:
    files = {path.stem for path in (ROOT / "passes").glob("*.py")} - {"__init__", "chains"}
    own = [getattr(passes, name) for name in passes.__all__]
    known = {kind.name: kind for kind in own}
    assert known.items() <= known_passes().items()
    assert {name.replace("-", "_") for name in known} == files
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for kind in known.values():
        assert (inspect.getdoc(kind) or "").splitlines()[0].endswith(".")
        assert f"passes.{kind.__name__}(" in tests
