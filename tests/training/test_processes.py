"""Training in processes that are killed, and in two at a time: the result stays what it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

KILLED = [
    "prune", "", "--data", "digits", "--epochs", "3", "--batch-size", "64", "--device", "cpu",
    "--target-macs", "0.5", "--checkpoint-minutes", "0", "--shrink-share", "0.5",
]  # fmt: skip


def test_kill_9_at_any_moment_and_the_same_command_goes_on(tmp_path: Path) -> None:
    source = tmp_path / "net.py"
    source.write_text(
        "from torch import nn\n"
        "def net():\n"
        "    block = lambda: [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]\n"
        "    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), *block(), *block(), *block(),\n"
        "                         nn.Flatten(), nn.Linear(512, 10))\n"
    )
    command = [sys.executable, "-m", "fxprune", *KILLED]
    command[4] = f"{source}:net"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole = subprocess.run([*command, "--out", str(tmp_path / "whole")], env=environment, capture_output=True)
    assert whole.returncode == 0, whole.stderr.decode()
    kills = 0
    for steps in (1, 25, 60):
        with subprocess.Popen(
            [*command, "--out", str(tmp_path / "killed")], env=environment, stdout=subprocess.DEVNULL
        ) as process:
            kills += _kill_after(process, tmp_path / "killed" / "checkpoint.pt", steps)
    last = subprocess.run(
        [*command, "--out", str(tmp_path / "killed")], env=environment, capture_output=True, text=True
    )
    assert last.returncode == 0, last.stderr
    assert kills == 3
    assert "resuming after" in last.stdout
    for name in ("weights.safetensors", "graph.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
    whole_report, report = (json.loads((tmp_path / d / "report.json").read_text()) for d in ("whole", "killed"))
    assert report["accuracy_after"] == whole_report["accuracy_after"]


def _kill_after(process: subprocess.Popen[bytes], checkpoint: Path, steps: int) -> bool:
    """Kill the process once its checkpoint has reached a step; False if it ended before."""
    while process.poll() is None:
        time.sleep(0.02)
        try:
            reached = torch.load(checkpoint, weights_only=True)["step"]
        except FileNotFoundError:
            continue
        if reached >= steps:
            process.kill()
            process.wait()
            return True
    return False


TWO_PROCESSES = """
import copy
import sys
import torch
from torch import nn
sys.path.insert(0, {tests!r})
from training_helpers import sparse_network
from fxprune.pruning.proximal import ProximalL1
from fxprune.choosing.targets import Targets
from fxprune.training.data import load_data
from fxprune.training.recipe import train
from fxprune.training.settings import Settings

data = load_data("digits")
sparse = sparse_network(data, lambda _: nn.Identity())
for module in sparse.modules():
    if isinstance(module, nn.Dropout):
        module.p = 0.0
teacher = copy.deepcopy(sparse)
settings = Settings(
    epochs=1, lr=0.02, batch_size=64, shrink_share=0.5, accumulate=int(sys.argv[2]), distill=0.5, distill_features=0.5
)
train(sparse, data, settings, print, shrink=Targets(macs=0.5), teacher=teacher)
from accelerate import PartialState
state = PartialState()
torch.save(
    {{"model": sparse.state_dict(), "closed": ProximalL1(sparse).closed, "processes": state.num_processes}},
    f"{{sys.argv[1]}}-{{state.process_index}}.pt",
)
"""


def test_two_processes_get_what_one_gets(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(TWO_PROCESSES.format(tests=str(Path(__file__).parent.parent)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for command, out in (([sys.executable], "one"), (two, "two")):
        done = subprocess.run(
            [*command, str(script), str(tmp_path / out), "2"], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    one, first, second = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("one-0", "two-0", "two-1")
    )
    assert (one["processes"], first["processes"]) == (1, 2)
    assert one["closed"] == first["closed"] == second["closed"] != []
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name]), name
        torch.testing.assert_close(value, one["model"][name], rtol=1e-3, atol=1e-4, msg=name)
