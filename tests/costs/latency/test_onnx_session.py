"""ONNX Runtime: what it computes, and what only brings tensors into its own layout."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxprune
from fxprune.costs.latency.conditions import Conditions
from fxprune.costs.latency.onnx_session import copies_of, op_session, session_of
from fxprune.errors import FxpruneError

CONDITIONS = Conditions("onnxruntime")


def test_it_computes_what_the_graph_does() -> None:
    x = torch.randn(1, 3, 8, 8)
    graph = fxprune.trace(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU()).eval(), x)
    run, share = session_of(graph, (x,), CONDITIONS)
    assert share == 1
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(run()[0]), graph(x), rtol=1e-4, atol=1e-5)


def test_inputs_are_found_by_name_in_containers_and_where_nothing_reads_one() -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 8, 3), nn.Linear(4, 8)

        def forward(
            self, named: dict[str, torch.Tensor], unread: torch.Tensor, added: torch.Tensor
        ) -> dict[str, torch.Tensor]:
            return {"y": self.conv(named["b"]) + self.linear(named["a"])[:, :, None, None] + added}

    named = {"a": torch.randn(1, 4), "b": torch.randn(1, 3, 8, 8)}
    inputs = named, torch.randn(1, 2), torch.randn(1, 1, 1, 1)
    graph = fxprune.trace(Several().eval(), inputs)
    run, _ = session_of(graph, inputs, CONDITIONS)
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(run()[0]), graph(*inputs)["y"], rtol=1e-4, atol=1e-5)


def test_the_share_of_one_op_is_a_share() -> None:
    x = torch.randn(1, 64, 8, 8)
    _, share = op_session(fxprune.trace(nn.Sequential(nn.Flatten()).eval(), x), (x,), CONDITIONS)
    assert 0 < share <= 1


@pytest.mark.parametrize(
    ("channels", "size", "copies"),
    [
        (16, 32, 8),  # 64 KiB read and made, 9 KiB of weights
        (64, 56, 3),  # 784 KiB each, 144 KiB of weights: 1,712 KiB of 4,096
        (64, 112, 1),
        (512, 7, 4),  # 9,216 KiB of weights, 98 read and made each
        (1024, 7, 1),  # 36 MiB of weights
    ],
)
def test_so_many_run_side_by_side_that_no_cache_holds_their_weights(channels: int, size: int, copies: int) -> None:
    x = torch.randn(1, channels, size, size)
    graph = fxprune.trace(nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False)).eval(), x)
    assert copies_of(graph, (x,), graph(x)) == copies
    pool = fxprune.trace(nn.Sequential(nn.MaxPool2d(2)).eval(), x)
    assert copies_of(pool, (x,), pool(x)) == 1


def test_ops_with_weights_run_several_times_each_with_its_own() -> None:
    x = torch.randn(1, 64, 8, 8)
    graph = fxprune.trace(nn.Sequential(nn.Conv2d(64, 64, 3)).eval(), x)
    run, share = op_session(graph, (x,), CONDITIONS)
    found = run()
    assert len(found) == 8
    assert 0 < share <= 1 / 8
    assert not (found[0] == found[1]).all()
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found[0]), graph(x), rtol=1e-4, atol=1e-5)
    large = fxprune.trace(nn.Sequential(nn.Linear(2048, 2048)).eval(), torch.randn(1, 2048))
    assert len(op_session(large, (torch.randn(1, 2048),), CONDITIONS)[0]()) == 2


def test_a_provider_that_is_not_there() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("it is there")
    x = torch.randn(1, 3)
    with pytest.raises(FxpruneError, match="has no CUDAExecutionProvider; pip install onnxruntime-gpu"):
        session_of(fxprune.trace(nn.Sequential(nn.Linear(3, 3)), x), (x,), Conditions("onnxruntime", device="cuda"))
