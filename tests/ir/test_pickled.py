"""A graph that torch.save wrote is read in another process as it was: what it computes, in either mode, and notes."""

from __future__ import annotations

import copy
import importlib
import io
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Wrapped, example, tiny, traced
from torch import fx

import fxprune
from fxprune import passes
from fxprune.errors import EmitError, FxpruneError, LoadError
from fxprune.ir.nodes import graphs_of, node_count

pytestmark = pytest.mark.filterwarnings("ignore:.* is opaque and hides:fxprune.errors.FxpruneWarning")

MODELS = """
from collections import namedtuple
import torch
from torch import nn
from torch.nn import functional as F

Out = namedtuple("Out", "y n")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.register_buffer("mask", torch.ones(4, 1, 1))

    def forward(self, x):
        return self.norm(self.conv(x)) + x


class Dropping(Net):
    def forward(self, x):
        return F.dropout(super().forward(x), 0.4, self.training)


class Depth(Net):
    def __init__(self):
        super().__init__()
        from torchvision.ops import StochasticDepth
        self.depth = StochasticDepth(0.5, "row")

    def forward(self, x):
        return self.depth(super().forward(x)) + x


class OnSizes(Net):
    def forward(self, x):
        y = super().forward(x)
        if x.shape[2] % 2 or x.size(1) != 4:
            y = y[:, :, 1:]
        return y.reshape(x.size(0), -1) + self.mask


class OfBuffers(Net):
    def forward(self, x):
        return super().forward(x) * self.mask.sum()


class WithoutGrad(Net):
    def forward(self, x):
        with torch.no_grad():
            scale = x.abs().mean()
        return super().forward(x) * scale


class Noisy(Net):
    def forward(self, x):
        return super().forward(x) + 0 * torch.rand(x.shape[0], 4, 1, 1)


class Many(Net):
    def forward(self, x):
        n = x.shape[2] // 2
        y = super().forward(x).contiguous(memory_format=torch.channels_last)[..., n:, 1:-1]
        return Out(F.max_pool2d(y, 2) if y.dim() == 4 else y, {"n": [n, y.to(torch.float64)]})


class Deciding(Net):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), Dropping())

    def forward(self, x):
        y = self.body(x)
        return y if x.sum() > -1e9 else -y
"""
NAMES = ("Net", "Dropping", "Depth", "OnSizes", "OfBuffers", "WithoutGrad", "Noisy", "Many", "Deciding")
READ = """
import sys
if sys.argv[1] == "plain":
    sys.modules["fxprune"] = None
import torch
for name in sys.argv[2:]:
    x, outputs, gradient, notes = torch.load(f"{name}.expected", weights_only=True)
    graph, found = torch.load(f"{name}.pt", weights_only=False), []
    for training in (False, True):
        torch.manual_seed(0)
        found.append(graph.train(training)(x))
    assert str(found) == outputs, name
    graph = torch.load(f"{name}.pt", weights_only=False).eval()
    torch.manual_seed(0)
    y = graph(x.requires_grad_())
    (y[0] if isinstance(y, tuple) else y).sum().backward()
    assert torch.equal(x.grad, gradient), name
    if sys.argv[1] == "plain":
        assert type(graph).__mro__[1] is torch.fx.GraphModule
        assert not any(key.startswith("fxprune.") for key in sys.modules)
    else:
        sys.path[:0] = sys.argv[1].split(":")
        from test_pickled import notes as notes_of
        assert notes_of(graph) == notes, name
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "saved_models.py").write_text(MODELS)
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("saved_models")
    finally:
        sys.path.remove(str(folder))


def graph_of(models: Any, name: str) -> fx.GraphModule:
    torch.manual_seed(0)
    return fxprune.trace(getattr(models, name)().eval(), torch.randn(2, 4, 6, 6))


def save(graph: fx.GraphModule, folder: Path, name: str) -> None:
    """Save ``graph``, and beside it what reading it must give: values in both modes, a gradient, all notes."""
    torch.save(graph, folder / f"{name}.pt")
    x, given, outputs = torch.randn(3, 4, 6, 6), copy.deepcopy(graph), []
    for training in (False, True):
        torch.manual_seed(0)
        outputs.append(given.train(training)(x))
    given, leaf = copy.deepcopy(graph).eval(), x.clone().requires_grad_()
    torch.manual_seed(0)
    found = given(leaf)
    (found[0] if isinstance(found, tuple) else found).sum().backward()
    torch.save((x, str(outputs), leaf.grad, notes(graph)), folder / f"{name}.expected")


def notes(graph: fx.GraphModule) -> list[Any]:
    """Return what a graph and its regions note, as text."""
    return [
        (
            path,
            str(one.meta),
            [(n.name, n.op, getattr(n.target, "__name__", n.target), str(n.args), kept(n)) for n in one.graph.nodes],
        )
        for path, one in graphs_of(graph)
    ]


def kept(node: fx.Node) -> str:
    torchs = ("nn_module_stack", "is_wrapped")  # what tracing needs
    return str(sorted((key, value) for key, value in node.meta.items() if key not in torchs))


def read_in_another_process(folder: Path, names: Sequence[str], how: str) -> None:
    (folder / "saved_models.py").write_text(MODELS)
    command = [sys.executable, "-W", "error", "-c", READ, how, *names]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_graphs_of_every_tier_are_read_with_their_notes(models: Any, tmp_path: Path) -> None:
    for name in NAMES:
        save(graph_of(models, name), tmp_path, name)
    for name in ("Net", "Deciding"):
        sparse = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(graph_of(models, name))
        save(sparse.graph_module.train(), tmp_path, f"Sparse{name}")
    folders = f"{Path(__file__).parent}:{Path(__file__).parents[1]}"  # this file, and what it imports
    read_in_another_process(tmp_path, (*NAMES, "SparseNet", "SparseDeciding"), folders)


def test_stripped_graphs_are_read_without_fxprune(models: Any, tmp_path: Path) -> None:
    names = [name for name in NAMES if name not in ("OfBuffers", "WithoutGrad", "Noisy")]
    for name in names:
        save(fxprune.strip(graph_of(models, name)), tmp_path, name)
    read_in_another_process(tmp_path, names, "plain")


@pytest.mark.parametrize("training", [False, True])
def test_stripped_graphs_keep_their_mode(models: Any, training: bool) -> None:
    for name in ("Dropping", "Deciding"):
        plain = fxprune.strip(graph_of(models, name).train(training))
        assert {module.training for module in plain.modules()} == {training}


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("OfBuffers", "at sum_1"),
        ("WithoutGrad", "at is_grad_enabled"),
        ("Noisy", r"and cannot \(rand\(\) received"),
    ],
)
def test_what_torch_would_read_as_another_graph_is_not_stripped(models: Any, name: str, where: str) -> None:
    with pytest.raises(EmitError, match=rf"{where}.*; save it as it is, torch\.save\(graph, FILE\)"):
        fxprune.strip(graph_of(models, name))


@pytest.mark.parametrize(
    "compute",
    [
        lambda m, x: x * len(x),
        lambda m, x: x.flatten(1) if x.shape[1] % 2 else x + 1,
        lambda m, x: x * int(x.shape[1]),
    ],
)
def test_what_python_asks_of_sizes_survives(compute: Any) -> None:
    graph = traced(Wrapped(compute), example(2, 4))
    plain = pickle.loads(pickle.dumps(fxprune.strip(graph)))
    assert type(plain).__mro__[1] is fx.GraphModule
    x = torch.randn(2, 4)
    assert torch.equal(plain(x), graph(x))


def test_flags_that_no_layer_has_are_not_baked(tmp_path: Path) -> None:
    graph = traced(Wrapped(lambda m, x: torch.rrelu(x, training=m.training)), example(2, 4))
    assert any(node.target == "training" for node in graph.graph.nodes)
    with pytest.raises(EmitError, match="at rrelu"):
        fxprune.strip(graph)


def test_training_goes_on_from_what_was_read() -> None:
    file = io.BytesIO()
    torch.save(passes.InsertResConv()(tiny()).graph_module, file)
    file.seek(0)
    read = torch.load(file, weights_only=False)
    shrink = fxprune.SteeredL1(read, targets=fxprune.Targets(macs=0.9), meet_after=1)
    shrink.step(0.1)
    steps = [passes.RemoveLayers(target_macs=0.9), *fxprune.AFTER_TRAINING]
    assert node_count(fxprune.Pipeline(steps)(read).graph_module) < node_count(read)


def test_what_was_read_has_nothing_of_what_was_saved() -> None:
    graph = tiny()
    read = pickle.loads(pickle.dumps(graph))
    before = notes(graph)
    for node in read.graph.nodes:
        node.meta.clear()
    read.meta.clear()
    assert notes(graph) == before
    assert not {id(p) for p in read.parameters()} & {id(p) for p in graph.parameters()}


def test_a_function_without_a_name_is_refused_when_the_graph_is_saved() -> None:
    graph = traced(Wrapped(lambda m, x: torch.relu(x)), example(2, 4))
    (node,) = (node for node in graph.graph.nodes if node.op == "call_function")
    node.target = lambda x: x
    with pytest.raises(FxpruneError, match=r"cannot be saved: relu calls .*, which cannot be imported"):
        pickle.dumps(graph)


def test_another_version_is_refused() -> None:
    from fxprune.ir.pickled import from_pickle

    with pytest.raises(LoadError, match="has version 99, this fxprune reads 1"):
        from_pickle(fx.GraphModule, {"version": 99})


def test_a_graph_that_was_emitted_and_read_is_saved(tmp_path: Path) -> None:
    fxprune.emit(tiny(), tmp_path)
    graph = fxprune.load_emitted(tmp_path)
    assert notes(pickle.loads(pickle.dumps(graph))) == notes(graph)


def test_state_dicts_are_read_as_tensors_only(tmp_path: Path) -> None:
    sparse = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(tiny()).graph_module
    shrink = fxprune.SteeredL1(sparse, targets=fxprune.Targets(macs=0.9), meet_after=4)
    shrink.step(0.1)
    torch.save({"graph": sparse.state_dict(), "shrink": shrink.state_dict()}, tmp_path / "state.pt")
    read = torch.load(tmp_path / "state.pt", weights_only=True)
    again = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(tiny()).graph_module
    again.load_state_dict(read["graph"])
    fxprune.SteeredL1(again, targets=fxprune.Targets(macs=0.9), meet_after=4).load_state_dict(read["shrink"])
    (x,) = sparse.meta["fxprune_example_inputs"]
    assert torch.equal(again(x), sparse(x))
