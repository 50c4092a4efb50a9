"""ResetWeights: weights as the classes draw them, by a seed; what is left alone, and why."""

from __future__ import annotations

import torch
from helpers import assert_rewrites, assert_state_equal, module_at, state_of, traced
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

import fxprune
from fxprune import passes


def model() -> nn.Sequential:
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8, 4))


def test_every_layer_is_drawn_as_its_class_does() -> None:
    graph = traced(model(), torch.randn(2, 3, 8, 8))
    result = assert_rewrites(graph, passes.ResetWeights(seed=5), count=3)
    torch.manual_seed(5)
    drawn = [module_at(result.graph_module, path) for path in ("0", "5")]
    for layer in drawn:
        wanted = type(layer)(3, 8, 3) if isinstance(layer, nn.Conv2d) else nn.Linear(8, 4)
        bound = 1 / wanted.weight[0].numel() ** 0.5  # of torch's uniform numbers
        assert 0.8 * bound < float(layer.weight.detach().abs().max()) <= bound
        assert layer.weight.dtype is torch.float64
    norm = module_at(result.graph_module, "1")
    assert norm.running_mean.abs().max() == 0
    assert torch.equal(norm.running_var, torch.ones(8, dtype=torch.float64))
    assert torch.equal(norm.weight, torch.ones(8, dtype=torch.float64))


def test_the_seed_says_which_and_the_users_generator_stays() -> None:
    graph = traced(model(), torch.randn(2, 3, 8, 8))
    torch.manual_seed(1)
    expected = torch.randn(1)
    torch.manual_seed(1)
    first, again, other = (passes.ResetWeights(seed)(graph).graph_module for seed in (0, 0, 1))
    assert torch.equal(torch.randn(1), expected)
    assert_state_equal(first, state_of(again))
    assert not torch.equal(module_at(first, "0").weight, module_at(other, "0").weight)


def test_modes_and_dtypes_stay() -> None:
    graph = fxprune.trace(model(), torch.randn(2, 3, 8, 8)).half().train()
    made = passes.ResetWeights()(graph).graph_module
    assert module_at(made, "0").weight.dtype is torch.float16
    assert module_at(made, "1").training


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(self.conv(x).relu()).mean((2, 3))
        found: torch.Tensor = self.two(self.one(y).relu())
        return found


def test_what_was_shared_is_shared() -> None:
    made = passes.ResetWeights()(traced(Shared(), torch.randn(2, 4, 8, 8))).graph_module
    assert module_at(made, "one").weight is module_at(made, "two").weight
    assert sum(str(node.target) == "conv" for node in made.graph.nodes) == 2


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


def test_what_cannot_be_drawn_stays_with_the_reason() -> None:
    frozen = nn.Conv2d(3, 3, 1).requires_grad_(False)
    computed = parametrizations.weight_norm(nn.Conv2d(3, 3, 1))
    graph = fxprune.trace(
        nn.Sequential(frozen, computed, Scaled(), nn.Conv2d(3, 2, 1)).eval(), torch.randn(2, 3, 4, 4)
    )
    before = state_of(graph)
    result = passes.ResetWeights(seed=2)(graph)
    assert [site.path for site in result.rewritten] == ["3"]
    told = " ".join(str(site) for site in result.declined)
    for why in ("0: is frozen", "1: its weight is computed", "a parameter that the graph reads itself"):
        assert why in told, told
    after = state_of(result.graph_module)
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["3.weight", "3.bias"]


def test_attention_of_torch_stays_as_it_is() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.head(self.attention(x, x, x)[0])
            return found

    result = passes.ResetWeights()(fxprune.trace(Attending().eval(), torch.randn(2, 3, 8)))
    assert [site.path for site in result.rewritten] == ["head"]
    assert "MultiheadAttention has weights and no reset_parameters" in str(result.declined[0])


def test_a_function_with_a_parameter_is_made_a_layer_first() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 3, 3, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.conv2d(x, self.weight)

    graph = fxprune.trace(Functional(), torch.randn(2, 3, 8, 8))
    assert "freeze-weights makes layers" in str(passes.ResetWeights()(graph).declined[0])
    chain = fxprune.Pipeline([passes.FreezeWeights(), passes.ResetWeights()])(graph)
    assert len(chain.steps[-1].result.rewritten) == 1


def test_gates_are_fused_first() -> None:
    graph = fxprune.trace(
        nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 2, 1)).eval(), torch.randn(2, 3, 8, 8)
    )
    gated = fxprune.insert_scales(graph, what="convs").graph_module
    declined = passes.ResetWeights()(gated).declined
    assert "is a gate; fuse it first" in str(declined[0])


def test_training_what_comes_out_leaves_the_input_as_it_was() -> None:
    torch.manual_seed(3)
    graph = fxprune.trace(model(), torch.randn(2, 3, 8, 8))  # its norm is as it is drawn
    state = state_of(graph)
    made = passes.ResetWeights()(graph)
    assert [site.path for site in made.rewritten] == ["0", "5"]
    made.graph_module.train()
    torch.autograd.backward(made.graph_module(torch.randn(2, 3, 8, 8)).sum())
    assert all(one.grad is None for one in graph.parameters())
    assert_state_equal(graph, state)
    assert not passes.ResetWeights()(made.graph_module.eval()).rewritten[1:]  # the norm's statistics alone moved
