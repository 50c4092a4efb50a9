"""Networks with blocks, emitted: as one, and as a network a partition that processes run."""

from __future__ import annotations

import os
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


def run(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "run.py"), *options]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("blocks", [2, 4])
def test_processes_compute_what_one_does(tmp_path: Path, blocks: int) -> None:
    torch.manual_seed(0)
    graph = masked(in_float64(randomized(ConvHead()), torch.randn(4, 3, 8, 8)), blocks)
    emit_partitions(graph, tmp_path / "parts")
    x = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    torch.save(x, tmp_path / "x.pt")
    done = run(tmp_path / "parts", str(tmp_path / "x.pt"), str(tmp_path / "y.pt"))
    assert (done.returncode, done.stderr) == (0, "")
    found, wanted = torch.load(tmp_path / "y.pt", weights_only=True), graph(x).detach()
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-9
    one = passes.PartitionLinear()(graph).graph_module(x).detach()
    assert float((found - one).abs().max() / wanted.abs().max()) < 1e-9


def test_where_a_process_dies_the_others_end_with_a_line(tmp_path: Path) -> None:
    emit_partitions(masked(conv_head()), tmp_path / "parts")
    dying = tmp_path / "parts" / "part1" / "model.py"
    dying.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    torch.save(torch.randn(5, 3, 8, 8), tmp_path / "x.pt")
    done = run(tmp_path / "parts", str(tmp_path / "x.pt"), str(tmp_path / "y.pt"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "partition 1 ended with code -9: the other processes were ended"
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "y.pt").exists()


def test_under_torchrun_the_one_that_is_left_ends_with_a_line(tmp_path: Path) -> None:
    emit_partitions(masked(conv_head()), tmp_path / "parts")
    torch.save(torch.randn(5, 3, 8, 8), tmp_path / "x.pt")
    alone = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    done = run(tmp_path / "parts", str(tmp_path / "x.pt"), str(tmp_path / "y.pt"), PARTITION_TIMEOUT="2", **alone)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("partition 0: ")
    assert "Traceback" not in done.stderr


def test_files_that_are_missing_are_told_of(tmp_path: Path) -> None:
    emit_partitions(masked(conv_head()), tmp_path / "parts")
    done = run(tmp_path / "parts", str(tmp_path / "x.pt"), str(tmp_path / "y.pt"))
    assert "No such file" in done.stderr
    assert "Traceback" not in done.stderr
    assert run(tmp_path / "parts").stderr == "run.py takes two files: inputs.pt outputs.pt\n"


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
