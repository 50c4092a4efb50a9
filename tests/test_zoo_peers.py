"""How the zoo judges other pruners of channels."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.report.zoo_peers import PEERS as TITLES
from benchmarks.report.zoo_peers import larger, verdict
from benchmarks.zoo.peer_judging import Removed, arriving, limited, mask, widths
from benchmarks.zoo.run import PEERS


class Net(nn.Module):
    """A residual block with a depthwise conv, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 6, 2, 2)
        self.unused = nn.Linear(4, 4)
        self.classifier = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(x)).relu()
        x = self.up(x + self.depthwise(x)).mean((2, 3))
        logits: torch.Tensor = self.classifier(x)
        return logits


@pytest.fixture
def call() -> tuple[nn.Module, tuple[torch.Tensor]]:
    torch.manual_seed(0)
    return Net().eval().double(), (torch.randn(2, 3, 8, 8).double(),)


def test_outputs_are_those_of_layers_that_run(call: Any) -> None:
    assert widths(*call) == {"first": 8, "depthwise": 8, "up": 6, "classifier": 5}


def test_a_peer_that_catches_all_errors_is_stopped() -> None:
    def stubborn() -> None:
        while True:
            with contextlib.suppress(Exception):
                sum(range(1000))

    with pytest.raises(TimeoutError, match="time-out"), limited(0.05):
        stubborn()


def test_masked_channels_arrive_as_zero(call: Any) -> None:
    model, inputs = call
    removed = Removed()
    removed.outputs["up"] = removed.inputs["classifier"] = [1, 5]
    assert arriving(mask(model, removed), removed, inputs)[0] == 0
    removed.inputs["classifier"] = [1, 4]
    assert arriving(mask(model, removed), removed, inputs)[0] > 0


def test_torch_pruning_counts_what_fxprune_counts(call: Any) -> None:
    pytest.importorskip("torch_pruning")
    from benchmarks.zoo.peer_layers import free_outputs
    from benchmarks.zoo.torch_pruning_steps import TorchPruning

    model, inputs = call
    theirs = TorchPruning(model, inputs, [model.classifier]).free_outputs()
    ours = {path: free for path, (free, _) in free_outputs(model, inputs).items() if free}
    assert theirs == ours == {"first": 8, "depthwise": 8, "up": 6}


def test_torch_pruning_removes_what_is_noted(call: Any) -> None:
    pytest.importorskip("torch_pruning")
    from benchmarks.zoo.torch_pruning_steps import TorchPruning

    model, inputs = call
    expected = Net().double().eval()
    expected.load_state_dict(model.state_dict())
    removed = TorchPruning(model, inputs, [model.classifier]).prune()
    assert {path: len(gone) for path, gone in removed.outputs.items() if path != "norm"} == {
        **dict.fromkeys(("first", "depthwise"), 4),
        "up": 3,
    }
    torch.testing.assert_close(model.eval()(*inputs), mask(expected, removed)(*inputs))


def test_every_peer_has_a_title() -> None:
    assert set(PEERS) == set(TITLES)


def test_the_models_where_a_peer_finds_more() -> None:
    ours = {name: {"free_outputs": 4} for name in ("a", "b", "c")}
    theirs: dict[str, dict[str, Any]] = {
        "a": {"status": "ok", "free_outputs": 5},
        "b": {"status": "wrong", "free_outputs": 9},
        "c": {"status": "ok", "free_outputs": 4},
        "d": {"status": "ok", "free_outputs": 4},
        "e": {"status": "ok"},
    }
    assert larger(ours, theirs) == [("a", 5, 4)]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"status": "ok", "step": "compare"}, "right"),
        ({"status": "wrong", "step": "run"}, "does not run"),
        ({"status": "wrong", "step": "compare"}, "wrong"),
        ({"status": "declined", "step": "trace"}, "refused"),
        ({"status": "refused", "step": "analyse"}, "refused"),
    ],
)
def test_verdicts(row: dict[str, str], expected: str) -> None:
    assert verdict(row) == expected
