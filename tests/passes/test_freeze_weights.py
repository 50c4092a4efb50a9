"""FreezeWeights: what it evaluates, what it leaves alone, and the whole chain around it in float64."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import (
    Wrapped,
    assert_rewrites,
    assert_state_equal,
    example,
    randomize,
    resconvs,
    state_of,
    targets,
    traced,
)
from torch import fx, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

import fxprune
from fxprune import passes
from fxprune.facts.shapes import propagate_shapes, same_shape
from fxprune.ir.nodes import EXAMPLE_INPUTS
from fxprune.pipelines.chains import AFTER_TRAINING
from fxprune.structures.conv_sites import find_conv_sites


class Standardized(nn.Conv2d):
    """Scaled weight standardisation as timm's ScaledStdConv2d writes it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = functional.batch_norm(
            self.weight.reshape(1, self.out_channels, -1),
            None,
            None,
            weight=(self.gain * 0.3).view(-1),
            training=True,
            momentum=0.0,
            eps=1e-6,
        ).reshape_as(self.weight)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class RepVgg(nn.Module):
    """The sum of a 3x3, a 1x1 and an identity kernel, computed in forward; the bias is a sum too."""

    identity: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.large = nn.Parameter(torch.randn(channels, channels, 3, 3) / 6)
        self.small = nn.Parameter(torch.randn(channels, channels, 1, 1) / 6)
        self.register_buffer("identity", torch.eye(channels)[:, :, None, None])
        self.biases = nn.ParameterList([torch.randn(channels), torch.randn(channels)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.large + functional.pad(self.small + self.identity, (1, 1, 1, 1))
        return functional.conv2d(x, weight, self.biases[0] + self.biases[1], padding=1)


class Plain(nn.Module):
    """F.conv2d and F.linear with plain parameters."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, channels, 3, 3) / 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, self.weight, padding=1)


def old_style(kind: Callable[..., Any], layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return kind(layer)  # type: ignore[no-any-return]


def conv(**options: Any) -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, **{"padding": 1, **options})


KINDS: dict[str, Callable[[], nn.Module]] = {
    "plain": conv,
    "functional": lambda: Plain(4),
    "standardized": lambda: Standardized(4, 4, 3, padding=1),
    "standardized, grouped": lambda: Standardized(4, 4, 3, padding=1, groups=2, bias=False),
    "sum of kernels": lambda: RepVgg(4),
    "weight_norm": lambda: parametrizations.weight_norm(conv()),
    "spectral_norm": lambda: parametrizations.spectral_norm(conv(bias=False)),
    "orthogonal": lambda: parametrizations.orthogonal(conv()),
    "old weight_norm": lambda: old_style(nn.utils.weight_norm, conv()),
    "old spectral_norm": lambda: old_style(nn.utils.spectral_norm, conv()),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("with_norm", "dtype"), [(True, torch.float64), (False, torch.float64), (False, torch.float32)]
)
def test_the_whole_chain(kind: str, with_norm: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layers = [[KINDS[kind](), *[nn.BatchNorm2d(4)] * with_norm, nn.ReLU(inplace=True)] for _ in range(3)]
    model = randomize(nn.Sequential(*[layer for group in layers for layer in group])).to(dtype)
    state = state_of(model)
    graph = fxprune.trace(model, example(2, 4, 6, 6).to(dtype))
    sparse = fxprune.Pipeline([passes.InsertResConv()])(graph).graph_module  # raises unless equal to 1e-9
    assert len(resconvs(sparse)) == 3
    for (_, layer), scales in zip(resconvs(sparse), [(0.7, 0.4), (0.0, 1.5), (1.2, -0.3)], strict=True):
        layer.assign(scale=scales[0], shortcut=scales[1])
        assert layer.coefficients() == pytest.approx(scales, rel=1e-6)
    result = fxprune.Pipeline([passes.RemoveLayers(), *AFTER_TRAINING])(sparse)
    assert set(targets(result.graph_module)) == {"Conv2d", "ReLU"}
    assert [type(m) for m in result.graph_module.modules()].count(nn.Conv2d) == 2
    found = fxprune.verify(sparse, result.graph_module, example(3, 4, 5, 7, seed=1).to(dtype))
    # rounded weights are not kept outside of the pipeline
    assert found.max_relative <= (1e-12 if dtype == torch.float64 else 1e-5), str(found)
    assert_state_equal(model, state)


@pytest.mark.parametrize(
    "kind", ["standardized", "sum of kernels", "weight_norm", "old weight_norm", "spectral_norm"]
)
def test_the_original_parameters_are_trained(kind: str) -> None:
    graph = traced(nn.Sequential(KINDS[kind]()), example(2, 4, 6, 6))
    sparse = passes.InsertResConv()(graph).graph_module.train()
    before = {id(p) for p in graph.parameters()}
    trained = {id(p): p for p in sparse.parameters()}
    assert before <= set(trained)
    sparse(example(2, 4, 6, 6)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in sparse.parameters())


def test_the_gauge_follows_a_computed_weight() -> None:
    graph = traced(nn.Sequential(KINDS["standardized"]()), example(2, 4, 6, 6))
    ((_, layer),) = resconvs(passes.InsertResConv()(graph).graph_module)
    before = layer.scale.item()
    with torch.no_grad():
        layer.conv.parametrizations.weight[0].get_parameter("_0_gain").mul_(2)  # type: ignore[index,union-attr]
    assert layer.scale.item() == pytest.approx(before / 2, rel=1e-5)  # twice the weight, half the scale
    assert layer.effective_scale == pytest.approx(1)


def test_reading_the_scale_steps_no_power_iteration() -> None:
    for kind in ("spectral_norm", "old spectral_norm"):
        sparse = passes.InsertResConv()(traced(nn.Sequential(KINDS[kind]()), example(2, 4, 6, 6))).graph_module
        sparse.train()
        state = state_of(sparse)
        ((_, layer),) = resconvs(sparse)
        layer.coefficients()
        assert layer.effective_scale == pytest.approx(1)
        assert_state_equal(sparse, state)


def test_a_computed_weight_is_not_fused_before_it_is_frozen() -> None:
    for kind in ("standardized", "weight_norm", "old weight_norm"):
        sparse = passes.InsertResConv()(traced(nn.Sequential(KINDS[kind]()), example(2, 4, 6, 6))).graph_module
        result = assert_rewrites(sparse, passes.FuseResConv(), count=0)
        assert "freeze-weights" in result.declined[0].why
        frozen = assert_rewrites(sparse, passes.FreezeWeights(), count=1).graph_module
        assert_rewrites(frozen, passes.FuseResConv(), count=1)


@pytest.mark.parametrize("kind", ["functional", "standardized", "sum of kernels"])
def test_functional_convs_become_layers_in_their_places(kind: str) -> None:
    graph = traced(nn.Sequential(nn.ReLU(), KINDS[kind]()), example(2, 4, 6, 6))
    result = passes.FreezeWeights()(graph)
    assert targets(result.graph_module) == ["ReLU", "Conv2d"]
    assert {name for name, _ in result.graph_module.named_parameters()} <= {"1.weight", "1.bias"}
    found = fxprune.verify(graph, result.graph_module, example(2, 4, 6, 6), tolerance=1e-12)
    assert found.equal, str(found)
    assert not passes.FreezeWeights()(result.graph_module).modified


def test_a_functional_linear_becomes_a_layer() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 4))
            self.bias = nn.Parameter(torch.randn(3))
            self.tied = nn.Parameter(torch.randn(3, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = functional.linear(x, self.weight, bias=self.bias)
            return functional.linear(functional.linear(x, self.tied), self.tied)

    result = assert_rewrites(traced(Head(), example(2, 4)), passes.FreezeWeights(), count=1)
    assert targets(result.graph_module) == ["Linear", "linear", "linear"]
    assert {site.why for site in result.declined} == {"its weight is shared by 2 call sites"}


class Awkward(nn.Module):
    """One way to compute a weight that is no constant; ``mean`` is a buffer."""

    def __init__(self, function: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, 3, 3) / 6)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))
        self.tanh = nn.Tanhshrink()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, self.function(self, x), padding=1)


def _normed(m: Any, x: torch.Tensor) -> torch.Tensor:
    return functional.batch_norm(m.weight, m.mean, m.var, training=True)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda m, x: m.weight * x.mean(), "depends on the inputs"),
        (lambda m, x: m.weight * torch.rand_like(m.weight), "draws random numbers"),
        (lambda m, x: functional.dropout(m.weight, 0.5, True), "draws random numbers"),
        (lambda m, x: m.weight + 0 * torch.empty_like(m.weight), "uninitialised"),
        (_normed, "mean is updated in forward"),
        (lambda m, x: m.tanh(m.weight), "Tanhshrink"),
    ],
)
def test_what_is_no_constant_is_left_alone(
    function: Callable[[Any, torch.Tensor], torch.Tensor], reason: str
) -> None:
    model = Awkward(function).double().eval()
    graph = fx.GraphModule(model, _BufferTracer().trace(model))
    propagate_shapes(graph, (example(2, 4, 6, 6),))
    (site,) = find_conv_sites(graph)
    assert reason in str(site.reason)
    result = passes.FreezeWeights()(graph)
    assert not result.modified
    assert reason in result.declined[0].why


def test_a_weight_that_depends_on_the_train_flag_is_left_alone() -> None:
    graph = traced(Awkward(lambda m, x: functional.dropout(m.weight, 0.5, m.training)), example(2, 4, 6, 6))
    result = assert_rewrites(graph, passes.FreezeWeights(), count=0)
    assert "depends on training" in result.declined[0].why


class _BufferTracer(fx.Tracer):
    """Traces buffers as values."""

    proxy_buffer_attributes = True


def test_a_buffer_that_is_updated_in_forward_is_no_constant() -> None:
    class Counting(nn.Module):
        calls: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4, 3, 3))
            self.register_buffer("calls", torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls.view(-1).add_(1)
            return functional.conv2d(x, self.weight * self.calls, padding=1)

    model = Counting().double()
    graph = fx.GraphModule(model, _BufferTracer().trace(model))
    propagate_shapes(graph, (example(2, 4, 6, 6),))
    graph.meta[EXAMPLE_INPUTS] = (example(2, 4, 6, 6),)
    result = assert_rewrites(graph, passes.FreezeWeights(), count=0)
    assert "calls is updated in forward" in result.declined[0].why


def test_weights_of_several_convs_are_left_alone_by_resconvs() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4, 3, 3) / 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = functional.conv2d(x, self.weight * 2, padding=1)
            return functional.conv2d(y, self.weight * 3, padding=1)

    graph = traced(Twice(), example(2, 4, 6, 6))
    assert all("shared by 2" in str(site.reason) for site in find_conv_sites(graph))
    result = assert_rewrites(graph, passes.FreezeWeights(), count=4)  # two weights, two layers
    assert targets(result.graph_module) == ["Conv2d", "Conv2d"]


@pytest.mark.parametrize("kind", ["weight_norm", "old weight_norm"])
def test_a_parametrized_conv_at_two_sites_stays_one_layer(kind: str) -> None:
    graph = traced(Wrapped(lambda m, x: m.conv(torch.relu(m.conv(x))), conv=KINDS[kind]()), example(2, 4, 6, 6))
    assert {site.reason for site in find_conv_sites(graph)} == {"it is shared by 2 call sites"}
    result = passes.FreezeWeights()(graph)
    assert len(list(result.graph_module.parameters())) == 2
    found = fxprune.verify(graph, result.graph_module, example(2, 4, 6, 6), tolerance=1e-12)
    assert found.equal, str(found)


def test_a_parametrized_conv_with_other_hooks_is_left_alone() -> None:
    layer = parametrizations.weight_norm(conv())
    graph = traced(nn.Sequential(layer), example(2, 4, 6, 6))
    graph.get_submodule("0").register_forward_hook(lambda *_: None)
    assert "hooks" in str(find_conv_sites(graph)[0].reason)
    assert_rewrites(graph, passes.FreezeWeights(), count=0)


def test_dtype_requires_grad_and_train_mode_are_kept() -> None:
    model = nn.Sequential(Standardized(4, 4, 3, padding=1), parametrizations.weight_norm(conv())).half()
    model[1].requires_grad_(False)
    graph = fxprune.trace(model, torch.randn(2, 4, 6, 6).half())
    result = fxprune.Pipeline([passes.FreezeWeights()])(graph)
    first, second = (result.graph_module.get_submodule(name) for name in ("0", "1"))
    assert {p.dtype for p in result.graph_module.parameters()} == {torch.float16}
    assert all(p.requires_grad for p in first.parameters())
    assert not any(p.requires_grad for p in second.parameters())
    assert first.training
    assert second.training
    assert "training goes on" in result.warnings[0]


def test_values_from_buffers_stay_buffers() -> None:
    model = Wrapped(lambda m, x: x + m.norm.running_mean.abs().view(-1, 1, 1), norm=nn.BatchNorm2d(4))
    randomize(model)
    graph = fx.GraphModule(model, _BufferTracer().trace(model))
    result = passes.FreezeWeights()(graph)
    assert result.modified
    assert not list(result.graph_module.parameters())
    assert len(list(result.graph_module.buffers())) == 1
    torch.testing.assert_close(result.graph_module(example(2, 4, 3, 3)), model(example(2, 4, 3, 3)))


@pytest.mark.parametrize("name", ["eca_nfnet_l0", "resnetv2_50x1_bit"])
def test_standardised_convs_of_timm_that_keep_their_shape_are_eligible(name: str) -> None:
    timm = pytest.importorskip("timm", reason="timm is an extra")
    torch.manual_seed(0)
    graph = fxprune.trace(timm.create_model(name).eval(), torch.randn(1, 3, 64, 64))
    computed = [(site, site.conv) for site in find_conv_sites(graph) if site.conv is not None and site.conv.computed]
    assert len(computed) == sum(node.target is functional.conv2d for node in graph.graph.nodes)
    keeping = [site for site, call in computed if same_shape(call.input, call.node) and call.module.stride == (1, 1)]
    assert keeping
    assert all(site.eligible for site in keeping)


def test_a_value_computed_from_a_layers_weight_does_not_end_in_the_layer() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.conv(x) + m.conv(torch.ones(1, 4, 6, 6, dtype=x.dtype)) * m.conv.weight.mean()  # type: ignore[no-any-return]

    graph = traced(Wrapped(function, conv=nn.Conv2d(4, 4, 3, padding=1)), example(2, 4, 6, 6))
    layer = graph.get_submodule("conv")
    names = list(layer.state_dict())
    assert_rewrites(graph, passes.FreezeWeights(), count=1)
    assert list(layer.state_dict()) == names
