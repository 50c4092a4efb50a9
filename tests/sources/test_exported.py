"""Files of torch.export are read when they are trusted, and never otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TinyNet, assert_accounts

import fxprune
from fxprune.costs.macs import total_macs, total_params
from fxprune.errors import LoadError
from fxprune.sources.exported import load_exported

# torch.export reads and writes its own deprecated type
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("exported") / "model.pt2"
    program = torch.export.export(TinyNet().eval(), (torch.randn(2, 3, 8, 8),))
    torch.export.save(program, path)
    return path


def test_a_trusted_file_has_shapes_costs_and_paths(file: Path) -> None:
    graph = load_exported(file, trust=True)
    assert total_macs(graph) == 93_342
    assert total_params(graph) == 1_553
    found = fxprune.diff(graph, load_exported(file, trust=True))
    assert not found.differs
    assert_accounts(graph, graph, found)
    conv = next(change.main for change in found.changes if change.main.path == "block1.conv1")
    assert (conv.op, conv.shape, conv.macs) == ("conv2d", (2, 6, 8, 8), 20_736)


def test_nothing_is_read_without_trust(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the file was opened")

    monkeypatch.setattr(torch.export, "load", never)
    with pytest.raises(LoadError, match="can run code when it is read; give --trust"):
        load_exported(file, trust=False)


def test_what_is_no_such_file(file: Path, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="there is no file"):
        load_exported(tmp_path / "none.pt2", trust=True)
    short = tmp_path / "short.pt2"
    short.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(LoadError, match=r"no \.pt2 file, or cut short"):
        load_exported(short, trust=True)
    other = tmp_path / "other.pt2"
    torch.save({"a": torch.ones(1)}, other)
    with pytest.raises(LoadError, match="torch cannot read"):
        load_exported(other, trust=True)
