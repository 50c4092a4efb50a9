"""SplitAttention: linear layers, products and a softmax in the place of attention layers, with equal values."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from helpers import Wrapped, assert_rewrites, emitted, example, targets, traced
from torch import fx, nn
from torchvision.models import VisionTransformer

import fxprune
from fxprune import passes

SPLIT = passes.SplitAttention()


class Attending(nn.Module):
    """An attention layer, called as ``call`` says, with what stands in front of it and behind it."""

    def __init__(self, call: Callable[..., Any], **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, **{"batch_first": True, **options})
        for parameter in self.attention.parameters():
            nn.init.normal_(parameter, std=0.5)
        self.call = call
        self.register_buffer("upper", torch.ones(5, 5, dtype=torch.bool).triu(1))
        self.register_buffer("added", torch.randn(5, 5))

    def forward(self, *x: torch.Tensor) -> Any:
        return self.call(self, *x)


def attending(*inputs: torch.Tensor, call: Callable[..., Any], **options: Any) -> fx.GraphModule:
    torch.manual_seed(0)
    return fxprune.trace(Attending(call, **options).double().eval(), inputs)


def to_itself(m: Any, x: torch.Tensor, **options: Any) -> Any:
    return m.attention(x, x, x, **{"need_weights": False, **options})[0]


def to_others(m: Any, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> Any:
    output, _ = m.attention(x, y, z)
    return output


WAYS: dict[str, tuple[Any, Any, Any]] = {
    "self": ((), {}, to_itself),
    "tokens first": ((), {"batch_first": False}, to_itself),
    "no bias": ((), {"bias": False}, to_itself),
    "cross": (((2, 7, 8), (2, 7, 8)), {}, to_others),
    "cross, tokens first": (((4, 5, 8), (4, 5, 8)), {"batch_first": False}, to_others),
    "other widths": (((2, 7, 6), (2, 7, 4)), {"kdim": 6, "vdim": 4}, to_others),
    "other width, no bias": (((2, 7, 8), (2, 7, 4)), {"vdim": 4, "bias": False}, to_others),
    "with weights": ((), {}, lambda m, x: to_itself(m, x, need_weights=True)),
    "positional": ((), {}, lambda m, x: m.attention(x, x, x, None, False, m.upper)[0]),
    "mask": ((), {}, lambda m, x: to_itself(m, x, attn_mask=m.upper)),
    "mask, with weights": ((), {}, lambda m, x: to_itself(m, x, attn_mask=m.upper, need_weights=True)),
    "added mask": ((), {}, lambda m, x: to_itself(m, x, attn_mask=m.added)),
    "causal": ((), {}, lambda m, x: to_itself(m, x, attn_mask=m.upper, is_causal=True)),
    "causal, with weights": (
        (),
        {},
        lambda m, x: to_itself(m, x, attn_mask=m.upper, is_causal=True, need_weights=True),
    ),
    "padding": ((), {}, lambda m, x: to_itself(m, x, key_padding_mask=x[..., 0] > 0.5)),
    "added padding": ((), {}, lambda m, x: to_itself(m, x, key_padding_mask=x[..., 0])),
    "both": ((), {}, lambda m, x: to_itself(m, x, key_padding_mask=x[..., 0] > 1, attn_mask=m.upper.mT)),
    "both added": ((), {}, lambda m, x: to_itself(m, x, key_padding_mask=x[..., 0], attn_mask=m.added)),
    "causal, padding": (
        (),
        {},
        lambda m, x: to_itself(m, x, key_padding_mask=x[..., 0] > 9, attn_mask=m.upper, is_causal=True),
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore:Support for mismatched")
def test_values_stay(way: str) -> None:
    others, options, call = WAYS[way]
    size = (4, 5, 8) if options.get("batch_first") is False else (2, 5, 8)
    graph = attending(example(*size), *(example(*one, seed=1) for one in others), call=call, **options)
    result = assert_rewrites(graph, SPLIT, count=1)
    names = targets(result.graph_module)
    assert "MultiheadAttention" not in names
    assert [name for name in names if name == "Linear"] == ["Linear"] * 4


@pytest.mark.parametrize("way", ["self", "tokens first", "cross"])
def test_batch_and_number_of_tokens_stay_free(way: str) -> None:
    others, options, call = WAYS[way]
    graph = attending(example(4, 5, 8), *(example(4, 7, 8) for _ in others), call=call, **options)
    split = SPLIT(graph).graph_module
    for batch, tokens in ((3, 9), (1, 1), (0, 4), (4, 2)):
        inputs = [example(batch, tokens, 8), *(example(batch, 3, 8) for _ in others)]
        if options.get("batch_first") is False:
            inputs = [one.transpose(0, 1) for one in inputs]
        torch.testing.assert_close(split(*inputs), graph(*inputs), rtol=1e-12, atol=1e-12)


def test_keys_and_shared_layers() -> None:
    model = Wrapped(lambda m, x: m.head(to_itself(m, x)), attention=nn.MultiheadAttention(8, 2), head=nn.Linear(8, 3))
    graph = traced(model, example(2, 5, 8))
    split = SPLIT(graph).graph_module
    projections = {f"attention.{one}_proj.{kind}" for one in ("q", "k", "v", "out") for kind in ("weight", "bias")}
    assert set(split.state_dict()) == projections | {"head.weight", "head.bias"}
    assert split.get_submodule("head") is graph.get_submodule("head")
    assert split.get_parameter("attention.out_proj.weight") is graph.get_parameter("attention.out_proj.weight")
    weight = graph.get_parameter("attention.in_proj_weight")
    assert torch.equal(split.get_parameter("attention.v_proj.weight"), weight[16:])
    assert split.get_parameter("attention.q_proj.weight").untyped_storage().nbytes() == 8 * 64


def test_frozen_weights_stay_frozen() -> None:
    graph = attending(example(2, 5, 8), call=to_itself)
    graph.get_parameter("attention.in_proj_weight").requires_grad_(False)
    split = SPLIT(graph).graph_module
    assert not split.get_parameter("attention.k_proj.weight").requires_grad
    assert split.get_parameter("attention.k_proj.bias").requires_grad


def test_in_train_mode_it_computes_the_same_and_has_the_same_gradients() -> None:
    graph = attending(example(2, 5, 8), call=to_itself)
    split = SPLIT(graph).graph_module.train()
    graph = copy.deepcopy(graph).train()
    x = example(2, 5, 8, seed=3)
    for one in (graph, split):
        one(x).square().sum().backward()
    torch.testing.assert_close(split(x), graph(x), rtol=1e-12, atol=1e-12)
    stacked: Any = [split.get_parameter(f"attention.{one}_proj.weight").grad for one in "qkv"]
    expected: Any = graph.get_parameter("attention.in_proj_weight").grad
    torch.testing.assert_close(torch.cat(stacked), expected, rtol=1e-12, atol=1e-12)


def test_dropout_follows_the_train_flag() -> None:
    graph = attending(example(2, 5, 8), call=to_itself, dropout=0.5)
    split = assert_rewrites(graph, SPLIT, count=1).graph_module
    x = example(2, 5, 8, seed=3)
    assert torch.equal(split(x), split(x))
    split.train()
    first, second = (seeded(split, x, seed) for seed in (0, 1))
    assert not torch.equal(first, second)
    torch.testing.assert_close(first, seeded(copy.deepcopy(graph).train(), x, 0), rtol=1e-12, atol=1e-12)


def seeded(graph: fx.GraphModule, x: torch.Tensor, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    return graph(x)  # type: ignore[no-any-return]


def frozen_dropout() -> fx.GraphModule:
    graph = attending(example(2, 5, 8), call=to_itself, dropout=0.5)
    graph.get_submodule("attention").train()
    return graph


DECLINED: dict[str, Callable[[], fx.GraphModule]] = {
    "weights are read": lambda: attending(example(2, 5, 8), call=lambda m, x: m.attention(x, x, x)[1]),
    "reads all that it returns": lambda: attending(example(2, 5, 8), call=lambda m, x: m.attention(x, x, x)),
    "a key of its own": lambda: attending(example(2, 5, 8), call=to_itself, add_bias_kv=True),
    "or add_zero_attn": lambda: attending(example(2, 5, 8), call=to_itself, add_zero_attn=True),
    "no batch axis": lambda: attending(example(5, 8), call=to_itself),
    "for each head of each sample": lambda: attending(
        example(2, 5, 8), call=lambda m, x: to_itself(m, x, attn_mask=m.upper.expand(4, -1, -1))
    ),
    "of truth values": lambda: attending(
        example(2, 5, 8), call=lambda m, x: to_itself(m, x, attn_mask=m.upper, key_padding_mask=x[..., 0])
    ),
    "2 call sites": lambda: attending(example(2, 5, 8), call=lambda m, x: to_itself(m, to_itself(m, x))),
    "is read by others": lambda: attending(
        example(2, 5, 8), call=lambda m, x: to_itself(m, x) * m.attention.in_proj_bias.sum()
    ),
    "does not follow the train flag": frozen_dropout,
}


@pytest.mark.parametrize("why", DECLINED)
@pytest.mark.filterwarnings("ignore:Support for mismatched")
def test_what_is_declined(why: str) -> None:
    declined = assert_rewrites(DECLINED[why](), SPLIT, count=0).declined
    assert declined
    assert all(why in site.why or "tied" in site.why for site in declined), declined


def test_hooks_are_declined() -> None:
    graph = attending(example(2, 5, 8), call=to_itself)
    graph.get_submodule("attention").register_forward_hook(lambda *_: None)
    assert "hooks" in SPLIT(graph).declined[0].why


def test_other_networks_are_not_looked_at() -> None:
    graph = traced(nn.Linear(3, 3), example(2, 3))
    assert not SPLIT(graph).declined
    assert SPLIT(graph).graph_module is graph


def test_weights_that_were_rounded_before_are_split_as_they_were() -> None:
    torch.manual_seed(0)
    model = Wrapped(lambda m, x: x + m.attention(x, x, x)[0], attention=nn.MultiheadAttention(8, 2, batch_first=True))
    graph = passes.InsertBranchScale()(fxprune.trace(model.eval(), example(2, 5, 8).float())).graph_module
    fxprune.gates_of(graph)[0].assign(scale=0.3)
    result = fxprune.Pipeline([passes.FuseBranchScale(), SPLIT])(graph)
    assert [step.name for step in result.steps if step.result.modified] == ["fuse-branch-scale", "split-attention"]


def test_it_is_emitted_and_read_back(tmp_path: Path) -> None:
    graph = attending(example(2, 5, 8), call=lambda m, x: to_itself(m, x, attn_mask=m.upper), dropout=0.1)
    emitted(SPLIT(graph).graph_module, tmp_path, example(3, 5, 8))
    assert "F.scaled_dot_product_attention" in (tmp_path / "model.py").read_text()


def test_layers_inside_of_opaque_parts_are_split_too() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Attending(to_itself)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.inner(x)
            return y if float(y.sum()) > 1e9 else 2 * y

    graph = fxprune.trace(nn.Sequential(Gated(), nn.ReLU()).double().eval(), example(2, 5, 8))
    assert_rewrites(graph, SPLIT, count=1)


@cache
def vit() -> fx.GraphModule:
    torch.manual_seed(0)
    model = VisionTransformer(
        image_size=16, patch_size=8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=48, num_classes=5
    )
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    return fxprune.trace(model.double().eval(), example(2, 3, 16, 16))


@pytest.mark.parametrize(("groups", "rows", "heads"), [("within", 16, 4), ("whole", 16, 2)])
def test_heads_of_a_transformer_are_cut(groups: Literal["within", "whole"], rows: int, heads: int) -> None:
    split = assert_rewrites(vit(), SPLIT, count=2).graph_module
    gated = passes.InsertChannelGate(groups=groups)(split).graph_module
    for gate in fxprune.gates_of(gated):
        gate.assign(scale=torch.arange(gate.width).remainder(2).double())
    cut = fxprune.Pipeline([passes.RemoveChannels(groups=groups), passes.FuseChannelGate()])(gated).graph_module
    path = "encoder.layers.encoder_layer_1"
    assert cut.get_submodule(f"{path}.self_attention.v_proj").weight.shape == (rows, 32)
    assert cut.get_submodule(f"{path}.mlp.0").weight.shape == (24, 32)
    assert {node.args[3] for node in cut.graph.find_nodes(op="call_method", target="reshape")[1:]} == {heads}
    x = example(5, 3, 16, 16, seed=2)
    torch.testing.assert_close(cut(x), gated(x), rtol=1e-11, atol=1e-11)


def test_values_come_to_be_narrower_than_queries_and_keys() -> None:
    path = "encoder.layers.encoder_layer_0.self_attention"
    cut = passes.RemoveChannels(indices={f"{path}.v_proj": [0, 3]})(SPLIT(vit()).graph_module).graph_module
    assert cut.get_submodule(f"{path}.v_proj").weight.shape == (24, 32)
    assert cut.get_submodule(f"{path}.q_proj").weight.shape == (32, 32)
    assert cut(example(3, 3, 16, 16)).shape == (3, 5)
