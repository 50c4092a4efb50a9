"""Files that are whole or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fxprune.errors import LoadError
from fxprune.files import (
    append_line,
    make_folder,
    remove_unfinished,
    replacing,
    save_with_torch,
    write_json,
    write_text,
)


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "some.txt"
    write_text(path, "old")

    def be_cut_short() -> None:
        with replacing(path) as unfinished:
            unfinished.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        be_cut_short()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_json_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert path.read_text() == '{\n  "a": 1\n}\n'


WRITERS: list[Callable[[Path], None]] = [
    lambda path: write_text(path, "new"),
    lambda path: write_json(path, {"a": 1}),
    lambda path: save_with_torch(path, {"a": torch.ones(3)}),
    lambda path: append_line(path, "new"),
    lambda path: make_folder(path / "folder"),
]


@pytest.mark.parametrize("writer", WRITERS)
def test_what_the_disk_refuses_is_one_line(tmp_path: Path, writer: Callable[[Path], None]) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(
        LoadError, match=r"^cannot write .*file/some: Not a directory$|file/some/folder: Not a directory$"
    ):
        writer(tmp_path / "file" / "some")


def test_a_disk_that_is_full_while_torch_writes(tmp_path: Path) -> None:
    class Full:
        """Stands for what fails to be pickled to a full disk."""

        def __reduce__(self) -> str:
            raise OSError(28, "No space left on device")

    write_text(tmp_path / "a.pt", "old")
    with pytest.raises(LoadError, match="No space left on device"):
        save_with_torch(tmp_path / "a.pt", Full())
    assert (tmp_path / "a.pt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_no_name_of_what_is_unfinished_is_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("some.txt", "some.txt.new", ".some.txt.new"):
        (tmp_path / name).symlink_to(victim)
    write_text(tmp_path / "some.txt", "new")
    assert victim.read_text() == "mine"
    assert (tmp_path / "some.txt").read_text() == "new"
    assert not (tmp_path / "some.txt").is_symlink()


def test_what_a_kill_left_goes_and_what_others_write_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "some.txt") as unfinished:
        raise KeyboardInterrupt
    monkeypatch.undo()
    write_text(tmp_path / "some.txt", "new")
    assert unfinished.parent.is_dir()  # it is young: somebody may be at it
    os.utime(unfinished.parent, (0, 0))
    write_text(tmp_path / "some.txt", "newer")
    assert [path.name for path in tmp_path.iterdir()] == ["some.txt"]


def test_a_link_by_the_name_of_what_is_unfinished_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    (tmp_path / ".fxprune-link").symlink_to(tmp_path / "mine")
    remove_unfinished(tmp_path)
    assert (tmp_path / "mine" / "file").exists()
