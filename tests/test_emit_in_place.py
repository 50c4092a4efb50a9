"""ReLUs of emitted source overwrite what nobody else reads, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from helpers import Wrapped, emitted, tiny
from torch import nn
from torch.nn import functional

import fxprune


def source_of(model: nn.Module, folder: Path) -> str:
    """Emit ``model``, which must compute the same then, and return its source."""
    x = torch.randn(2, 3, 8, 8)
    emitted(fxprune.trace(model.eval(), x), folder, x)
    return (folder / "model.py").read_text()


def conv() -> nn.Module:
    return nn.Conv2d(3, 3, 3, padding=1)


def test_a_layer_with_several_safe_sites(tmp_path: Path) -> None:
    graph = tiny()
    source_model, read_back = emitted(graph, tmp_path)
    text = (tmp_path / "model.py").read_text()
    assert text.count("nn.ReLU(inplace=True)") == 3  # as the model that was traced had them
    assert not any(m.inplace for m in read_back.modules() if isinstance(m, nn.ReLU))  # for passes: a functional graph
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    gradients = []
    for model in (source_model.train(), read_back.train()):
        model(x).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_functions(tmp_path: Path) -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.conv(x))
        return functional.relu(y + x)

    text = source_of(Wrapped(forward, conv=conv()), tmp_path)
    assert text.count("F.relu(") == text.count("inplace=True") == 2


def test_what_others_read_or_own_is_not_overwritten(tmp_path: Path) -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        before = self.conv(x)
        shared = functional.relu(before) + before  # read again
        given = functional.relu(x)  # an input
        view = functional.relu(self.conv(shared).flatten(1))  # not for certain new memory
        kept = functional.relu(torch.sigmoid(self.conv(given)))  # sigmoid keeps its output for its gradient
        total: torch.Tensor = shared + given + view.view_as(kept) + kept
        return total

    text = source_of(Wrapped(forward, conv=conv()), tmp_path)
    assert text.count("F.relu(") == 4
    assert "inplace" not in text


def test_a_layer_with_one_unsafe_site(tmp_path: Path) -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.conv(x)) + self.relu(x)  # type: ignore[no-any-return]

    model = Wrapped(forward, conv=conv(), relu=nn.ReLU())
    assert "nn.ReLU()" in source_of(model, tmp_path)
