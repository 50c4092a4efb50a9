"""Optimizers for the rows that stay: what each remembers, whatever it is called."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fxprune.errors import FxpruneValueError
from fxprune.weights.optimizer_state import narrower_optimizer
from fxprune.weights.slicing import Slice, part_of


def cut(optimizer: torch.optim.Optimizer, weight: nn.Parameter, gone: Any = ()) -> Any:
    places = {0: torch.tensor([0, 2]), 1: torch.tensor([1])}
    part = nn.Parameter(part_of(weight, places))
    return narrower_optimizer(optimizer, {weight: Slice(weight, part, places)}, set(gone), {weight: "a.weight"}), part


def stepped(optimizer: torch.optim.Optimizer, *parameters: nn.Parameter, steps: int = 2) -> None:
    for step in range(steps):
        for one in parameters:
            one.grad = torch.arange(one.numel(), dtype=one.dtype).view_as(one) + step
        optimizer.step()
        for one in parameters:
            one.grad = None


def test_rows_and_columns_are_taken_and_numbers_copied() -> None:
    weight, bias = nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.Adam([weight, bias], lr=0.1)
    stepped(optimizer, weight, bias)
    made, part = cut(optimizer, weight)
    # after two steps with gradients k and k + 1: 0.9 * 0.1 k + 0.1 (k + 1) of the elements 1 and 5
    assert made.state[part]["exp_avg"].flatten().tolist() == pytest.approx([0.29, 1.05])
    assert made.state[part]["step"] == 2
    assert made.state[part]["step"] is not optimizer.state[weight]["step"]
    assert torch.equal(made.state[bias]["exp_avg"], optimizer.state[bias]["exp_avg"])
    assert made.state[bias]["exp_avg"] is not optimizer.state[bias]["exp_avg"]
    assert weight not in made.state
    assert made.param_groups[0]["params"][0] is part
    assert optimizer.param_groups[0]["params"][0] is weight


def test_groups_keep_their_options_and_their_number() -> None:
    weight, bias = nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(3))
    groups = [{"params": [("a.weight", weight)], "lr": 0.5}, {"params": [("a.bias", bias)], "weight_decay": 0.2}]
    optimizer = torch.optim.SGD(groups, lr=torch.tensor(0.1), momentum=0.9)
    seen: list[str] = []
    optimizer.register_step_post_hook(lambda *_: seen.append("step"))
    made, part = cut(optimizer, weight, gone=[bias])
    assert [group["params"] for group in made.param_groups] == [[part], []]
    assert [group["param_names"] for group in made.param_groups] == [["a.weight"], []]
    assert made.param_groups[0]["lr"] == 0.5
    assert made.param_groups[1]["weight_decay"] == 0.2
    assert made.param_groups[1]["lr"] is not optimizer.param_groups[1]["lr"]
    stepped(made, part, steps=1)
    assert seen == ["step"]
    assert part.flatten().tolist() == [0.0, -0.5]


def test_the_memory_layout_stays() -> None:
    weight = nn.Parameter(torch.zeros(3, 2, 3, 3).to(memory_format=torch.channels_last))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    part = nn.Parameter(part_of(weight, {0: torch.tensor([0, 2])}))
    made = narrower_optimizer(optimizer, {weight: Slice(weight, part, {0: torch.tensor([0, 2])})}, set(), {})
    assert made.state[part]["momentum_buffer"].is_contiguous(memory_format=torch.channels_last)
    assert part.grad is not None
    assert part.grad.is_contiguous(memory_format=torch.channels_last)


def test_what_holds_parameters_elsewhere_is_refused() -> None:
    weight = nn.Parameter(torch.zeros(3, 2))
    with pytest.raises(FxpruneValueError, match=r"^LBFGS holds parameters beside its groups \(_params\)"):
        cut(torch.optim.LBFGS([weight]), weight)

    class Wrapper(torch.optim.SGD):
        def __init__(self, inner: torch.optim.Optimizer) -> None:
            super().__init__(inner.param_groups, lr=0.1)
            self.inner = inner

    with pytest.raises(FxpruneValueError, match=r"^Wrapper is a wrapper around another optimizer \(inner\)"):
        cut(Wrapper(torch.optim.SGD([weight], lr=0.1)), weight)


@pytest.mark.parametrize(("value", "said"), [(torch.zeros(5), r"'odd' of shape \(5,\)"), ([1], "'odd', a list")])
def test_state_of_which_the_rows_cannot_be_told_is_refused(value: Any, said: str) -> None:
    weight = nn.Parameter(torch.zeros(3, 2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    optimizer.state[weight]["odd"] = value
    with pytest.raises(FxpruneValueError, match=f"^SGD's state of a.weight has {said}"):
        cut(optimizer, weight)
