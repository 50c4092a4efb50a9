"""Whoever reads an emitted folder sees the old network, the new one, or a line that refuses."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from emit_helpers import rewrite
from helpers import load_source
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import fx, nn

import fxprune
from fxprune.costs.macs import total_macs
from fxprune.emission.seal import FILES
from fxprune.errors import EmitError, LoadError
from fxprune.facts.shapes import tensor_meta

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


def network(kind: str) -> fx.GraphModule:
    """Two networks of one layout, so that the weights of one fit the other."""
    torch.manual_seed(len(kind))
    activation = nn.Tanh() if kind == "old" else nn.ReLU()
    return fxprune.trace(nn.Sequential(nn.Linear(4, 4), activation, nn.Linear(4, 4)).eval(), X)


def require_one_of(folder: Path, expected: list[torch.Tensor]) -> int:
    """Assert that both readers refuse, or compute one of ``expected``; return how many read it."""
    found, refusals = [], []
    for load in (fxprune.load_emitted, load_source):
        try:
            found.append(load(folder)(X))
        except (LoadError, ValueError, FileNotFoundError) as error:
            refusals.append(str(error))
    assert not any("\n" in refusal for refusal in refusals)
    assert all(any(torch.equal(one, y) for y in expected) for one in found)
    assert len({y.sum().item() for y in found}) <= 1
    return len(found)


class Killed(BaseException):
    """What no one catches."""


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("survived", range(4))
def test_a_kill_at_any_step_leaves_no_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survived: int, fresh: bool
) -> None:
    old, new = network("old"), network("newer")
    if not fresh:
        fxprune.emit(old, tmp_path)
    replace, done = os.replace, 0

    def dying(source: Any, target: Any) -> None:
        nonlocal done
        if done == survived:
            raise Killed
        done += 1
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # the dead clean nothing up
        if survived < 3:
            with pytest.raises(Killed):
                fxprune.emit(new, tmp_path)
        else:
            fxprune.emit(new, tmp_path)
    readers = require_one_of(tmp_path, [old(X), new(X)])
    assert readers == (0 if 0 < survived < 3 or (fresh and not survived) else 2)
    fxprune.emit(new, tmp_path)
    assert require_one_of(tmp_path, [new(X)]) == 2


def test_a_killed_process_leaves_the_old_network(tmp_path: Path) -> None:
    fxprune.emit(network("old"), tmp_path / "out")
    code = """
        import os, signal, sys, torch, fxprune
        replace = os.replace
        def dying(source, target):
            if "weights" in str(target):
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)
        os.replace = dying
        graph = fxprune.trace(torch.nn.Sequential(torch.nn.Linear(4, 4)).eval(), torch.randn(2, 4))
        fxprune.emit(graph, sys.argv[1])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "out")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert require_one_of(tmp_path / "out", []) == 0
    fxprune.emit(network("old"), tmp_path / "out")
    assert require_one_of(tmp_path / "out", [network("old")(X)]) == 2


@pytest.mark.parametrize("first", ["old", "newer"])
def test_files_of_two_writers_are_no_network(tmp_path: Path, first: str) -> None:
    kinds = {"old", "newer"}
    for kind in kinds:
        fxprune.emit(network(kind), tmp_path / kind)
    (other,) = kinds - {first}
    for name in ("model.py", "weights.safetensors", "graph.json"):
        mixed = tmp_path / f"{name}.mixed"
        shutil.copytree(tmp_path / first, mixed)
        shutil.copy(tmp_path / other / name, mixed / name)
        assert require_one_of(mixed, []) == 0


@pytest.mark.parametrize("name", ["graph.json", "model.py", "weights.safetensors", "model.pt2"])
def test_a_bit_that_flipped_is_found(tmp_path: Path, name: str) -> None:
    graph = network("old")
    fxprune.emit(graph, tmp_path, formats=("pt2",) if name == "model.pt2" else ())
    whole = (tmp_path / name).read_bytes()
    choose = random.Random(0)
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[choose.randrange(len(damaged))] ^= 1 << choose.randrange(8)
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(LoadError, match=r"not a whole emitted folder|schema"):
            fxprune.load_emitted(tmp_path)
        if name in ("model.py", "weights.safetensors"):
            with pytest.raises((ValueError, SyntaxError, NameError, AttributeError, ImportError, TypeError, OSError)):
                load_source(tmp_path)


def test_exports_of_an_earlier_network_go(tmp_path: Path) -> None:
    fxprune.emit(network("old"), tmp_path, formats=("pt2",))
    assert (tmp_path / "model.pt2").exists()
    fxprune.emit(network("newer"), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"model.py", "weights.safetensors", "graph.json"}


def test_an_edited_source_is_used_once_the_graph_is_gone(tmp_path: Path) -> None:
    graph = network("old")
    fxprune.emit(graph, tmp_path)
    (tmp_path / "model.py").write_text((tmp_path / "model.py").read_text() + "\n# mine\n")
    with pytest.raises(ValueError, match=r"not written with graph\.json; remove that one to use it as it is"):
        load_source(tmp_path)
    (tmp_path / "graph.json").unlink()
    assert torch.equal(load_source(tmp_path)(X), graph(X))


def test_links_are_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    fxprune.emit(network("old"), tmp_path / "out")
    for name in FILES:
        (tmp_path / "out" / f"{name}.new").symlink_to(victim)
    for name in ("model.py", "weights.safetensors"):
        (tmp_path / "out" / name).unlink()
        (tmp_path / "out" / name).symlink_to(victim)
    fxprune.emit(network("newer"), tmp_path / "out")
    assert victim.read_text() == "mine"
    assert require_one_of(tmp_path / "out", [network("newer")(X)]) == 2


def test_a_full_disk_is_one_line_and_the_old_network_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = network("old")
    fxprune.emit(old, tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(EmitError, match=r"cannot write .*: No space left on device"):
            fxprune.emit(network("newer"), tmp_path)
    assert require_one_of(tmp_path, [old(X)]) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"model.py", "weights.safetensors", "graph.json"}


@pytest.mark.parametrize("where", ["file/out", "file"])
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(EmitError, match="cannot write"):
        fxprune.emit(network("old"), tmp_path / where)


def test_shapes_are_told_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network("old")
    fxprune.emit(graph, tmp_path)
    again = fxprune.load_emitted(tmp_path)
    for one, two in zip(graph.graph.nodes, again.graph.nodes, strict=True):
        assert tensor_meta(one) == tensor_meta(two)
    rewrite(tmp_path, insert_call("torch.zeros", [1 << 60]))
    untouched = fxprune.load_emitted(tmp_path)
    assert len(untouched.graph.nodes) == len(graph.graph.nodes) + 1


@pytest.mark.parametrize("need", [total_macs, fxprune.passes.Simplify(), lambda g: fxprune.diff(g, network("old"))])
def test_shapes_that_are_wrong_are_found_when_they_are_needed(tmp_path: Path, need: Callable[[Any], Any]) -> None:
    fxprune.emit(network("old"), tmp_path)
    rewrite(tmp_path, lambda data: data["nodes"][1]["value"]["tensor"].__setitem__(0, [2, 400]))
    graph = fxprune.load_emitted(tmp_path)
    with pytest.raises(LoadError, match="another shape or dtype than it says"):
        need(graph)


def insert_call(target: str, args: list[Any]) -> Callable[[dict[str, Any]], None]:
    """Return a change that puts a call nobody reads into the graph."""
    entry = {"name": "more", "op": "call_function", "target": target, "args": args, "kwargs": {}}
    return lambda data: data["nodes"].insert(1, {**entry, "path": "", "origin": [], "passes": []})


def insert_read(target: str) -> Callable[[dict[str, Any]], None]:
    """Return a change that puts a read of a tensor into the graph."""
    entry = {"name": "more", "op": "get_attr", "target": target, "args": [], "kwargs": {}}
    return lambda data: data["nodes"].insert(1, {**entry, "path": "", "origin": [], "passes": []})


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (insert_call("list", [{"range": [0, 3 * 10**8, 1]}]), "range of 300000000 numbers"),
        (insert_call("list", [nested(200)]), "nested deeper than"),
        (insert_call("abs", [10**30]), "whole number of more than 64 bits"),
        (insert_call("abs", ["a" * 10**6]), "text of more than"),
        (lambda data: data["layers"]["0"]["arguments"].update(in_features=10**7, out_features=10**7), "does not fit"),
        (lambda data: (data["tensors"].update(t=tensor([10**9, 10**9])), insert_read("t")(data)), "missing there"),
        (
            lambda data: data["layers"].update(more=layer("LSTM", input_size=1, hidden_size=1, num_layers=10**9)),
            "num_layers over",
        ),
        (
            lambda data: data.update(examples={"tuple": [{"tensor": [[10**9, 10**9], "torch.float32"]}]}),
            "of more than",
        ),
        (lambda data: data["nodes"][1].update(target="0.forward"), "calls '0.forward', which is no layer"),
        (lambda data: data["ties"].update({"0.again": "0", "0.again.again": "0"}), "."),
        (lambda data: data["layers"].update(training=data["layers"]["0"]), "where modules keep what is their own"),
    ],
)
def test_a_folder_cannot_ask_for_more_than_it_holds(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    fxprune.emit(network("old"), tmp_path)
    rewrite(tmp_path, change)
    with pytest.raises(LoadError, match=message):
        fxprune.load_emitted(tmp_path)


def tensor(shape: list[int]) -> dict[str, Any]:
    return {"shape": shape, "dtype": "torch.float32", "parameter": True, "trainable": True}


def layer(kind: str, **arguments: Any) -> dict[str, Any]:
    plain = {"dtype": None, "frozen": [], "all_frozen": False, "positional": list(arguments)}
    return {"kind": kind, "arguments": arguments, **plain}


def test_deep_json_is_one_line(tmp_path: Path) -> None:
    fxprune.emit(network("old"), tmp_path)
    (tmp_path / "graph.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(LoadError, match="nested too deeply"):
        fxprune.load_emitted(tmp_path)


ODD: list[Any] = [
    None,
    True,
    -1,
    10**9,
    0.5,
    "",
    "x",
    "class",
    [],
    {},
    [[]],
    {"node": "x"},
    {"tuple": 3},
    {"range": "ab"},
]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every container in a nest with each of its keys."""
    if not isinstance(value, (dict, list)):
        return []
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


@pytest.fixture(scope="module")
def emitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("emitted")

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.gamma = nn.Parameter(torch.ones(4, 1, 1))
            self.last = nn.Linear(4, 4)
            self.tied = nn.Linear(4, 4)
            self.tied.weight = self.last.weight

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
            y = (self.norm(self.conv(x)) * self.gamma)[..., 1:].mean((2, 3)).view(x.size(0), -1)
            return self.tied(self.last(y)).clamp(max=float("inf")), x.shape[0]

    fxprune.emit(fxprune.trace(Mixed().eval(), torch.randn(2, 3, 6, 6)), folder)
    return folder


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_misshapen_data_is_one_line(emitted: Path, data: st.DataObject) -> None:
    whole = (emitted / "graph.json").read_text()

    def change(content: dict[str, Any]) -> None:
        for _ in range(data.draw(st.integers(1, 3))):
            owner, key = data.draw(st.sampled_from(places(content)))
            if data.draw(st.booleans()):
                del owner[key]
            else:
                owner[key] = copy.deepcopy(data.draw(st.sampled_from(ODD)))  # a later change may be inside it
            if not content:
                return

    try:
        rewrite(emitted, change)
        assert outcome(emitted) == [] or "\n" not in outcome(emitted)[0]
    finally:
        (emitted / "graph.json").write_text(whole)


def outcome(folder: Path) -> list[str]:
    """Return the message of the LoadError that reading ``folder`` ends in; none if it does not."""
    try:
        total_macs(fxprune.load_emitted(folder))
    except LoadError as error:
        return [str(error)]
    return []


def test_whole_data_stays_readable(emitted: Path) -> None:
    assert json.loads((emitted / "graph.json").read_text())["schema"] == 3
    fxprune.load_emitted(emitted)
