"""MACs of every kind of product: half of what torch's own counter says, or counted by hand; and what is unknown."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers import Wrapped
from torch import fx, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import fxprune
from fxprune import passes
from fxprune.choosing.inspection import inspect_graph
from fxprune.costs.macs import node_macs, total_macs, unknown_macs, unknown_places
from fxprune.pruning.surplus import Surplus

X = torch.randn(1, 8, 6, 6)


def counted(model: nn.Module, *inputs: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(*inputs)
    return int(counter.get_total_flops()) // 2


def traced(model: nn.Module, *inputs: torch.Tensor) -> fx.GraphModule:
    return fxprune.trace(model.eval(), inputs, check=False)


def v(x: torch.Tensor) -> torch.Tensor:
    return x[0, 0, 0]


def m(x: torch.Tensor) -> torch.Tensor:
    return x[0, 0]


CHAIN: Any = torch.chain_matmul
PRODUCTS: dict[str, Any] = {
    "matmul": lambda s, x: torch.matmul(x, x),
    "linalg.matmul": lambda s, x: torch.linalg.matmul(x, x),
    "addmm": lambda s, x: torch.addmm(m(x), m(x), m(x)),
    "baddbmm": lambda s, x: torch.baddbmm(x[0], x[0], x[0]),
    "chain_matmul": lambda s, x: CHAIN(m(x), m(x)[:, :2], m(x)[:2]),
    "multi_dot": lambda s, x: torch.linalg.multi_dot([m(x)[:2], m(x), m(x)[:, :3], m(x)[:3, :1]]),
    "multi_dot with vectors": lambda s, x: torch.linalg.multi_dot([v(x), m(x), m(x), v(x)]),
    "tensordot of 2": lambda s, x: torch.tensordot(x, x[0].permute(1, 2, 0), 2),
    "tensordot of axes": lambda s, x: torch.tensordot(x, x[0], dims=([1, 3], [0, 2])),
    "einsum of dots": lambda s, x: torch.einsum("...hw,...vw->...hv", x, x),
    "einsum of dots on one side": lambda s, x: torch.einsum("...w,vw", x, m(x)),
    "einsum of three": lambda s, x: torch.einsum("bchw,bdhw,de->bce", x, x, s.w.weight),
    "einsum of three with dots": lambda s, x: torch.einsum("b...w,wv,vu->b...u", x, m(x), m(x)),
    "einsum without an arrow": lambda s, x: torch.einsum("ij,jk", m(x), m(x)),
    "einsum of one": lambda s, x: torch.einsum("bchw->bc", x),
    "einsum with a lone axis": lambda s, x: torch.einsum("bchw,cd->bd", x, s.w.weight.t()[:8]),
    "linear": lambda s, x: functional.linear(x, m(x)),
}


@pytest.mark.filterwarnings("ignore:torch.chain_matmul is deprecated")
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_half_of_torchs_flops(name: str) -> None:
    model = Wrapped(PRODUCTS[name], w=nn.Linear(8, 8))
    graph = traced(model, X)
    assert total_macs(graph) == counted(model, X)
    assert not unknown_macs(graph)


def attend(s: Any, x: torch.Tensor) -> torch.Tensor:
    y, a = x[0], s.attention
    weights = (a.in_proj_weight, a.in_proj_bias, None, None, False, 0.0, a.out_proj.weight, a.out_proj.bias)
    return functional.multi_head_attention_forward(y, y, y, 6, 2, *weights, training=False)[0]


BY_HAND: dict[str, Any] = {
    "@ a vector": (lambda s, x: x @ v(x), 8 * 6 * 6),
    "mv": (lambda s, x: torch.mv(m(x), v(x)), 36),
    ".mv": (lambda s, x: m(x).mv(v(x)), 36),
    "addmv": (lambda s, x: torch.addmv(v(x), m(x), v(x)), 36),
    "addbmm": (lambda s, x: torch.addbmm(m(x), x[0], x[0]), 8 * 6 * 6 * 6),
    "dot": (lambda s, x: torch.dot(v(x), v(x)), 6),
    "vdot": (lambda s, x: v(x).vdot(v(x)), 6),
    "inner": (lambda s, x: torch.inner(x, m(x)), 8 * 6 * 6 * 6),
    "outer": (lambda s, x: torch.outer(v(x), v(x)[:5]), 30),
    "ger": (lambda s, x: v(x).ger(v(x)), 36),
    "addr": (lambda s, x: torch.addr(m(x), v(x), v(x)), 36),
    "bilinear": (lambda s, x: functional.bilinear(v(x), v(x)[:4], s.b.weight, s.b.bias), 5 * (6 * 4 + 6)),
    "attention": (attend, 6 * 6 * (4 * 8 * 6 + 2 * 8 * 8)),  # 8 tokens, 6 times
    "embedding": (lambda s, x: s.embedding(x.argmax(3)), 0),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_products_counted_by_hand(name: str) -> None:
    function, macs = BY_HAND[name]
    layers = {"b": nn.Bilinear(6, 4, 5), "attention": nn.MultiheadAttention(6, 2), "embedding": nn.Embedding(6, 3)}
    graph = traced(Wrapped(function, **layers), X)
    assert total_macs(graph) == macs
    assert not unknown_macs(graph)


class Attention(nn.Module):
    """Returns the values alone."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, need_weights=True)[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"add_bias_kv": True}, {"add_zero_attn": True}])
def test_macs_of_attention(options: dict[str, Any]) -> None:
    x = torch.randn(5, 3, 8)
    model = Attention(**options).train()  # in eval mode torch has one op for all of it, which it does not count
    with FlopCounterMode(display=False) as counter:
        model(x)
    graph = fxprune.trace(model.eval(), x, check=False)
    assert sum(map(node_macs, graph.graph.nodes)) == counter.get_total_flops() // 2


RNNS = [
    (nn.LSTM(6, 5), 4 * 5 * (6 + 5)),
    (nn.LSTM(6, 5, num_layers=3, bidirectional=True), 2 * 4 * 5 * ((6 + 5) + 2 * (2 * 5 + 5))),
    (nn.LSTM(6, 5, num_layers=2, proj_size=3), (4 * 5 * (6 + 3) + 5 * 3) + (4 * 5 * (3 + 3) + 5 * 3)),
    (nn.LSTM(6, 5, num_layers=2, proj_size=3, bidirectional=True), 2 * (4 * 5 * (9 + 9) + 2 * 5 * 3)),
    (nn.LSTM(6, 5, batch_first=True), 4 * 5 * (6 + 5)),
    (nn.GRU(6, 5, num_layers=2), 3 * 5 * ((6 + 5) + (5 + 5))),
    (nn.RNN(6, 5, bidirectional=True), 2 * 5 * (6 + 5)),
]


class First(nn.Module):
    """Returns the first of what a layer returns."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        return y if isinstance(self.layer, (nn.GRUCell, nn.RNNCell)) else y[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize(("layer", "a_step"), RNNS)
def test_macs_of_recurrent_layers(layer: nn.Module, a_step: int) -> None:
    graph = traced(First(layer), torch.randn(4, 3, 6))
    assert sum(map(node_macs, graph.graph.nodes)) == 4 * 3 * a_step
    assert not unknown_macs(graph)


@pytest.mark.parametrize("layer", [nn.LSTMCell(6, 5), nn.GRUCell(6, 5), nn.RNNCell(6, 5)])
def test_macs_of_recurrent_cells(layer: nn.RNNCellBase) -> None:
    x = torch.randn(3, 6)
    graph = traced(First(layer), x)
    assert 3 * total_macs(graph) == 3 * math.prod(layer.weight_ih.shape) + 3 * math.prod(layer.weight_hh.shape)
    assert 3 * total_macs(graph) == counted(First(layer), x)


FREE: dict[str, Any] = {
    "sums": lambda x: x.sum(1) + x.mean((2, 3))[:, :6, None] - x.std() / x.norm(dim=1) % 3,
    "activations": lambda x: functional.gelu(functional.hardswish(x)).relu().softmax(1) ** 2,
    "views": lambda x: x.view(-1).reshape(8, 36).t().unsqueeze(0).expand(2, -1, -1).contiguous().flatten(1),
    "moves": lambda x: torch.cat([x.roll(1, 2), x.flip(3), functional.pad(x, (1, 1))[..., 2:]], 1).repeat(1, 2, 1, 1),
    "pooling": lambda x: functional.max_pool2d(functional.avg_pool2d(x, 2), 2) + functional.adaptive_avg_pool2d(x, 1),
    "norms": lambda x: functional.layer_norm(functional.normalize(x), (6,)),
    "images": lambda x: functional.pixel_shuffle(functional.interpolate(x, scale_factor=2, mode="bilinear"), 2),
    "choices": lambda x: torch.where(x > 0, x, -x).masked_fill(x.abs() < 0.1, 0).clamp(-1, 1).sort().values,
    "sizes": lambda x: x.new_zeros(x.size(0), x.shape[1] // 2) + x.numel(),
    "indices": lambda x: x.gather(1, x.argmax(1, keepdim=True)).topk(2).values,
    "random": lambda x: functional.dropout(x, 0.5) + torch.rand(6) + torch.arange(6).to(x),
    "losses": lambda x: functional.mse_loss(x, x.detach()),
}


@pytest.mark.parametrize("name", FREE)
def test_what_is_free(name: str) -> None:
    graph = fxprune.trace(Wrapped(lambda m, x: FREE[name](x)), X, check=False)
    assert unknown_places(graph) == ()
    assert total_macs(graph) == 0


def mix(x: torch.Tensor) -> torch.Tensor:
    return x @ x


fx.wrap("mix")

UNKNOWN: dict[str, Any] = {
    "fft_fft": lambda m, x: torch.fft.fft(x).real,
    "mix": lambda m, x: mix(x),
    "matrix_exp": lambda m, x: torch.matrix_exp(x),
    "linalg_svd": lambda m, x: torch.linalg.svd(x)[1],
    "TransformerEncoderLayer": lambda m, x: m.t(x[0]),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_nobody_knows_is_unknown_and_named(name: str) -> None:
    model = Wrapped(UNKNOWN[name], t=nn.TransformerEncoderLayer(6, 2, 8), conv=nn.Conv2d(8, 8, 1))
    model.function = lambda m, x: UNKNOWN[name](m, m.conv(x))
    graph = traced(model, X)
    (node,) = unknown_macs(graph)
    (told,) = unknown_places(graph)
    assert told.startswith(node.name)
    assert told.endswith(f": {name}")
    assert total_macs(graph) == 8 * 8 * 36  # what is known


class DependsOnData(nn.Module):
    """A module that stays opaque, with a layer or a parameter of its own, or nothing."""

    def __init__(self, *, parameter: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6, 6)) if parameter else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(x.sum()) > 1e9:
            x = x * 2
        return x if self.weight is None else x @ self.weight


@pytest.mark.parametrize("parameter", [False, True])
def test_opaque_modules_with_parameters_are_unknown(parameter: bool) -> None:
    graph = fxprune.trace(nn.Sequential(nn.ReLU(), DependsOnData(parameter=parameter)), X, check=False)
    assert len(unknown_macs(graph)) == parameter


def test_without_shapes_products_are_unknown() -> None:
    graph = fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    assert [node.target for node in unknown_macs(graph)] == ["0"]


class Spectral(nn.Module):
    """A residual conv beside a transform."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.fft.fft(x + self.conv(x)).real
        return y


def spectral() -> fx.GraphModule:
    return fxprune.trace(Spectral().eval(), X, check=False)


def test_whoever_shows_a_total_says_what_it_leaves_out() -> None:
    macs, told = 9 * 8 * 8 * 36, "1 op unknown: fft_fft: fft_fft"
    graph = spectral()
    found = inspect_graph(graph)
    assert f"at least {macs:,} MACs" in str(found)
    assert told in str(found)
    assert found.to_json()["unknown_macs"] == ["fft_fft: fft_fft"]
    result = fxprune.Pipeline([passes.Simplify()])(graph)
    assert f">= {macs:,}" in str(result)
    assert told in str(result)
    difference = fxprune.diff(graph, result.graph_module)
    assert f"at least {macs:,}" in str(difference)
    assert told in str(difference)
    again = fxprune.GraphDiff.from_json(difference.to_json())
    assert str(again) == str(difference)
    plain = fxprune.trace(nn.Conv2d(8, 8, 1).eval(), X)
    for shown in (str(inspect_graph(plain)), str(fxprune.Pipeline([])(plain)), str(fxprune.diff(plain, plain))):
        assert "at least" not in shown
        assert "unknown" not in shown


def test_targets_count_what_is_known_and_say_so() -> None:
    sparse = fxprune.Pipeline([passes.InsertResConv()])(spectral()).graph_module
    said = "a target of MACs counts those that are known; 1 op unknown: fft_fft: fft_fft"
    with pytest.warns(fxprune.FxpruneWarning, match=said):
        Surplus(sparse, fxprune.Targets(macs=0.5))
    shrink = fxprune.SteeredL1(sparse, targets=fxprune.Targets(macs=0.5), meet_after=2)  # warned of already
    for _ in range(2):
        shrink.step(0.1)
    with pytest.warns(fxprune.FxpruneWarning, match=said):
        passes.RemoveLayers(target_macs=0.5)(sparse)
