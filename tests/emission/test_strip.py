"""What strip returns can be pickled, and read where fxprune cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import tiny

import fxprune
from fxprune import passes
from fxprune.errors import EmitError
from fxprune.ir.nodes import graphs_of

MODEL = """
import torch
from torch import nn

class Deciding(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())

    def forward(self, x):
        y = self.body(x)
        return y if x.sum() > -1e9 else -y
"""
READ = """
import sys
sys.modules["fxprune"] = None
import torch
model = torch.load("model.pt", weights_only=False)
x, expected = torch.load("inputs.pt")
assert torch.equal(model(x), expected)
"""


def test_a_graph_with_an_opaque_module_loads_without_fxprune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deciding_model.py").write_text(MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    from deciding_model import Deciding  # type: ignore[import-not-found]

    x = torch.randn(2, 4, 5, 5)
    graph = fxprune.trace(Deciding().eval(), x)
    compiled = fxprune.Pipeline([passes.InsertResConv(), passes.RemoveLayers(), *fxprune.AFTER_TRAINING])(graph)
    plain = fxprune.strip(compiled.graph_module)
    assert len(graphs_of(compiled.graph_module)) == 2  # what was given keeps what it had
    torch.save(plain, tmp_path / "model.pt")
    with torch.no_grad():
        torch.save((x, compiled.graph_module(x)), tmp_path / "inputs.pt")
    done = subprocess.run([sys.executable, "-c", READ], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_scales_must_be_gone() -> None:
    with pytest.raises(EmitError, match=r"block1\.conv1 is still a ResConv"):
        fxprune.strip(passes.InsertResConv()(tiny()).graph_module)
