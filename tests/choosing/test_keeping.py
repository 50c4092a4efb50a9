"""What the user keeps: which paths a pattern matches, what stays with them, and patterns that make no sense."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from helpers import Block, TinyNet, Wrapped, example, randomize, tiny, traced
from torch import fx, nn
from torch.nn import functional

import fxprune
from fxprune import passes
from fxprune.choosing.inspection import inspect_graph
from fxprune.choosing.keeping import KEPT
from fxprune.gates.branch_scale import BranchScale
from fxprune.structures.gated_layers import layers


def scaled_by(graph: fx.GraphModule, **patterns: Any) -> list[str]:
    """Return the paths of the layers that get a scale; inspection must say the same of them."""
    result = fxprune.insert_scales(graph, **patterns)
    found = layers(result.graph_module)
    seen = inspect_graph(graph, **patterns)
    assert sum(site.eligible for _, site in seen.convs) == sum(not isinstance(x.module, BranchScale) for x in found)
    assert sum(branch.eligible for _, branch in seen.branches) == sum(
        isinstance(x.module, BranchScale) for x in found
    )
    return [layer.path for layer in found]


BLOCK2 = ["block2.conv1", "block2.conv2", "block2.branch_scale"]


@pytest.mark.parametrize(
    ("keep", "only", "scaled"),
    [
        (["block1"], [], BLOCK2),  # a module, with all below it
        (["block1.*"], [], BLOCK2),
        (["block?.conv1"], [], ["block1.conv2", "block2.conv2"]),  # a branch that holds a kept layer is kept
        (["block1", "block2.conv2"], [], ["block2.conv1"]),
        (["block1.bn2"], [], ["block1.conv1", *BLOCK2]),  # a norm goes with its conv
        (["block1.relu"], [], ["block1.conv1", "block1.conv2", *BLOCK2]),  # it goes with the branch alone
        (["head", "stem"], [], ["block1.conv1", "block1.conv2", "block1.branch_scale", *BLOCK2]),
        ([], ["block2"], BLOCK2),
        ([], ["*.conv?"], ["block1.conv1", "block1.conv2", "block1.branch_scale", *BLOCK2]),
        ([], ["*.conv1"], ["block1.conv1", "block2.conv1"]),
        (["block2.conv1"], ["block2"], ["block2.conv2"]),
    ],
)
def test_patterns(keep: list[str], only: list[str], scaled: list[str]) -> None:
    assert scaled_by(tiny(), keep=keep, only=only) == scaled


def test_the_reason_is_told() -> None:
    graph = tiny()
    found = inspect_graph(graph, keep=["block1"])
    assert f"block1.conv1  no: {KEPT} " in str(found)
    assert {branch.reason for _, branch in found.branches} == {KEPT, None}
    assert dict(found.convs)["stem.0"].reason == "it changes the channels (3 -> 6)"  # so it could not go anyway
    declined = fxprune.insert_scales(graph, keep=["block1"]).declined
    assert [site.path for site in declined if site.why == KEPT] == ["block1.conv1", "block1.conv2", "block1"]


def test_a_sum_of_the_model_itself_belongs_to_what_its_branch_calls() -> None:
    modules = {name: nn.Conv2d(4, 4, 3, padding=1) for name in "ab"}
    graph = traced(Wrapped(lambda m, x: m.b(x + m.a(x)), **modules), example(2, 4, 5, 5))
    assert scaled_by(graph, only=["a"]) == ["a", "branch_scale"]
    assert scaled_by(graph, keep=["a"]) == ["b"]


def test_linear_layers_in_a_branch_count() -> None:
    class Mixes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.down(functional.gelu(self.up(x)))
            return x + y

    graph = traced(nn.Sequential(Mixes(), Mixes()), example(2, 4))
    assert scaled_by(graph, keep=["0.up"]) == ["1.branch_scale"]
    assert scaled_by(graph, only=["0.up", "0.down", "1.up"]) == ["0.branch_scale"]


def test_a_function_is_at_the_path_of_its_module_or_named_as_its_node() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.conv2d(x, self.weight - self.weight.mean(), self.bias, padding=1)

    convs = {name: Standardised(4, 4, 3, padding=1) for name in "ab"}
    graph = traced(Wrapped(lambda m, x: m.b(m.a(x)), **convs), example(2, 4, 5, 5))
    assert scaled_by(graph, keep=["a"]) == ["b"]
    graph = traced(
        Wrapped(lambda m, x: functional.conv2d(m.b(x), m.a.weight, padding=1), **convs), example(2, 4, 5, 5)
    )
    (name,) = (path for path, _ in inspect_graph(graph).convs if path != "b")
    assert scaled_by(graph, keep=[name]) == ["b"]


class Choosy(nn.Module):
    """Goes where the data lead it: opaque, with two blocks that are regions."""

    def __init__(self) -> None:
        super().__init__()
        self.block1, self.block2 = Block(4), Block(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.block1(x)
        return self.block2(y) if y.sum() > -1e9 else y


def test_paths_in_regions_begin_with_that_of_the_region() -> None:
    graph = fxprune.trace(randomize(nn.Sequential(Block(4), Choosy())), example(2, 4, 8, 8))
    region = ["1.block2.conv1", "1.block2.conv2", "1.block2.branch_scale"]
    assert scaled_by(graph, keep=["0", "1.block1"]) == region
    assert scaled_by(graph, only=["1.block2"]) == region
    sparse = fxprune.insert_scales(graph).graph_module
    for layer in layers(sparse):
        layer.assign(scale=0.0)
    removed = passes.RemoveLayers(threshold=0.0, only=["1.block2.*"])(sparse)
    assert [site.path for site in removed.rewritten] == ["1.block2.branch_scale"]
    with pytest.raises(ValueError, match=r"matches no module of the model; the nearest paths are '1\.block2'"):
        passes.InsertResConv(keep=["1.block3"])(graph)


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (
            {"keep": ["blok1.*"]},
            r"^keep has 'blok1\.\*', which matches no module of the model; the nearest paths are 'bl",
        ),
        ({"keep": ["block1"], "only": ["block2", "block2.conv3"]}, r"^only has 'block2\.conv3', .* 'block2\.conv2'"),
        ({"keep": ["zzz"]}, "matches no module of the model; fxprune inspect lists the paths$"),
        ({"keep": ["*"]}, f"^nothing that may go is left by keep: all 6 layers are {KEPT}$"),
        (
            {"keep": ["block1"], "only": ["block1.conv1"]},
            "^nothing that may go is left by keep and only: all 6 layers",
        ),
    ],
)
def test_patterns_that_make_no_sense(patterns: dict[str, Any], message: str) -> None:
    takers: list[Any] = [partial(inspect_graph, **patterns)]
    takers += [one(**patterns) for one in (passes.InsertResConv, passes.InsertBranchScale, passes.RemoveLayers)]
    for take in takers:
        with pytest.raises(fxprune.FxpruneError, match=message) as caught:
            take(tiny())
        assert isinstance(caught.value, ValueError)


def test_what_is_left_but_cannot_go_is_told_with_all_reasons() -> None:
    with pytest.raises(fxprune.FxpruneError, match=rf"no removable conv or .*; block1\.conv1 and 5 more: {KEPT}"):
        fxprune.insert_scales(tiny(), only=["head"])


def test_patterns_are_a_sequence_of_texts() -> None:
    one: Any = passes.InsertResConv
    with pytest.raises(TypeError, match="InsertResConv takes a sequence of a str for keep, got str 'layer4'"):
        one(keep="layer4")
    assert hash(one(keep=["layer4"])) == hash(one(keep=("layer4",)))


def test_in_one_call_what_is_kept_is_never_wrapped() -> None:
    def fit(model: nn.Module) -> None:
        assert {layer.path for layer in layers(model)} == {*BLOCK2}  # type: ignore[arg-type]
        for layer in layers(model):  # type: ignore[arg-type]
            layer.module.close()

    result = fxprune.prune(TinyNet(), torch.randn(2, 3, 8, 8), fit, surgery=fxprune.Surgery(keep=["block1"]))
    assert [site.path for site in result.steps[0].result.rewritten] == ["block2.branch_scale"]
