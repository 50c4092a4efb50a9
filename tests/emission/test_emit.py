"""Emission: what a user loads has torch and safetensors, and no fxprune."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from emit_helpers import rewrite
from helpers import TinyNet, Wrapped, example, targets, tiny, traced, with_scales
from safetensors.torch import load_file, save_file
from torch import fx, nn
from torch.nn import functional

import fxprune
from fxprune import passes
from fxprune.errors import EmitError, FxpruneError, LoadError

WITHOUT_FXPRUNE = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "fxprune":
            raise ImportError("fxprune is blocked in this test")
sys.meta_path.insert(0, Block())
sys.path.insert(0, sys.argv[1])
import torch
from model import Model, load
"""


def run_without_fxprune(folder: Path, code: str) -> str:
    script = WITHOUT_FXPRUNE + textwrap.dedent(code)
    command = [sys.executable, "-c", script, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def pruned() -> fx.GraphModule:
    torch.manual_seed(0)
    graph = fxprune.trace(TinyNet().eval(), torch.randn(2, 3, 8, 8))
    sparse = with_scales(graph, (0.0, 0.7), (0.5, 1.0), (0.0, 0.0))
    steps = [passes.RemoveLayers(), passes.FuseResConv(), passes.FoldBatchNorm(), passes.Simplify()]
    return fxprune.Pipeline(steps)(sparse).graph_module


def test_the_folder_loads_and_trains_without_fxprune(tmp_path: Path) -> None:
    graph = pruned()
    fxprune.emit(graph, tmp_path)
    x = torch.randn(5, 3, 8, 8)
    save_file({"x": x, "y": graph(x)}, tmp_path / "expected.safetensors")
    run_without_fxprune(
        tmp_path,
        """
        from safetensors.torch import load_file
        model = load()
        expected = load_file("expected.safetensors")
        torch.testing.assert_close(model(expected["x"]), expected["y"], rtol=0, atol=0)
        assert type(model).__mro__[1] is torch.nn.Module
        optimizer = torch.optim.SGD(model.train().parameters(), lr=0.1)
        before = model(expected["x"]).square().mean()
        before.backward()
        optimizer.step()
        assert model(expected["x"]).square().mean() < before
        exported = torch.export.export(load(), (expected["x"],))
        torch.testing.assert_close(exported.module()(expected["x"]), expected["y"])
        assert not [name for name in sys.modules if name.startswith("fxprune")]
        """,
    )


def test_the_source_is_what_a_person_would_check_in(tmp_path: Path) -> None:
    fxprune.emit(pruned(), tmp_path)
    source = (tmp_path / "model.py").read_text()
    assert "fxprune." not in source
    assert "import fxprune" not in source
    assert "self.conv2 = nn.Conv2d(6, 6, 3, padding=1)" in source
    assert "x = self.block1(x)" in source
    assert "return self.head(" in source


def test_surviving_layers_keep_their_keys(tmp_path: Path) -> None:
    graph = pruned()
    fxprune.emit(graph, tmp_path)
    keys = set(load_file(tmp_path / "weights.safetensors"))
    assert keys == set(graph.state_dict())
    assert {"stem.0.weight", "block1.conv2.weight", "head.bias"} <= keys
    modes = {(tmp_path / name).stat().st_mode for name in ("model.py", "weights.safetensors", "graph.json")}
    assert len(modes) == 1


def test_the_folder_is_read_back_without_executing_it(tmp_path: Path) -> None:
    graph = pruned()
    fxprune.emit(graph, tmp_path)
    (tmp_path / "model.py").write_text("raise SystemExit('executed')")
    rewrite(tmp_path)
    again = fxprune.load_emitted(tmp_path)
    x = torch.randn(3, 3, 8, 8)
    assert torch.equal(again(x), graph(x))
    sites = passes.InsertResConv()(again)
    assert sites.modified


@pytest.mark.parametrize("name", ["weights.safetensors", "graph.json"])
def test_a_file_that_was_cut_short_is_named(tmp_path: Path, name: str) -> None:
    fxprune.emit(pruned(), tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LoadError, match="not a whole emitted folder"):
        fxprune.load_emitted(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"op": "call_function", "target": "os.system", "args": ["true"]}, "not one of torch's tensor functions"),
        ({"op": "call_function", "target": "torch.load", "args": ["file"]}, "not one of torch's tensor functions"),
        ({"op": "call_function", "target": "getattr", "args": [{"node": "x"}, "__class__"]}, "reads an attribute"),
        ({"op": "call_method", "target": "__class__", "args": [{"node": "x"}]}, "no tensor method"),
        ({"op": "call_method", "target": "untyped_storage", "args": [{"node": "x"}]}, "no tensor method"),
    ],
)
def test_a_graph_file_cannot_name_what_it_likes(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    fxprune.emit(pruned(), tmp_path)
    rewrite(tmp_path, lambda data: data["nodes"][-2].update({"kwargs": {}, **change}))
    with pytest.raises(LoadError, match=message):
        fxprune.load_emitted(tmp_path)


@pytest.mark.parametrize(("schema", "advice"), [(2, "emit the model again"), (99, "update fxprune")])
def test_another_schema_is_refused(tmp_path: Path, schema: int, advice: str) -> None:
    fxprune.emit(pruned(), tmp_path)
    rewrite(tmp_path, lambda data: data.update(schema=schema))
    with pytest.raises(LoadError, match=f"schema {schema}, this fxprune reads 3; {advice}"):
        fxprune.load_emitted(tmp_path)


def test_what_is_left_of_resconvs_is_refused(tmp_path: Path) -> None:
    graph = passes.InsertResConv()(fxprune.trace(TinyNet(), torch.randn(2, 3, 8, 8))).graph_module
    with pytest.raises(EmitError, match=r"block1\.conv1 is still a ResConv; apply passes\.FuseResConv"):
        fxprune.emit(graph, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_onnx_and_pt2_with_a_free_batch_size(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    graph = pruned()
    fxprune.emit(graph, tmp_path, formats=("pt2", "onnx"))
    x = torch.randn(7, 3, 8, 8)
    program = torch.export.load(tmp_path / "model.pt2")
    torch.testing.assert_close(program.module()(x), graph(x))
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(out), graph(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["model.py", "weights.safetensors", "model.onnx"])
def test_a_file_of_the_users_is_not_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    fxprune.emit(pruned(), tmp_path / "free")
    fxprune.emit(pruned(), tmp_path / "free")  # its own files it replaces
    (tmp_path / name).write_text("mine")
    with pytest.raises(EmitError, match=rf"{name} is there and was not written by fxprune; give another folder"):
        fxprune.emit(pruned(), tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmitError, match="use pt2 or onnx"):
        fxprune.emit(pruned(), tmp_path, formats=("tflite",))  # type: ignore[arg-type]


class Everything(nn.Module):
    """Parameters and buffers read directly, a tied weight, odd names, constants of many kinds, two outputs."""

    table: torch.Tensor
    unsaved: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Sequential(nn.Linear(4, 4), nn.GELU(approximate="tanh"), nn.LayerNorm(4))
        self.values = nn.Linear(4, 4)
        self.values.weight = self.items.get_parameter("0.weight")
        self.gamma = nn.Parameter(torch.ones(4))
        self.register_buffer("table", torch.arange(4.0))
        self.register_buffer("unsaved", torch.arange(4.0), persistent=False)
        self.inner = nn.ModuleDict({"keys_": nn.Linear(4, 4), "1-b": nn.Linear(4, 4)})
        self.norm = nn.GroupNorm(2, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: torch.Tensor, scale: float = 2.0) -> dict[str, Any]:
        y: torch.Tensor = self.items(x) * self.gamma + self.table[None, :] - self.unsaved
        y = self.values(y).clamp(min=-1e30, max=float("inf"))
        y = self.inner["1-b"](self.inner["keys_"](y))
        y = self.norm(y) ** 2 / (1 + y.shape[0]) * scale
        z = functional.pad(y, (1, 1), value=0.5)[..., 1:-1]
        a, _ = self.attention(z[None], z[None], z[None], need_weights=False)
        return {"out": a.to(torch.float64), "parts": (y.chunk(2, dim=1)[0], torch.full_like(y, 1.0))}


def test_everything_that_a_graph_may_hold(tmp_path: Path) -> None:
    torch.manual_seed(0)
    graph = fxprune.trace(Everything().eval(), torch.randn(3, 4))
    fxprune.emit(graph, tmp_path)
    again = fxprune.load_emitted(tmp_path)
    x = torch.randn(5, 4)
    torch.testing.assert_close(again(x), graph(x))
    save_file({"x": x, "y": graph(x)["out"].contiguous()}, tmp_path / "expected.safetensors")
    run_without_fxprune(
        tmp_path,
        """
        from safetensors.torch import load_file
        model, expected = load(), load_file("expected.safetensors")
        torch.testing.assert_close(model(expected["x"])["out"], expected["y"])
        assert model.values.weight is model.items[0].weight
        """,
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes_and_frozen_layers_are_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2)).to(dtype)
    model[0].requires_grad_(False)
    graph = fxprune.trace(model.eval(), torch.randn(2, 3, 8, 8, dtype=dtype))
    fxprune.emit(graph, tmp_path)
    again = fxprune.load_emitted(tmp_path)
    assert {p.dtype for p in again.parameters()} == {dtype}
    assert [p.requires_grad for p in again.parameters()] == [False, False, True, True]
    assert "requires_grad_(False)" in (tmp_path / "model.py").read_text()


def test_a_function_of_nobodys_module_is_refused(tmp_path: Path) -> None:
    graph = traced(Wrapped(lambda m, x: torch.relu(x)), example(2, 4))
    for node in graph.graph.nodes:
        if node.op == "call_function":
            node.target = local_function
    graph.recompile()
    with pytest.raises(EmitError, match="local_function"):
        fxprune.emit(graph, tmp_path)


local_function = lambda x: x  # noqa: E731  # has no importable name
local_function.__name__ = "local_function_that_no_module_has"


def test_odd_names_cannot_break_out_of_the_source(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleDict({"it's": nn.Linear(4, 4), "ü <b>": nn.ReLU(), "1 + 1": nn.Linear(4, 4)})

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers.values():
                x = layer(x)
            return x

    graph = fxprune.trace(Odd().eval(), torch.randn(2, 4))
    fxprune.emit(graph, tmp_path)
    x = torch.randn(3, 4)
    assert torch.equal(fxprune.load_emitted(tmp_path)(x), graph(x))
    run_without_fxprune(tmp_path, "load()")


@pytest.mark.parametrize(
    ("op", "change"),
    [
        ("placeholder", {"target": "x=print('executed')"}),
        ("call_module", {"path": "a\nraise SystemExit('executed')"}),
        ("call_module", {"kwargs": {"x=print('executed'), y": 1}}),
        ("call_module", {"target": 'stem.0")(print("executed")'}),
        ("call_module", {"op": "exec"}),
    ],
)
def test_names_in_a_graph_file_cannot_be_code(tmp_path: Path, op: str, change: dict[str, Any]) -> None:
    fxprune.emit(pruned(), tmp_path)
    rewrite(tmp_path, lambda data: next(entry for entry in data["nodes"] if entry["op"] == op).update(change))
    with pytest.raises(LoadError, match="forbidden name"):
        fxprune.load_emitted(tmp_path)


def scaled_and_cut() -> fx.GraphModule:
    graph = fxprune.insert_scales(tiny()).graph_module
    for gate in fxprune.gates_of(graph):
        gate.assign(scale=0.3)
    next(gate for gate in fxprune.gates_of(graph) if gate.kind == "branch").assign(scale=0.0)
    return passes.RemoveLayers(threshold=0.0)(graph).graph_module


def test_norms_are_kept_for_training_or_folded_for_inference(tmp_path: Path) -> None:
    graph, x = scaled_and_cut(), example(2, 3, 8, 8)
    for norms, has_norms in (("keep", True), ("fold", False)):
        fxprune.emit(graph, tmp_path / norms, norms=norms)  # type: ignore[arg-type]
        again = fxprune.load_emitted(tmp_path / norms)
        assert ("BatchNorm2d" in targets(again)) == has_norms
        torch.testing.assert_close(again(x), graph.eval()(x), rtol=1e-12, atol=1e-12)
        assert ("BatchNorm2d" in (tmp_path / norms / "model.py").read_text()) == has_norms
    with pytest.raises(EmitError, match="ResConv"):
        fxprune.emit(graph, tmp_path / "as it is")
    with pytest.raises(FxpruneError, match="takes 'fold' or 'keep'"):
        fxprune.emit(graph, tmp_path / "as it is", norms="keeep")  # type: ignore[arg-type]


def test_a_network_with_kept_norms_trains_in_another_process_as_the_graph_does(tmp_path: Path) -> None:
    fxprune.emit(scaled_and_cut().float(), tmp_path, norms="keep")
    code = """
        model = load().train()
        model(torch.randn(4, 3, 8, 8)).sum().backward()
        print(all(one.grad is not None for one in model.parameters()))
    """
    assert run_without_fxprune(tmp_path, code) == "True\n"
