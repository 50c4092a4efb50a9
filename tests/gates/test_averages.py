"""Averages and copies of a graph with scales: they compute what the graph computes with the averaged weights."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import TinyNet, tiny
from timm.utils.model_ema import ModelEmaV2, ModelEmaV3
from torch import fx, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.ops.misc import FrozenBatchNorm2d

import fxprune
from fxprune import passes, pruning
from fxprune.gates.gate import ScaledLayer
from fxprune.structures.gated_layers import layers

Update = Callable[[], None]
Averager = Callable[[fx.GraphModule], tuple[Any, Update]]
STEPS = 24


def ema_function(decay: float) -> Any:
    return get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]


def sparse_graph(channels: int = 6) -> fx.GraphModule:
    torch.manual_seed(0)
    graph = fxprune.trace(TinyNet(channels), torch.randn(4, 3, 8, 8))
    return fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(graph).graph_module.train()


def averaged_model(**options: Any) -> Averager:
    def make(graph: fx.GraphModule) -> tuple[nn.Module, Update]:
        ema = AveragedModel(graph, **options)
        return ema.module, lambda: ema.update_parameters(graph)

    return make


def timm_ema(kind: type[Any], **options: Any) -> Averager:
    def make(graph: fx.GraphModule) -> tuple[nn.Module, Update]:
        ema = kind(graph, decay=0.9, **options)
        return ema.module, lambda: ema.update(graph)

    return make


@torch.no_grad()
def _by_hand(mine: Any, trained: Any, floats_only: bool) -> None:
    for one, other in zip(mine, trained, strict=True):
        if one.is_floating_point():
            one.data.mul_(0.9).add_(other.data, alpha=0.1)  # leaves no trace of having written
        elif not floats_only:
            one.copy_(other)


def state_dict_loop(floats_only: bool) -> Averager:
    def make(graph: fx.GraphModule) -> tuple[nn.Module, Update]:
        ema = copy.deepcopy(graph)
        return ema, lambda: _by_hand(ema.state_dict().values(), graph.state_dict().values(), floats_only)

    return make


def parameters_and_buffers(graph: fx.GraphModule) -> tuple[nn.Module, Update]:
    ema = copy.deepcopy(graph)

    def update() -> None:
        _by_hand(ema.parameters(), graph.parameters(), True)
        for mine, trained in zip(ema.buffers(), graph.buffers(), strict=True):
            mine.data.copy_(trained.data)

    return ema, update


AVERAGERS: dict[str, Averager] = {
    "AveragedModel": averaged_model(),
    "AveragedModel, EMA": averaged_model(multi_avg_fn=ema_function(0.9)),
    "AveragedModel, buffers": averaged_model(use_buffers=True),
    "AveragedModel, EMA, buffers": averaged_model(multi_avg_fn=ema_function(0.9), use_buffers=True),
    "AveragedModel, slow": averaged_model(multi_avg_fn=ema_function(0.99999), use_buffers=True),
    "ModelEmaV2": timm_ema(ModelEmaV2),
    "ModelEmaV3": timm_ema(ModelEmaV3),
    "ModelEmaV3, one by one": timm_ema(ModelEmaV3, foreach=False),
    "ModelEmaV3, parameters": timm_ema(ModelEmaV3, exclude_buffers=True),
    "state dict": state_dict_loop(False),
    "state dict, floats": state_dict_loop(True),
    "parameters and buffers": parameters_and_buffers,
}


def train(graph: fx.GraphModule, steps: int, shrink: pruning.ProximalL1 | None, *updates: Update) -> None:
    optimizer = torch.optim.SGD(pruning.parameter_groups(graph, 1e-4), lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(graph(torch.randn(4, 3, 8, 8)), torch.randint(0, 5, (4,)))
        loss.backward()  # type: ignore[no-untyped-call]
        if shrink is None:  # the weights alone
            for layer in layers(graph):
                layer.module.trained_scale.grad = None
        optimizer.step()
        if shrink is not None:
            shrink.step(0.1)
        for update in updates:
            update()


def with_weights_of(graph: fx.GraphModule, average: nn.Module) -> fx.GraphModule:
    """Return a copy of ``graph`` with the parameters and the norms' statistics of ``average``, and its own states."""
    right = copy.deepcopy(graph)
    theirs = average.state_dict()
    for name, tensor in right.state_dict().items():
        if not name.endswith(".history"):
            tensor.copy_(theirs[name])
    return right


def assert_same(right: fx.GraphModule, average: nn.Module, tolerance: float = 1e-5) -> None:
    assert isinstance(average, fx.GraphModule)
    right, average = right.eval(), average.eval()
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(average(x), right(x), rtol=tolerance, atol=tolerance)
    for mine, theirs in zip(layers(average), layers(right), strict=True):
        assert (mine.module.closed, mine.module.resting) == (theirs.module.closed, theirs.module.resting), mine.path
        assert mine.scale == pytest.approx(theirs.scale, rel=tolerance)
        assert mine.coefficient() == pytest.approx(theirs.coefficient(), rel=tolerance)
    removed = [passes.RemoveLayers(threshold=0.0)(one) for one in (average, right)]
    assert [site.node for site in removed[0].rewritten] == [site.node for site in removed[1].rewritten]
    torch.testing.assert_close(removed[0].graph_module(x), average(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steered", [True, False])
@pytest.mark.parametrize("name", AVERAGERS)
def test_an_average_is_the_graph_with_the_averaged_weights(name: str, steered: bool) -> None:
    graph = sparse_graph()
    before, follow_before = AVERAGERS[name](graph)
    train(graph, 0 if steered else 3, None, follow_before)
    shrink = (
        fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.6), meet_after=16)
        if steered
        else fxprune.ProximalL1(graph, 0.6)
    )
    after, follow_after = AVERAGERS[name](graph)
    train(graph, 8, shrink, follow_before, follow_after)
    middle, follow = AVERAGERS[name](graph)
    for count in (1, 3, STEPS - 12):
        train(graph, count, shrink, follow_before, follow_after, follow)
        shrink.close_zeros()
        for update in (follow_before, follow_after, follow):
            update()
        for average in (before, after, middle):
            assert_same(with_weights_of(graph, average), average)
    assert shrink.closed
    chain = fxprune.Pipeline([passes.RemoveLayers(threshold=0.0), *fxprune.AFTER_TRAINING])
    plain = chain(before.eval()).graph_module
    assert not any(isinstance(module, ScaledLayer) for module in plain.modules())
    if steered:
        assert any(layer.resting for layer in shrink.layers.values())


def test_a_layer_that_rests_again_and_is_opened_again_is_followed() -> None:
    graph = sparse_graph()
    ema, update = AVERAGERS["ModelEmaV2"](graph)
    for _ in range(3):
        shrink: pruning.ProximalL1 = fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.9), meet_after=100)
        update()
        assert_same(with_weights_of(graph, ema), ema)
        shrink = fxprune.ProximalL1(graph, 0.0)
        train(graph, 2, shrink, update)
        assert_same(with_weights_of(graph, ema), ema, 1e-4)
    first = next(iter(shrink.layers.values()))
    first.close()
    update()
    assert_same(with_weights_of(graph, ema), ema, 1e-4)
    fxprune.gates_of(graph)[0].assign(scale=0.5)
    update()
    assert_same(with_weights_of(graph, ema), ema, 1e-4)


def test_parameters_that_are_averaged_alone_are_refused_where_a_layer_was_opened_since() -> None:
    graph = sparse_graph()
    shrink = fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.5), meet_after=8)
    ema = copy.deepcopy(graph).eval()
    train(graph, 6, shrink, lambda: _by_hand(ema.parameters(), graph.parameters(), True))
    with pytest.raises(fxprune.FxpruneError, match="averaged or loaded without their buffers"):
        ema(torch.randn(1, 3, 8, 8))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_compiled_average_follows_too(compiled: bool) -> None:
    graph = sparse_graph()
    ema, update = AVERAGERS["parameters and buffers"](graph)
    ema.eval()
    called = torch.compile(ema, backend="eager") if compiled else ema
    shrink = fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.5), meet_after=8)
    x = torch.randn(4, 3, 8, 8)
    for _ in range(3):
        train(graph, 4, shrink, update)
        with torch.no_grad():
            torch.testing.assert_close(called(x), with_weights_of(graph, ema).eval()(x), rtol=1e-5, atol=1e-5)
    torch._dynamo.reset()


def test_a_compiled_graph_is_one_graph_and_made_anew_where_a_layer_closes() -> None:
    graph = sparse_graph().eval()
    shrink = fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.5), meet_after=6)
    compiled = torch.compile(graph, backend="eager", fullgraph=True)
    x = torch.randn(4, 3, 8, 8)
    for _ in range(7):
        torch.testing.assert_close(compiled(x), graph(x))
        shrink.step(0.1)
    torch._dynamo.reset()


def copies(graph: fx.GraphModule) -> list[fx.GraphModule]:
    file = io.BytesIO()
    torch.save(graph, file)
    file.seek(0)
    return [copy.deepcopy(graph), torch.load(file, weights_only=False), fxprune.Pipeline([])(graph).graph_module]


def test_copies_and_files_hold_what_is_closed_and_what_rests() -> None:
    graph = sparse_graph()
    shrink = fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.5), meet_after=12)
    train(graph, 8, shrink)
    for one in copies(graph):
        assert_same(graph, one)


def test_a_state_dict_is_loaded_in_any_order() -> None:
    first = sparse_graph()
    shrink = fxprune.SteeredL1(first, targets=fxprune.Targets(macs=0.4), meet_after=10)
    states = []
    for _ in range(7):
        shrink.step(0.1)
        states.append((copy.deepcopy(first.state_dict()), copy.deepcopy(shrink.state_dict())))
    for graph_state, shrink_state in states:
        outcomes = []
        for order in ("graph first", "shrink first", "graph before all"):
            graph = sparse_graph()
            if order == "graph before all":
                graph.load_state_dict(graph_state)
            resumed = fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.4), meet_after=10)
            if order == "graph first":
                graph.load_state_dict(graph_state)
            resumed.load_state_dict(shrink_state)
            if order == "shrink first":
                graph.load_state_dict(graph_state)
            while resumed.steps_done < 12:
                resumed.step(0.1)
            gates = [float(layer.trained_scale) for layer in resumed.layers.values()]
            outcomes.append((resumed.closed, gates, graph.eval()(torch.ones(1, 3, 8, 8)).tolist()))
        assert outcomes[0] == outcomes[1] == outcomes[2]


OLD_NAMES = {"ResConv": ("input_rms", "initial_gauge", "gain"), "BranchScale": ("signed_size", "initial_gauge")}


def of_an_earlier_version(graph: fx.GraphModule) -> dict[str, torch.Tensor]:
    """Return the state dict that fxprune 0.1 wrote: units one by one, flags as extra state."""
    state = graph.state_dict()
    for path, module in graph.named_modules():
        if isinstance(module, ScaledLayer):
            del state[f"{path}.history"]
            state |= {f"{path}.{name}": getattr(module, name).clone() for name in OLD_NAMES[type(module).__name__]}
            if isinstance(module, fxprune.ResConv):
                state[f"{path}.signs"] = torch.stack([module.unit("scale_sign"), module.unit("shortcut_sign")])
            state[f"{path}._extra_state"] = torch.tensor([module.closed, module.resting])
    return state


@pytest.mark.parametrize("steers_first", [True, False])
def test_checkpoints_of_an_earlier_version_mean_the_same(steers_first: bool) -> None:
    graph = sparse_graph()
    shrink = fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.5), meet_after=12)
    train(graph, 8, shrink)
    next(layer for layer in shrink.layers.values() if isinstance(layer, fxprune.ResConv)).assign(scale=-0.5)
    other = sparse_graph()
    if steers_first:
        fxprune.SteeredL1(other, targets=fxprune.Targets(macs=0.5), meet_after=12)
    old = of_an_earlier_version(graph)
    names = set(old)
    other.load_state_dict(old)
    assert set(old) == names  # what was given is not changed
    assert_same(graph, other)


@pytest.mark.parametrize("cast", [torch.half, torch.bfloat16, torch.double])
def test_scales_are_never_narrower_than_float32(cast: torch.dtype) -> None:
    graph = sparse_graph()
    fxprune.ProximalL1(graph, strength=1e-3).step(lr=0.1)
    cast_graph = copy.deepcopy(graph).to(cast)
    for before, after in zip(layers(graph), layers(cast_graph), strict=True):
        assert (
            after.module.gate.dtype == after.module.history.dtype == (cast if cast == torch.double else torch.float)
        )
        assert after.module.gate.item() == before.module.gate.item()
    x = torch.randn(4, 3, 8, 8)
    found = cast_graph.eval()(x.to(cast))
    assert found.dtype == cast
    torch.testing.assert_close(found.float(), graph.eval()(x), rtol=0.1, atol=0.1)


def frozen(norm: nn.BatchNorm2d) -> nn.Module:
    made: nn.Module = FrozenBatchNorm2d(norm.num_features, norm.eps)
    made.load_state_dict(norm.state_dict())
    return made


class Alike(nn.Module):
    """A parametrization that changes nothing."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * 1.0


def parametrized(norm: nn.BatchNorm2d) -> nn.Module:
    nn.utils.parametrize.register_parametrization(norm, "weight", Alike())
    return norm


def other_norm(norm: nn.BatchNorm2d) -> nn.Module:
    made = nn.GroupNorm(2, norm.num_features)
    nn.init.constant_(made.weight, 0.3)
    return made


def synchronised(norm: nn.BatchNorm2d) -> Any:
    return nn.SyncBatchNorm.convert_sync_batchnorm(norm)  # type: ignore[no-untyped-call]


REPLACEMENTS: dict[str, Callable[[nn.BatchNorm2d], nn.Module]] = {
    "frozen": frozen,
    "parametrized": parametrized,
    "synchronised": synchronised,
    "an identity": lambda norm: nn.Identity(),
    "another": other_norm,
}


@pytest.mark.parametrize("state", ["untouched", "resting", "open", "trained", "closed"])
@pytest.mark.parametrize("name", REPLACEMENTS)
def test_a_norm_that_is_replaced_leaves_the_scale_as_it_was(name: str, state: str) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    nn.init.uniform_(norm.weight, 0.5, 3)
    nn.init.uniform_(norm.get_buffer("running_var"), 0.5, 3)
    made = fxprune.ResConv(nn.Conv2d(4, 4, 3, padding=1), norm, input_rms=0.7).eval()
    if state == "resting":
        made.rest()
    elif state != "untouched":
        with torch.no_grad():
            made.gate.fill_(0.3)
            if state == "trained":
                norm.weight.mul_(1.7)
    if state == "closed":
        made.close()
    scale, shortcut = made.coefficients()
    x = torch.randn(2, 4, 5, 5)
    made.add_module("norm", REPLACEMENTS[name](norm).eval())
    new = made.norm
    assert new is not None
    expected = scale * new(made.conv(x)) + shortcut * x
    torch.testing.assert_close(made(x), expected)
    assert made.coefficients() == pytest.approx((scale, shortcut), rel=1e-6)
    again = copy.deepcopy(made)
    torch.testing.assert_close(again(x), expected)
    fused = fxprune.Pipeline([passes.FuseResConv()])(fxprune_graph(made, x)).graph_module
    if name != "another":
        assert not any(isinstance(module, fxprune.ResConv) for module in fused.modules())
    torch.testing.assert_close(fused(x), expected, rtol=1e-4, atol=1e-4)


def fxprune_graph(layer: fxprune.ResConv, x: torch.Tensor) -> fx.GraphModule:
    """Return a graph that calls ``layer``."""
    conv = nn.Conv2d(4, 4, 3, padding=1)
    graph = passes.InsertResConv()(fxprune.trace(nn.Sequential(conv).eval(), x)).graph_module
    graph.add_module("0", layer)
    return graph


@pytest.mark.parametrize("change", ["close", "rest"])
def test_other_weights_for_one_call_leave_no_state(change: str) -> None:
    """``torch.func.functional_call`` puts tensors in the place of the layer's own for one call."""
    sparse = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(tiny()).graph_module
    other, x = copy.deepcopy(sparse), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    for layer in layers(other):
        getattr(layer.module, change)()
    for one, weights in ((sparse, other), (other, sparse)):
        before = one(x)
        states = [(layer.module.closed, layer.module.resting) for layer in layers(one)]
        torch.testing.assert_close(torch.func.functional_call(one, dict(weights.state_dict()), (x,)), weights(x))
        assert [(layer.module.closed, layer.module.resting) for layer in layers(one)] == states
        assert torch.equal(one(x), before)
