"""Gates of channels: what multiplies, what is trained, what is saved."""

from __future__ import annotations

import copy

import pytest
import torch
from channel_nets import NETS
from torch import fx, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import fxprune
from fxprune import passes
from fxprune.gates.channel_gate import ChannelScale, ScaledAxis, ScaledColumns


def gated(name: str = "Dense") -> tuple[fx.GraphModule, fx.GraphModule, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    model, inputs = NETS[name]()
    traced = fxprune.trace(model.eval(), inputs)
    return traced, passes.InsertChannelGate()(traced).graph_module, inputs


@pytest.mark.parametrize(
    ("layer", "axis", "shape"),
    [
        (nn.Linear(6, 4), 1, (2, 6)),
        (nn.Conv1d(6, 4, 3), 1, (2, 6, 9)),
        (nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"), 1, (2, 6, 9, 9)),
        (nn.Conv3d(6, 4, 3, stride=2), 1, (2, 6, 5, 5, 5)),
        (nn.ConvTranspose2d(6, 4, 3, stride=2, output_padding=1), 0, (2, 6, 5, 5)),
    ],
)
def test_columns_are_multiplied_and_the_weight_is_not_written_to(
    layer: nn.Module, axis: int, shape: tuple[int, ...]
) -> None:
    index = torch.tensor([[0, 1, 2, 3, 4, 5]])
    first, second = torch.rand(2), torch.rand(3)
    factor = torch.cat((torch.ones(1), first, second))[index[0]]
    before = layer.weight.clone()  # type: ignore[operator]
    x = torch.randn(shape)
    scaled = x * factor.view(1, -1, *(1,) * (len(shape) - 2))
    torch.testing.assert_close(ScaledColumns(layer, index, axis)(x, first, second), layer(scaled))
    assert torch.equal(layer.weight, before)  # type: ignore[arg-type]


def test_a_column_with_several_labels_is_multiplied_with_all() -> None:
    module = ScaledAxis(torch.tensor([[0, 1, 2], [2, 1, 0]]), 1)
    x, scale = torch.randn(4, 3), torch.tensor([0.5, 3.0])
    torch.testing.assert_close(module(x, scale), x * torch.tensor([3.0, 0.25, 3.0]))


def test_gates_are_one_a_group_with_one_scale_a_class() -> None:
    _, graph, _ = gated()
    found = fxprune.gates_of(graph)
    assert [(gate.kind, gate.width, gate.removable) for gate in found] == [
        ("channels", 8, False),
        *[("channels", 4, False)] * 3,
    ]
    assert torch.equal(found[0].scale, torch.ones(8))
    assert "stem.0" in repr(found[0])


def test_insertion_changes_nothing_and_training_moves_gates() -> None:
    traced, graph, inputs = gated()
    torch.testing.assert_close(graph(*inputs), traced(*inputs))
    graph.train()
    functional.mse_loss(graph(*inputs), torch.zeros(2, 5, 8, 8)).backward()  # type: ignore[no-untyped-call]
    scales = [module for module in graph.modules() if isinstance(module, ChannelScale)]
    assert all(one.gate.grad is not None and bool((one.gate.grad != 0).any()) for one in scales)


def test_states_of_a_gate() -> None:
    scale = ChannelScale(3, torch.ones(1))
    scale.set_scale(torch.tensor([0.0, 0.5, 1.0]), None)
    assert scale.effective_scales.tolist() == [0.0, 0.5, 1.0]
    scale.rest()
    assert scale().tolist() == [1.0, 1.0, 1.0]
    scale.wake()
    with torch.no_grad():
        scale.shrink(0.25)
    assert scale().tolist() == [0.75, 0.75, 0.75]
    scale.close()
    assert scale.closed
    assert scale().tolist() == [0.0, 0.0, 0.0]
    assert scale.with_classes(torch.tensor([0, 2]))().tolist() == [0.0, 0.0]
    assert not scale.gate.requires_grad


def test_copies_and_state_dicts_hold_the_gates() -> None:
    _, graph, inputs = gated("SelectiveKernel")
    for gate in fxprune.gates_of(graph):
        gate.assign(scale=torch.rand(gate.width))
    twin = copy.deepcopy(graph)
    torch.testing.assert_close(twin(*inputs), graph(*inputs))
    _, other, _ = gated("SelectiveKernel")
    other.load_state_dict(graph.state_dict())
    torch.testing.assert_close(other(*inputs), graph(*inputs))
    compiled = torch.compile(graph, backend="eager")
    torch.testing.assert_close(compiled(*inputs), graph(*inputs))


def test_low_precision_keeps_the_scales_wide() -> None:
    _, graph, inputs = gated("ParametricRelu")
    graph.bfloat16()
    assert all(one.gate.dtype == torch.float32 for one in graph.modules() if isinstance(one, ChannelScale))
    assert graph(*(x.bfloat16() for x in inputs)).dtype == torch.bfloat16


def test_what_holds_gates_is_not_emitted(tmp_path: object) -> None:
    _, graph, _ = gated()
    with pytest.raises(fxprune.errors.EmitError, match="FuseChannelGate"):
        fxprune.emit(graph, f"{tmp_path}/out")


@pytest.mark.parametrize("decay", [0.9, 0.9999])
def test_averages_of_buffers_multiply_the_same_columns(decay: float) -> None:
    _, graph, inputs = gated()
    for module in graph.modules():
        if isinstance(module, ChannelScale):
            module.set_scale(torch.linspace(0.1, 1, module.width), None)
    average = AveragedModel(graph, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]
    for _ in range(40):
        average.update_parameters(graph)
    torch.testing.assert_close(average.module.eval()(*inputs), graph.eval()(*inputs))


def test_the_places_of_columns_move_with_the_gate() -> None:
    columns = ScaledColumns(nn.Linear(3, 2), torch.tensor([[0, 1, 2]]), 1)
    assert columns.to("meta").index.is_meta
    assert ScaledColumns(nn.Linear(3, 2), torch.tensor([[0, 1, 2]]), 1).half().index.dtype == torch.int64
