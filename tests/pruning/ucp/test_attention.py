"""Gates that are put in and measured: means over images, in eval mode, and what is refused."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import assert_state_equal, module_at, state_of
from together import of_two_processes
from torch import fx, nn

import fxprune
from benchmarks import networks
from fxprune.errors import FxpruneError, FxpruneValueError
from fxprune.gates.channel_attention import ChannelAttention
from fxprune.pruning.ucp.attention import insert_attention, measure_attention


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(8, 20, 3)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 4)).double()


X = torch.randn(10, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def attended() -> fx.GraphModule:
    """Return it with gates, the same in every process."""
    return insert_attention(fxprune.trace(network(), X[:2])).graph_module


def test_they_are_means_over_images_however_these_come() -> None:
    graph = insert_attention(fxprune.trace(network(), X[:2])).graph_module.train()
    state = state_of(graph)
    found = measure_attention(graph, [X[:3], (X[3:], torch.zeros(7))])
    assert_state_equal(graph, state)
    assert graph.training
    assert not any(one._forward_hooks for one in graph.modules())
    graph.eval()
    y = module_at(graph, "0")(X)
    gate = module_at(graph, "0_attention")
    expected = gate.attention(y.mean((2, 3))).mean(0)
    assert found.keys() == {"0", "4"}
    torch.testing.assert_close(torch.from_numpy(found["0"]), expected.detach())
    z = module_at(graph, "4")(module_at(graph, "1")(gate(y)).relu())
    expected = module_at(graph, "4_attention").attention(z.mean((2, 3))).mean(0)
    torch.testing.assert_close(torch.from_numpy(found["4"]), expected.detach())


def test_of_an_iterator_no_batch_is_kept() -> None:
    seen: list[weakref.ref[torch.Tensor]] = []

    def batches() -> Iterator[torch.Tensor]:
        for first in range(0, 10, 2):
            assert all(one() is None for one in seen[:-1])
            batch = X[first : first + 2].clone()
            seen.append(weakref.ref(batch))
            yield batch

    graph = insert_attention(fxprune.trace(network(), X[:2])).graph_module
    found, expected = measure_attention(graph, batches()), measure_attention(graph, [X])
    assert len(seen) == 5
    for path, gates in expected.items():
        assert found[path] == pytest.approx(gates, abs=1e-12)


TOGETHER = """
import sys
import torch
sys.path[:0] = [{tests!r}, {tests!r} + "/pruning/ucp"]
sys.path.append({tests!r} + "/..")  # for the benchmarks
from torch import distributed
from test_attention import X, attended
from fxprune.pruning.ucp.attention import measure_attention

distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=int(sys.argv[2]), world_size=2)
share = [X[:3]] if sys.argv[2] == "0" else [X[3:8], X[8:]]
gates = measure_attention(attended(), share)
torch.save({{path: torch.from_numpy(one) for path, one in gates.items()}}, sys.argv[3])
"""


def test_two_processes_measure_over_the_images_of_both(tmp_path: Path) -> None:
    expected = measure_attention(attended(), [X])
    for found in of_two_processes(TOGETHER, tmp_path):
        assert found.keys() == expected.keys()
        for path, gates in expected.items():
            torch.testing.assert_close(found[path], torch.from_numpy(gates), rtol=0, atol=1e-12)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.conv(self.conv(x).relu()).relu().mean((2, 3)))
        return found


def test_of_a_shared_conv_it_is_the_mean_over_its_calls() -> None:
    x = torch.randn(3, 4, 8, 8)
    graph = fxprune.trace(nn.Sequential(nn.Conv2d(4, 4, 1), Twice()).eval(), x)
    attended = insert_attention(graph).graph_module
    gates = [one for one in attended.modules() if isinstance(one, ChannelAttention)]
    found = measure_attention(attended, [x])
    assert {path: len(one) for path, one in found.items()} == {"0": 4, "1.conv": 4}
    assert len(gates) == 3


def test_what_cannot_be_judged_says_why() -> None:
    with pytest.raises(FxpruneError, match="no conv whose channels can be judged: it has no convs at all"):
        insert_attention(fxprune.trace(nn.Linear(4, 2), torch.randn(2, 4)))
    with pytest.raises(FxpruneError, match="none of its output channels can go: an output of the network"):
        insert_attention(fxprune.trace(nn.Conv2d(3, 4, 1), torch.randn(2, 3, 4, 4)))


def test_a_graph_without_gates_and_no_images_are_refused() -> None:
    graph = fxprune.trace(network(), X[:2])
    with pytest.raises(FxpruneError, match="has no gates of channel attention"):
        measure_attention(graph, [X])
    with pytest.raises(FxpruneError, match="there are no images"):
        measure_attention(insert_attention(graph).graph_module, [])
    with pytest.raises(FxpruneValueError, match="does not take a batch of data"):
        measure_attention(insert_attention(graph).graph_module, [X[:, :2]])


def test_gates_that_are_nan_name_the_layer() -> None:
    attended = insert_attention(fxprune.trace(network(), X[:2])).graph_module
    with torch.no_grad():
        module_at(attended, "4_attention").attention[0].weight.fill_(float("nan"))
    with pytest.raises(FxpruneValueError, match="the gates behind 4 are NaN"):
        measure_attention(attended, [X])


def test_gates_are_measured_on_a_copy_that_was_cast() -> None:
    attended = insert_attention(fxprune.trace(networks.resnet20().eval(), torch.randn(2, 3, 32, 32))).graph_module
    whole = measure_attention(attended, [torch.ones(2, 3, 32, 32)])
    cast = measure_attention(attended.double(), [torch.ones(2, 3, 32, 32)])
    assert cast["conv1"] == pytest.approx(whole["conv1"], abs=1e-5)
