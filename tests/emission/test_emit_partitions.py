"""Networks with blocks, emitted: as one, and as a network a partition that processes run."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from partition_nets import ConvHead, conv_head, mlp, randomized
from torch import fx, nn

import fxprune
from fxprune import passes
from fxprune.emission.emit_partitions import emit_partitions
from fxprune.errors import EmitError


def masked(graph: fx.GraphModule, blocks: int = 2) -> fx.GraphModule:
    return passes.MaskPartition(blocks=blocks)(graph).graph_module


def in_float64(model: nn.Module, x: torch.Tensor) -> fx.GraphModule:
    return fxprune.trace(model.double(), x.double())


@pytest.mark.parametrize("form", ["linears", "conv", "bmm"])
def test_blocks_are_emitted_and_read_back(tmp_path: Path, form: Any) -> None:
    graph = passes.PartitionLinear(form=form)(masked(conv_head(), 3)).graph_module
    fxprune.emit(graph, tmp_path / "out", formats=("onnx",))
    x = torch.randn(4, 3, 8, 8)
    wanted = graph(x).detach()
    assert torch.allclose(fxprune.load_emitted(tmp_path / "out")(x), wanted, atol=1e-6)
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert torch.allclose(torch.from_numpy(found), wanted, atol=1e-5)


def test_blocks_of_a_masked_network_are_found_once_it_is_loaded(tmp_path: Path) -> None:
    fxprune.emit(masked(conv_head(), 3), tmp_path / "out")
    loaded = fxprune.load_emitted(tmp_path / "out")
    told = {site.path: site.why for site in passes.PartitionLinear()(loaded).rewritten}
    assert told["fc1"] == "24x48 -> 3 blocks of 8x16, as linears"


@pytest.mark.parametrize("blocks", [2, 3, 6])
@pytest.mark.parametrize("is_behind_conv", [True, False])
def test_the_parts_add_up_to_the_network(tmp_path: Path, blocks: int, is_behind_conv: bool) -> None:
    graph = masked(conv_head() if is_behind_conv else mlp(15, 13, 17, 4), blocks)
    parts = emit_partitions(graph, tmp_path / "parts")
    assert [one.name for one in parts] == [f"part{block}" for block in range(blocks)]
    x = torch.randn(5, 3, 8, 8) if is_behind_conv else torch.randn(5, 15)
    networks = [fxprune.load_emitted(one) for one in parts]
    total = torch.stack([one(x).detach() for one in networks]).sum(0)
    assert torch.allclose(total, graph(x).detach(), atol=1e-5)
    held = [sum(one.numel() for one in network.parameters()) for network in networks]
    assert max(held) < sum(one.numel() for one in graph.parameters()) / (blocks - 0.9)


def script(folder: Path) -> Any:
    """Return run.py of a folder, as a module."""
    spec = importlib.util.spec_from_file_location("run_partitions", folder / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rank_of(rank: int, count: int, port: int) -> dict[str, str]:
    """Return what torchrun tells a process."""
    return {"RANK": f"{rank}", "WORLD_SIZE": f"{count}", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}


def start(folder: Path, *files: Path, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(folder / "run.py"), *map(str, files)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A file of inputs, in float64, and where outputs go."""
    torch.save(torch.randn(5, 3, 8, 8, dtype=torch.float64), tmp_path / "x.pt")
    return tmp_path / "x.pt", tmp_path / "y.pt"


def assert_is_what_one_computes(files: tuple[Path, Path], graph: fx.GraphModule) -> None:
    x, found = (torch.load(one, weights_only=True) for one in files)
    for one in (graph, passes.PartitionLinear()(graph).graph_module):
        wanted = one(x).detach()
        assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-9


def test_four_processes_compute_what_one_does(tmp_path: Path, files: tuple[Path, Path]) -> None:
    graph = masked(in_float64(randomized(ConvHead()), torch.randn(4, 3, 8, 8)), 4)
    emit_partitions(graph, tmp_path / "parts")
    script(tmp_path / "parts").main(*map(str, files))
    assert_is_what_one_computes(files, graph)


def test_two_processes_that_torchrun_starts_do(tmp_path: Path, files: tuple[Path, Path]) -> None:
    graph = masked(in_float64(randomized(ConvHead()), torch.randn(4, 3, 8, 8)))
    parts = tmp_path / "parts"
    emit_partitions(graph, parts)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    together = [start(parts, *files, **rank_of(rank, 2, port)) for rank in range(2)]
    assert [one.communicate(timeout=120)[1] for one in together] == ["", ""]
    assert_is_what_one_computes(files, graph)


def test_one_that_waits_for_another_in_vain_ends_with_a_line(
    tmp_path: Path, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    emit_partitions(masked(conv_head()), tmp_path / "parts")
    for name, value in {**rank_of(0, 2, 0), "PARTITION_TIMEOUT": "0.5"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=r"^partition 0: [^\n]+$"):
        script(tmp_path / "parts").work(*map(str, files))
    assert not files[1].exists()


def test_where_a_process_dies_the_others_end_with_a_line(
    tmp_path: Path, files: tuple[Path, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    emit_partitions(masked(conv_head()), tmp_path / "parts")
    dying = tmp_path / "parts" / "part1" / "model.py"
    dying.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    with pytest.raises(SystemExit, match=r"^partition 1 ended with code -9: the other processes were ended$"):
        script(tmp_path / "parts").main(*map(str, files))
    assert "Traceback" not in capfd.readouterr().err
    assert not files[1].exists()


def test_files_that_are_missing_are_told_of(tmp_path: Path) -> None:
    emit_partitions(masked(conv_head()), tmp_path / "parts")
    with pytest.raises(SystemExit, match=r"^partition 0: .*No such file.*x\.pt"):
        script(tmp_path / "parts").work(str(tmp_path / "x.pt"), str(tmp_path / "y.pt"), str(tmp_path / "meeting"), 0)


class ReadBefore(nn.Module):
    """What enters the head is read by what comes before it too: in a residual branch, or for its own scale."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.stem, self.branch, self.squeeze = (
            nn.Conv2d(3, 12, 1),
            nn.Conv2d(12, 12, 3, padding=1),
            nn.Conv2d(12, 12, 1),
        )
        self.head = nn.Sequential(nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 5))

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.relu(self.stem(x))
        if self.how == "residual":
            x = torch.relu(x + self.branch(x))
        else:
            x = x * torch.sigmoid(self.squeeze(x.mean((2, 3), keepdim=True)))
        return self.head(nn.functional.max_pool2d(x, 4).flatten(1))


@pytest.mark.parametrize("how", ["residual", "squeeze"])
def test_channels_that_others_read_too_stay_in_every_part(tmp_path: Path, how: str) -> None:
    torch.manual_seed(0)
    graph = masked(in_float64(ReadBefore(how).eval(), torch.randn(2, 3, 8, 8)))
    parts = [fxprune.load_emitted(one) for one in emit_partitions(graph, tmp_path / "parts")]
    x = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    assert torch.allclose(sum(one(x) for one in parts), graph(x), rtol=0, atol=1e-12)
    assert [one.get_parameter("stem.weight").shape[0] for one in parts] == [12, 12]


def softmax() -> fx.GraphModule:
    layers = (nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4), nn.Softmax(1))
    return masked(fxprune.trace(nn.Sequential(*layers).eval(), torch.randn(2, 8)))


def broken() -> fx.GraphModule:
    graph = masked(conv_head())
    graph.get_parameter("fc1.weight").data.add_(1.0)
    return graph


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (conv_head, "apply MaskPartition first"),
        (softmax, "the network does not return what 2 computes"),
        (broken, "fc1 has weights across its blocks"),
        (lambda: masked(mlp(8, 4, 3), 4), "0 has blocks of one feature"),
    ],
)
def test_what_cannot_be_split_is_refused(tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises(EmitError, match=message) as raised:
        emit_partitions(make(), tmp_path / "parts")
    assert "\n" not in str(raised.value)


def test_a_folder_that_is_in_use_is_left(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(EmitError, match="is not empty"):
        emit_partitions(masked(conv_head()), tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["mine"]
