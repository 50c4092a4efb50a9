"""One op alone, at any widths: it runs, and it is as wide as was asked."""

from __future__ import annotations

import pytest
import torch
from latency_helpers import small_graph
from torch import nn

import fxprune
from fxprune.costs.latency.conditions import Conditions
from fxprune.costs.latency.network_ops import ops_of

CONDITIONS = Conditions()


def test_each_op_of_a_network_runs_at_full_width_and_at_half() -> None:
    for op in ops_of(small_graph(), 1):
        for share in (1, 2):
            widths = tuple(one // share for one in op.workload.widths)
            graph, inputs = op.workload.make(widths, CONDITIONS)
            value = graph(*inputs)
            node, axis = op.axes[-1]
            meta = node.meta["tensor_meta"]
            expected = [widths[-1] if place == axis else size for place, size in enumerate(meta.shape)]
            assert list(value.shape) == expected, op.workload.family


def test_grouped_convs_keep_their_groups() -> None:
    model = nn.Sequential(nn.Conv2d(8, 16, 3, groups=4), nn.Conv2d(16, 32, 3, groups=16))
    grouped, deep = ops_of(fxprune.trace(model.eval(), torch.randn(1, 8, 9, 9)), 1)
    assert (grouped.workload.widths, grouped.workload.steps) == ((8, 16), (4, 4))
    assert (deep.workload.widths, deep.workload.steps) == ((32,), (2,))
    graph, inputs = deep.workload.make((8,), CONDITIONS)
    assert graph.get_parameter("op.weight").shape == (8, 1, 3, 3)
    assert inputs[0].shape == (1, 4, 7, 7)


def test_conditions_are_kept() -> None:
    op = ops_of(small_graph(), 1, "channels_last")[0]
    graph, inputs = op.workload.make((3, 32), Conditions(dtype="bfloat16", layout="channels_last"))
    assert graph.get_parameter("op.weight").dtype == inputs[0].dtype == torch.bfloat16
    assert inputs[0].is_contiguous(memory_format=torch.channels_last)


def test_what_is_timed_as_called_reads_what_the_network_reads() -> None:
    class Lookup(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.EmbeddingBag(5, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.table(x)
            return found

    model = Lookup().eval()
    indices = torch.tensor([[4, 1], [0, 2]])
    (op,) = ops_of(fxprune.trace(model, indices), 2)
    graph, inputs = op.workload.make((), CONDITIONS)
    assert torch.equal(inputs[0], indices)
    torch.testing.assert_close(graph(*inputs), model(indices))


@pytest.mark.parametrize("other", [nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(3, 8, 5)])
def test_other_work_is_another_family(other: nn.Module) -> None:
    one, two = (
        ops_of(fxprune.trace(nn.Sequential(layer).eval(), torch.randn(1, 3, 9, 9)), 1)[0]
        for layer in (nn.Conv2d(3, 8, 3), other)
    )
    assert one.workload.family != two.workload.family


def test_how_a_conv_pads_is_a_part_of_its_work() -> None:
    zeros, circular = (
        fxprune.trace(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode=mode)).eval(), torch.randn(1, 3, 6, 6))
        for mode in ("zeros", "circular")
    )
    families = [ops_of(one, 1)[0].workload.family for one in (zeros, circular)]
    assert families[0] != families[1]
    graph, inputs = ops_of(circular, 1)[0].workload.make((5, 7), Conditions())
    assert graph.get_submodule("op").padding_mode == "circular"
    assert graph(*inputs).shape == (1, 7, 6, 6)
