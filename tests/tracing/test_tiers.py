"""Tier 3: what depends on data is one call, and what is inside it and can be traced is compiled in place."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from helpers import Block, assert_state_equal, example, module_at, randomize, resconvs, state_of
from torch import nn

import fxprune
from fxprune import passes
from fxprune.choosing.inspection import inspect_graph
from fxprune.costs.macs import total_macs, total_params
from fxprune.errors import FxpruneWarning
from fxprune.ir.module_tree import CALLS
from fxprune.ir.nodes import called_module, graphs_of
from fxprune.ir.pytrees import tensors_in
from fxprune.ir.trace_notes import opaque_modules
from fxprune.rewriting.verify import difference
from fxprune.tracing import check, tiers, watched_calls
from fxprune.tracing.check import run_once

CHAIN = [passes.RemoveLayers(), passes.FuseResConv(), passes.FoldBatchNorm(), passes.Simplify()]


class Choosy(nn.Module):
    """A block with a data-dependent branch."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block(4)
        self.other = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.block(x)
        return self.other(y) if y.sum() > -1e9 else y


class WithOneChoosyBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.choosy = Choosy()
        self.block = Block(4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.stem(x)
        x = self.choosy(x)
        return {"out": self.block(x), "middle": x}


class Head(nn.Module):
    """A detection head: the same layers on every level."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.score = nn.Conv2d(4, 1, 1)

    def forward(self, levels: list[torch.Tensor]) -> list[torch.Tensor]:
        return [self.score(self.tower(level)) for level in levels]


class Backbone(nn.Module):
    out_channels = 4

    def __init__(self) -> None:
        super().__init__()
        self.stride = 2
        self.stem = nn.Conv2d(3, 4, 3, padding=1, stride=2)
        self.block = Block(4)
        self.down = nn.MaxPool2d(2)

    def forward(self, x: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        x = self.block(self.stem(x))
        return OrderedDict(fine=x, coarse=self.down(x))


class Detector(nn.Module):
    """Images of several sizes in, for each the positions of its best scores out."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.head = Head()

    def forward(self, images: list[torch.Tensor], targets: Any = None) -> Any:
        if self.training and targets is None:
            raise ValueError("targets should not be None in train mode")
        size = max(image.shape[-1] for image in images)
        batch = torch.zeros(len(images), 3, size, size, dtype=images[0].dtype)
        for image, place in zip(images, batch, strict=True):
            place[:, : image.shape[1], : image.shape[2]].copy_(image)
        scores = self.head(list(self.backbone(batch).values()))
        flat = torch.cat([level.flatten(1) for level in scores], 1)
        if self.training:
            return {"loss": flat.square().mean()}
        return [{"scores": row[row > row.mean()], "stride": self.backbone.stride} for row in flat]


def images(*sizes: int) -> list[torch.Tensor]:
    return [example(3, size, size, seed=size) for size in sizes]


def scaled(graph: Any) -> Any:
    """Insert ResConvs and close every other one."""
    sparse = passes.InsertResConv()(graph).graph_module
    layers = [layer for _, one in graphs_of(sparse) for _, layer in resconvs(one)]
    for index, layer in enumerate(layers):
        layer.assign(scale=0.5 * (index % 2), shortcut=0.7)
    return sparse


def test_a_block_that_depends_on_data_is_opaque_and_compiled_inside() -> None:
    model = randomize(WithOneChoosyBlock())
    state = state_of(model)
    graph = fxprune.trace(model, example(2, 3, 6, 6))
    (opaque,) = opaque_modules(graph)
    assert (opaque.path, opaque.hidden_convs) == ("choosy", 0)
    assert "if y.sum() > -1e9" in str(opaque.source)
    assert [path for path, _ in graphs_of(graph)] == ["", "choosy.block", "choosy.other"]
    sites = {path: site.eligible for path, site in inspect_graph(graph).convs}
    assert {"block.conv1", "block.conv2", "choosy.block.conv1", "choosy.block.conv2"} <= {
        p for p in sites if sites[p]
    }
    sparse = scaled(graph)
    result = fxprune.Pipeline(CHAIN)(sparse)
    assert result.max_relative is not None
    assert result.max_relative < 1e-12
    x = example(3, 3, 5, 5, seed=1)
    with torch.no_grad():
        assert difference(tensors_in(sparse(x)), tensors_in(result.graph_module(x)))[1] < 1e-9
        assert difference(tensors_in(model(x)), tensors_in(graph(x)))[1] < 1e-12
    assert_state_equal(model, state)


def test_passes_never_change_the_regions_of_their_input() -> None:
    graph = fxprune.trace(randomize(WithOneChoosyBlock()), example(2, 3, 6, 6))
    code = [one.code for _, one in graphs_of(graph)]
    state = state_of(graph)
    result = passes.InsertResConv()(graph)
    assert [one.code for _, one in graphs_of(graph)] == code
    assert_state_equal(graph, state)
    assert "choosy.block.conv1" in {site.path for site in result.rewritten}
    assert result.graph_module.choosy is not graph.choosy
    own = {id(parameter) for parameter in graph.parameters()}
    assert own <= {id(parameter) for parameter in result.graph_module.parameters()}


def test_a_detector_is_compiled_in_place_and_called_as_before() -> None:
    model = randomize(Detector())
    graph = fxprune.trace(model, images(8, 12))
    assert {one.path for one in opaque_modules(graph)} == {"model"}
    regions = dict(graphs_of(graph))
    assert set(regions) == {"", "model.backbone", "model.head.tower", "model.head.score"}
    assert regions["model.head.tower"].meta[CALLS] == 1 + 9 / 36
    conv_macs = {"stem": 6 * 6 * 4 * 27, "block": 2 * 6 * 6 * 4 * 36}
    levels = (36 + 9) * (4 * 36 + 4)
    assert total_macs(graph) == 2 * (sum(conv_macs.values()) + levels)
    assert total_params(graph) == sum(p.numel() for p in model.parameters())
    sparse = scaled(graph)
    result = fxprune.Pipeline(CHAIN)(sparse)
    assert total_macs(result.graph_module) < total_macs(graph)
    with torch.no_grad():
        for given in (images(8, 12), images(6, 10, 14)):
            assert difference(tensors_in(model(given)), tensors_in(graph(given)))[1] < 1e-12
            assert difference(tensors_in(sparse(given)), tensors_in(result.graph_module(given)))[1] < 1e-9
    assert result.graph_module(images(8))[0]["stride"] == 2


def test_a_traced_detector_trains() -> None:
    model = randomize(Detector()).train()
    graph = passes.InsertResConv()(fxprune.trace(model, images(8, 12))).graph_module
    loss = graph(images(8, 12), targets=[{}, {}])["loss"]
    loss.backward()
    gates = [layer.gate for _, one in graphs_of(graph) for _, layer in resconvs(one)]
    assert len(gates) == 3
    assert all(gate.grad is not None for gate in gates)


def test_a_detector_is_pruned_while_it_trains() -> None:
    def fit(sparse: nn.Module) -> None:
        optimizer = torch.optim.SGD(sparse.parameters(), lr=0.01)
        for _ in range(5):
            optimizer.zero_grad()
            sparse(images(8, 12), targets=[{}, {}])["loss"].backward()
            optimizer.step()

    model = randomize(Detector()).train()
    result = fxprune.prune(model, images(8, 12), fit, targets=fxprune.Targets(macs=0.8), meet_after=4)
    assert total_macs(result.graph_module) <= 0.8 * total_macs(result.steps[0].before)
    assert result.max_relative is not None
    assert result.max_relative < 1e-9
    assert len(result.graph_module(images(8, 10, 12))) == 3


def test_a_broken_region_is_a_breach() -> None:
    graph = fxprune.trace(randomize(Detector()), images(8, 12))
    other = passes.FoldBatchNorm()(graph).graph_module
    with torch.no_grad():
        other.get_parameter("model.backbone.block.conv1.weight").mul_(2)
    found = fxprune.verify(graph, other, (images(8, 12),))
    assert not found.equal
    assert "in model.backbone" in str(found.first_difference)


def test_a_container_with_hooks_is_opaque_and_its_hooks_run() -> None:
    model = WithOneChoosyBlock().eval()
    seen: list[torch.Tensor] = []
    model.block.register_forward_hook(lambda module, args, output: seen.append(output))
    graph = fxprune.trace(model, torch.randn(2, 3, 6, 6))
    assert "hooks" in {one.path: one.reason for one in opaque_modules(graph)}["block"]
    assert "block.conv1" in dict(graphs_of(graph))
    seen.clear()
    graph(torch.randn(2, 3, 6, 6))
    assert len(seen) == 1


def test_a_model_with_hooks_keeps_them() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
    model.register_forward_hook(lambda module, args, output: output + 1)
    graph = fxprune.trace(model, torch.randn(2, 3, 6, 6))
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(graph(x), model(x))
    assert [site.eligible for _, site in inspect_graph(graph).convs] == [True]


def test_a_parameter_that_the_code_around_it_reads_stays_where_it_is() -> None:
    class Reads(Choosy):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * (1 if self.block.conv1.weight.sum() > 0 else 2)

    with pytest.warns(FxpruneWarning, match="model is opaque and hides 1 conv: .* depends on the data"):
        graph = fxprune.trace(Reads(), torch.randn(2, 4, 6, 6))
    assert [path for path, _ in graphs_of(graph)] == ["", "model.block.conv2", "model.other"]
    assert opaque_modules(graph)[0].hidden_convs == 1


def test_an_opaque_module_is_never_dead_code() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.count = 0
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count += int(x.sum() > -1e9)
            return self.conv(x)  # type: ignore[no-any-return]

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.counts = Counts()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.counts(x)
            return x * 2

    graph = passes.Simplify()(fxprune.trace(Around(), torch.randn(2, 3, 4, 4))).graph_module
    counts = module_at(graph, "counts")
    before = counts.count
    graph(torch.randn(2, 3, 4, 4))
    assert counts.count == before + 1


@pytest.mark.parametrize("shared", [True, False])
def test_weights_tied_across_regions_stay_tied(shared: bool) -> None:
    model = Choosy()
    tied = nn.Conv2d(4, 4, 1)
    model.other = tied
    model.block.conv1 = tied if shared else nn.Conv2d(4, 4, 1)
    graph = fxprune.trace(model, torch.randn(2, 4, 6, 6))
    assert ("model.other" in dict(graphs_of(graph))) is not shared
    assert total_params(graph) == sum(p.numel() for p in model.parameters())


def test_opaque_calls_are_known_by_their_node() -> None:
    graph = fxprune.trace(WithOneChoosyBlock(), torch.randn(2, 3, 6, 6))
    (node,) = [n for n in graph.graph.nodes if n.target == "choosy"]
    assert isinstance(called_module(node), Choosy)


class DeeplyOpaque(nn.Module):
    """Branches on data, as what is inside it does, and what is inside that."""

    def __init__(self) -> None:
        super().__init__()
        self.head = OpaqueHead()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(x)
        return y if y.sum() > 0 else -y


class OpaqueHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleList([OpaqueLeaf(), nn.Conv2d(3, 3, 1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.inner:
            x = layer(x)
        return x if x.sum() > 0 else -x


class OpaqueLeaf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x)
        return y if y.sum() > 0 else -y


def test_an_opaque_model_is_run_a_few_times_however_deep_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """For how parts are called, for what opaque ones return in train mode (one, then two), and with the graphs."""
    runs: list[nn.Module] = []

    def counted(model: nn.Module, *args: Any, **options: Any) -> Any:
        runs.extend(one for one in model.modules() if isinstance(one, DeeplyOpaque))
        return run_once(model, *args, **options)

    for module in (check, watched_calls, tiers):
        monkeypatch.setattr(module, "run_once", counted)
    graph = fxprune.trace(DeeplyOpaque(), torch.randn(2, 3, 8, 8))
    assert sorted(name for name, _ in graphs_of(graph) if name) == ["model.head.inner.0.conv", "model.head.inner.1"]
    assert len(runs) == 1 + 2 + 1
    called = next(iter(graph.graph.find_nodes(op="call_module")))
    assert called.meta["tensor_meta"].shape == (2, 3, 8, 8)


def test_what_a_part_returned_in_the_run_of_the_whole_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[nn.Module] = []

    def counted(model: nn.Module, *args: Any, **options: Any) -> Any:
        runs.append(model)
        return run_once(model, *args, **options)

    monkeypatch.setattr(check, "run_once", counted)
    fxprune.trace(DeeplyOpaque(), torch.randn(2, 3, 8, 8))
    assert sum(type(one) is nn.Conv2d for one in runs) == 2  # on the mirror image, each of two


class Drawing(nn.Module):
    """Draws in every mode, and what is inside it does."""

    def __init__(self) -> None:
        super().__init__()
        self.noisy = Noisy()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.noisy(x + torch.rand(1))
        return x if x.sum() > 0 else -x


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(self.conv(x), 0.5, training=True)


def test_a_part_that_draws_other_numbers_in_a_whole_than_alone_is_compiled() -> None:
    graph = fxprune.trace(Drawing(), torch.randn(2, 3, 8, 8))
    assert [name for name, _ in graphs_of(graph)] == ["", "model.noisy"]


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("model", [DeeplyOpaque(), nn.Sequential(DeeplyOpaque()), Choosy()])
def test_inputs_that_do_not_fit_are_told_of_whatever_is_opaque(model: nn.Module, checked: bool) -> None:
    with pytest.raises(fxprune.errors.TraceError, match=r"do not fit the model: .* to have . channels, but got 5"):
        fxprune.trace(model, torch.randn(2, 5, 8, 8), check=checked)
