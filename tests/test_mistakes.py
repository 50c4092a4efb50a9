"""The mistakes that others made, one test each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import (
    Block,
    TinyNet,
    Wrapped,
    assert_rewrites,
    assert_state_equal,
    example,
    randomize,
    state_of,
    targets,
    tiny,
    traced,
    with_scales,
)
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

import fxprune
from fxprune import passes
from fxprune.structures.conv_sites import find_conv_sites

COMPILE = [passes.FuseResConv(), passes.FoldBatchNorm(), passes.Simplify()]


def conv(channels: int = 4, **options: object) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, **{"padding": 1, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("eps", [1e-3, 1e-5, 0.1])
def test_1_the_norms_own_eps_is_used(eps: float) -> None:
    model = nn.Sequential(conv(), nn.BatchNorm2d(4, eps=eps))
    graph = with_scales(traced(model, example(2, 4, 6, 6)), (0.7, 0.3))
    assert_rewrites(graph, passes.FuseResConv(), count=1)


def test_2_a_norm_in_train_mode_inside_an_eval_model_is_declined() -> None:
    graph = traced(nn.Sequential(conv(), nn.BatchNorm2d(4)), example(2, 4, 6, 6))
    graph.get_submodule("1").train()
    result = passes.FoldBatchNorm()(graph)
    assert not result.modified
    assert "train mode" in result.declined[0].why


def test_2_a_whole_graph_in_train_mode_is_folded_by_running_statistics_with_a_warning() -> None:
    graph = traced(nn.Sequential(conv(), nn.BatchNorm2d(4)), example(2, 4, 6, 6)).train()
    result = assert_rewrites(graph, passes.FoldBatchNorm(), count=1)
    assert "running statistics" in result.warnings[0]


def test_2_a_norm_without_running_statistics_is_declined() -> None:
    graph = traced(nn.Sequential(conv(), nn.BatchNorm2d(4, track_running_stats=False)), example(2, 4, 6, 6))
    assert_rewrites(graph, passes.FoldBatchNorm(), count=0)
    inserted = assert_rewrites(graph, passes.InsertResConv(), count=0)
    assert "no running statistics" in inserted.declined[0].why


def test_2_a_norm_without_affine_parameters_is_folded() -> None:
    graph = traced(nn.Sequential(conv(), nn.BatchNorm2d(4, affine=False)), example(2, 4, 6, 6))
    assert_rewrites(graph, passes.FoldBatchNorm(), count=1)
    assert_rewrites(with_scales(graph, (0.4, -0.6)), passes.FuseResConv(), count=1)


def test_3_an_in_place_relu_does_not_overwrite_the_shortcut() -> None:
    model = nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU(inplace=True), conv(), nn.BatchNorm2d(4))
    x = example(2, 4, 6, 6)
    graph = with_scales(traced(model, x), (0.5, 1.0))
    first, second = (m for m in graph.modules() if isinstance(m, fxprune.ResConv))
    hidden = torch.relu(0.5 * first.norm(first.conv(x)) + x)  # type: ignore[misc]
    expected = 0.5 * second.norm(second.conv(hidden)) + hidden  # type: ignore[misc]
    torch.testing.assert_close(graph(x), expected)
    fused = fxprune.Pipeline(COMPILE)(graph).graph_module
    torch.testing.assert_close(fused(x), expected)


def test_4_a_conv_called_at_two_sites_is_left_alone() -> None:
    model = Wrapped(lambda m, x: m.bn2(m.conv(torch.relu(m.bn1(m.conv(x))))), conv=conv(), bn1=nn.BatchNorm2d(4),
                    bn2=nn.BatchNorm2d(4))  # fmt: skip
    graph = traced(model, example(2, 4, 6, 6))
    assert {site.reason for site in find_conv_sites(graph)} == {"it is shared by 2 call sites"}
    assert_rewrites(graph, passes.InsertResConv(), count=0)
    assert_rewrites(graph, passes.FoldBatchNorm(), count=0)


def test_4_a_norm_called_at_two_sites_is_left_alone() -> None:
    model = Wrapped(lambda m, x: m.bn(m.conv2(m.bn(m.conv1(x)))), conv1=conv(), conv2=conv(), bn=nn.BatchNorm2d(4))
    graph = traced(model, example(2, 4, 6, 6))
    assert_rewrites(graph, passes.FoldBatchNorm(), count=0)
    assert all("2 call sites" in (site.reason or "") for site in find_conv_sites(graph))


def test_5_a_conv_read_by_others_before_its_norm_is_left_alone() -> None:
    model = Wrapped(lambda m, x: (lambda y: m.bn(y) + y)(m.conv(x)), conv=conv(), bn=nn.BatchNorm2d(4))
    graph = traced(model, example(2, 4, 6, 6))
    assert "read by others" in str(find_conv_sites(graph)[0].reason)
    assert_rewrites(graph, passes.FoldBatchNorm(), count=0)


def test_6_functional_convs_are_found_inserted_and_fused() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 2, 3, 3))
            self.bias = nn.Parameter(torch.randn(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.conv2d(x, self.weight, self.bias, padding=1, groups=2)

    graph = traced(nn.Sequential(Functional(), nn.BatchNorm2d(4)), example(2, 4, 6, 6))
    inserted = assert_rewrites(graph, passes.InsertResConv(), count=1).graph_module
    assert targets(inserted) == ["ResConv"]
    assert_rewrites(with_scales(graph, (0.5, 1.5)), passes.FuseResConv(), count=1)


def test_6_a_functional_conv_with_a_shared_weight_is_left_alone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4, 3, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.conv2d(functional.conv2d(x, self.weight, padding=1), self.weight, padding=1)

    sites = find_conv_sites(traced(Twice(), example(2, 4, 6, 6)))
    assert ["shared by 2" in str(site.reason) for site in sites] == [True, True]


def test_6_a_weight_that_depends_on_the_input_is_declined() -> None:
    class Dynamic(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.conv2d(x, self.weight * x.mean(), self.bias, padding=1)

    (site,) = find_conv_sites(traced(nn.Sequential(Dynamic(4, 4, 3)), example(2, 4, 6, 6)))
    assert site.reason == "its weight is computed in forward: it depends on the inputs"


def test_6_a_weight_computed_from_parameters_alone_is_eligible() -> None:
    class Standardized(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.conv2d(x, self.weight - self.weight.mean(), self.bias, padding=1)

    (site,) = find_conv_sites(traced(nn.Sequential(Standardized(4, 4, 3)), example(2, 4, 6, 6)))
    assert site.eligible
    assert site.params == 4 * 4 * 9 + 4


def test_6_a_parametrized_weight_is_eligible_but_not_folded_into() -> None:
    model = nn.Sequential(parametrizations.weight_norm(conv()), nn.BatchNorm2d(4))
    graph = traced(model, example(2, 4, 6, 6))
    assert find_conv_sites(graph)[0].eligible
    result = passes.FoldBatchNorm()(graph)
    assert not result.modified
    assert "freeze-weights" in result.declined[0].why


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_7_the_identity_index_of_grouped_convs(groups: int) -> None:
    graph = traced(nn.Sequential(conv(8, groups=groups)), example(2, 8, 6, 6))
    assert_rewrites(with_scales(graph, (0.0, 1.0)), passes.FuseResConv(), count=1)


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        (3, {"padding": "same"}),
        (2, {"padding": "same"}),
        (4, {"padding": "same"}),
        (5, {"padding": 4, "dilation": 2}),
        ((3, 5), {"padding": (1, 2)}),
        ((1, 4), {"padding": "same"}),
        (1, {"padding": 0}),
        (1, {"padding": "valid"}),
        (3, {"padding": 1, "padding_mode": "reflect"}),
        (3, {"padding": 1, "padding_mode": "replicate"}),
        (3, {"padding": 1, "padding_mode": "circular"}),
        (4, {"padding": "same", "padding_mode": "reflect"}),
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")  # torch says it may copy
def test_8_the_dirac_tap_is_exact_at_the_borders(kernel: int, options: dict[str, object]) -> None:
    graph = traced(nn.Sequential(nn.Conv2d(4, 4, kernel, **options)), example(2, 4, 9, 9))  # type: ignore[arg-type]
    assert_rewrites(with_scales(graph, (0.3, 1.7)), passes.FuseResConv(), count=1)


def test_8_a_conv_without_a_tap_is_declined() -> None:
    graph = traced(nn.Sequential(nn.Conv2d(4, 4, 2, padding=1, dilation=2)), example(2, 4, 9, 9))
    assert "no tap" in str(find_conv_sites(graph)[0].reason)


def test_8_asymmetric_padding_by_a_layer_changes_the_shape_and_is_declined() -> None:
    graph = traced(nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(4, 4, 2)), example(2, 4, 9, 9))
    assert "changes the shape" in str(find_conv_sites(graph)[0].reason)


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv3d])
def test_8_convs_of_other_dimensions(kind: type[nn.Conv1d | nn.Conv3d]) -> None:
    norm = {nn.Conv1d: nn.BatchNorm1d, nn.Conv3d: nn.BatchNorm3d}[kind](4)
    shape = (2, 4, *[5] * (1 if kind is nn.Conv1d else 3))
    pool = {nn.Conv1d: nn.AdaptiveAvgPool1d, nn.Conv3d: nn.AdaptiveAvgPool3d}[kind](1)
    # the classifier takes no output of an unbatched one
    model = nn.Sequential(kind(4, 4, 3, padding=1), norm, pool, nn.Flatten(), nn.Linear(4, 3))
    graph = traced(model, example(*shape))
    assert_rewrites(with_scales(graph, (-0.3, 0.7)), passes.FuseResConv(), count=1)


def test_9_requires_grad_dtype_and_memory_format_are_kept() -> None:
    model = nn.Sequential(conv(), nn.BatchNorm2d(4)).to(torch.bfloat16, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    model[0].weight.requires_grad_(False)
    graph = fxprune.trace(model, torch.randn(2, 4, 6, 6, dtype=torch.bfloat16))
    fused = passes.FuseResConv()(passes.InsertResConv()(graph).graph_module).graph_module
    layer = fused.get_submodule("0")
    assert isinstance(layer, nn.Conv2d)
    assert layer.weight.dtype == torch.bfloat16
    assert not layer.weight.requires_grad
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    assert not layer.training


def test_9_a_layer_with_hooks_is_declined() -> None:
    layer = conv()
    layer.register_forward_hook(lambda module, args, output: None)
    (site,) = find_conv_sites(traced(nn.Sequential(layer), example(2, 4, 6, 6)))
    assert "hooks" in str(site.reason)


def test_10_tied_parameters_are_declined() -> None:
    first, second = conv(), conv()
    second.weight = first.weight
    sites = find_conv_sites(traced(nn.Sequential(first, second), example(2, 4, 6, 6)))
    assert all("tied" in str(site.reason) for site in sites)


def test_11_an_optimizer_of_the_traced_model_takes_no_step_and_is_told_so() -> None:
    model = TinyNet()
    outside = torch.optim.SGD(model.parameters(), lr=0.1)

    def fit(sparse: nn.Module) -> None:
        sparse(torch.randn(2, 3, 8, 8)).sum().backward()
        outside.step()

    with pytest.raises(fxprune.FxpruneError, match="optimizer made from its parameters"):
        fxprune.prune(model, torch.randn(2, 3, 8, 8), fit, targets=fxprune.Targets(macs=0.5))


def test_12_no_grad_and_frozen_parameters_work() -> None:
    model = randomize(TinyNet()).requires_grad_(False)
    with torch.no_grad():
        graph = fxprune.trace(model, example(2, 3, 8, 8))
        sparse = passes.InsertResConv()(graph).graph_module
    assert all(m.gate.requires_grad for m in sparse.modules() if isinstance(m, fxprune.ResConv))
    result = fxprune.Pipeline(COMPILE)(sparse)
    assert not any(p.requires_grad for p in result.graph_module.parameters())


def test_13_a_value_read_twice_by_one_node_is_not_folded() -> None:
    model = Wrapped(lambda m, x: (lambda y: y * y)(m.conv(x) * 3.0), conv=conv())
    graph = traced(model, example(2, 4, 6, 6))
    result = assert_rewrites(graph, passes.FoldScale(), count=1)  # 3.0 goes into the conv, which one node reads
    assert targets(result.graph_module) == ["Conv2d", "mul"]
    model = Wrapped(lambda m, x: (lambda y: m.bn(y) + y + y)(m.conv(x)), conv=conv(), bn=nn.BatchNorm2d(4))
    assert_rewrites(traced(model, example(2, 4, 6, 6)), passes.FoldBatchNorm(), count=0)


def test_13_x_plus_x_does_not_count_as_one_reader() -> None:
    model = Wrapped(lambda m, x: (lambda y: torch.relu(y * 2.0) + y)(m.conv(x)), conv=conv())
    assert_rewrites(traced(model, example(2, 4, 6, 6)), passes.FoldScale(), count=0)


def test_14_the_graph_is_free_in_the_batch_size() -> None:
    model = Wrapped(lambda m, x: m.conv(x).view(x.size(0), -1), conv=conv())
    graph = traced(model, example(2, 4, 6, 6))
    assert graph(example(5, 4, 6, 6)).shape == (5, 144)


def test_14_the_training_flag_is_not_baked() -> None:
    model = Wrapped(lambda m, x: functional.dropout(m.conv(x), 0.5, m.training), conv=conv())
    graph = traced(model, example(2, 4, 6, 6))
    x = example(2, 4, 6, 6)
    torch.testing.assert_close(graph(x), graph(x))
    graph.train()
    assert not torch.equal(graph(x), graph(x))


def test_an_in_place_add_that_another_name_sees_is_traced_right() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = m.conv(x)
        other = y
        y += 1
        return other * y

    model = Wrapped(function, conv=conv())
    graph = traced(model, example(2, 4, 6, 6))
    x = example(2, 4, 6, 6)
    torch.testing.assert_close(graph(x), model(x))


def test_the_users_model_is_never_changed() -> None:
    torch.manual_seed(0)
    model = TinyNet()
    state, flags = state_of(model), [m.training for m in model.modules()]

    def fit(sparse: nn.Module) -> None:
        optimizer = torch.optim.SGD(sparse.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            sparse(torch.randn(2, 3, 8, 8)).sum().backward()
            optimizer.step()

    fxprune.prune(model, torch.randn(2, 3, 8, 8), fit, targets=fxprune.Targets(macs=0.5))
    assert_state_equal(model, state)
    assert flags == [m.training for m in model.modules()]
    assert all(p.grad is None for p in model.parameters())
    assert model.block1.relu.inplace


def test_a_residual_block_without_convs_leaves_nothing_behind() -> None:
    graph = with_scales(tiny(), (0.0, 0.5), (0.0, 2.0), (0.0, 1.0), (0.0, 1.0))
    result = fxprune.Pipeline([passes.RemoveLayers(), *COMPILE])(graph)
    assert targets(result.graph_module) == ["Conv2d", "ReLU", "adaptive_avg_pool2d", "flatten", "Linear"]
    found = fxprune.verify(graph, result.graph_module, example(3, 3, 8, 8, seed=1))
    assert found.equal, str(found)


def test_a_block_whose_branch_is_zero_leaves_its_shortcut() -> None:
    graph = with_scales(tiny(), (0.0, 0.0), (0.0, 1.0), (1.0, 0.0))
    result = fxprune.Pipeline([passes.RemoveLayers(), *COMPILE])(graph)
    assert [n.target for n in result.graph_module.graph.nodes if "block1" in str(n.target)] == []


def test_block_is_what_the_helpers_say() -> None:
    assert len(find_conv_sites(traced(Block(4), example(1, 4, 5, 5)))) == 2
