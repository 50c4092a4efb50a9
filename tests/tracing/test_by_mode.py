"""What differs between train and eval mode is kept in one graph: traced, passed over, emitted, in both."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Wrapped, emitted, example, randomize, targets
from torch import nn
from torch.nn import functional
from tracing_helpers import conv, images, opaque

import fxprune
from fxprune import passes
from fxprune.costs.macs import total_macs, total_params
from fxprune.errors import FxpruneWarning, TraceError
from fxprune.ir.by_mode import has_modes
from fxprune.ir.nodes import EXAMPLE_INPUTS
from fxprune.ir.pytrees import structure, tensors_in
from fxprune.ir.trace_notes import assumptions_of, opaque_modules, tier_of
from fxprune.rewriting.verify import difference
from fxprune.structures.gated_layers import layers

INSERT = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])
COMPILE = fxprune.Pipeline([passes.RemoveLayers(threshold=0.0), *fxprune.AFTER_TRAINING])


class DropPath(nn.Module):
    """Stochastic depth as timm and others write it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(0.5)
        return x * mask / 0.5


class Block(nn.Module):
    """A residual block whose branch may be dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = conv(), nn.BatchNorm2d(4), DropPath()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(x + self.drop(self.norm(self.conv(x))))


class Auxiliary(nn.Module):
    """Two blocks, a head, and a second head that training alone has."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Block(), Block()
        self.aux, self.head = nn.Sequential(conv(), nn.Flatten(), nn.Linear(144, 3)), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> Any:
        middle = self.first(x)
        logits = self.head(self.second(middle).mean((2, 3)))
        return (logits, self.aux(middle)) if self.training else logits


class Head(nn.Module):
    """A detector's head: a dict of raw maps while it trains, a tuple of decoded ones and the maps afterwards."""

    def __init__(self, is_opaque: bool) -> None:
        super().__init__()
        self.boxes, self.scores, self.is_opaque = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 3, 1), is_opaque

    def forward(self, maps: list[torch.Tensor]) -> Any:
        raw = {"boxes": [self.boxes(one) for one in maps], "scores": [self.scores(one) for one in maps]}
        if self.is_opaque and float(raw["scores"][0].detach().max()) > 1e9:
            return raw
        return raw if self.training else (torch.cat([one.flatten(2) for one in raw["boxes"]], 2), raw)


class Detector(nn.Module):
    """A residual block in front of such a head, at two sizes."""

    def __init__(self, is_opaque: bool) -> None:
        super().__init__()
        self.block, self.down, self.head = Block(), nn.Conv2d(4, 4, 3, 2, 1), Head(is_opaque)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.block(x)
        return self.head([x, self.down(x)])


def outputs(model: nn.Module, training: bool, *inputs: Any) -> Any:
    """Return what ``model`` returns in one mode, with the random numbers of seed 0; it stays as it is."""
    own = copy.deepcopy(model).train(training)
    torch.manual_seed(0)
    with torch.no_grad():
        return own(*(inputs or (images(),)))


def assert_same(one: nn.Module, other: nn.Module, *inputs: Any, tolerance: float = 1e-6) -> None:
    """Assert that both return the same in both modes."""
    for training in (True, False):
        expected, found = (outputs(model, training, *inputs) for model in (one, other))
        assert structure(found) == structure(expected)
        assert difference(tensors_in(expected), tensors_in(found))[1] <= tolerance


def buffer_update(m: Any, x: torch.Tensor) -> torch.Tensor:
    if m.training:
        m.layer.running_mean.mul_(0.5)
    return m.layer(x)  # type: ignore[no-any-return]


MODELS: list[Callable[[], nn.Module]] = [
    Block,
    Auxiliary,
    lambda: Detector(False),
    lambda: Detector(True),
    lambda: Wrapped(lambda m, x: m.layer(x) * (torch.tensor(0.5) if m.training else torch.tensor(1.0)), layer=conv()),
    lambda: Wrapped(lambda m, x: m.layer(x) * (0.5 if m.training else 2.0), layer=conv()),
    lambda: Wrapped(
        lambda m, x: functional.dropout(m.layer(x), 0.3 if m.training else 0.1, m.training), layer=conv()
    ),
    lambda: Wrapped(lambda m, x: m.layer(x).add_(1) if m.training else m.layer(x).mul_(2), layer=conv()),
    lambda: Wrapped(lambda m, x: m.a(m.b(x)) if m.training else m.b(m.a(x)), a=conv(), b=conv()),
    lambda: Wrapped(
        lambda m, x: {"loss": m.a(x).mean()} if m.training else m.a(x), a=nn.Sequential(conv(), DropPath())
    ),
]


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("training", [True, False])
def test_both_modes_are_traced(make: Callable[[], nn.Module], training: bool) -> None:
    torch.manual_seed(0)
    model = make().train(training)
    graph = fxprune.trace(model, images())
    assert graph.training is training
    assert_same(model, graph)
    assert_same(model, copy.deepcopy(graph))
    assert_same(model, fxprune.trace(graph, images()))
    assert_same(model, INSERT(graph).graph_module)


@pytest.mark.parametrize("make", MODELS[:3])
def test_what_is_removed_is_removed_from_both_and_emitted_with_both(
    make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    x = example(2, 4, 6, 6)
    graph = fxprune.trace(randomize(make()), x)
    sparse = INSERT(graph).graph_module
    *others, last = (layer for layer in layers(sparse) if isinstance(layer.module, fxprune.BranchScale))
    last.assign(scale=0.0)  # of the last: the others draw what they drew before
    for layer in others:
        layer.assign(scale=0.7)
    result = COMPILE(sparse)
    pruned = result.graph_module
    assert has_modes(pruned.graph)
    assert last.path.rpartition(".")[0] + ".conv" not in dict(pruned.named_modules())
    for training in (True, False):  # norms are folded: what is compared in train mode is what they do not touch
        frozen = copy.deepcopy(sparse).train(training)
        for module in frozen.modules():
            module.training = training and not isinstance(module, nn.BatchNorm2d)
        torch.manual_seed(0)
        found = outputs(pruned, training, x)
        torch.manual_seed(0)
        with torch.no_grad():
            expected = frozen(x)
        assert difference(tensors_in(expected), tensors_in(found))[1] < 1e-12
    for model in emitted(pruned, tmp_path / "out", x):
        assert_same(pruned, model, x, tolerance=0)
    assert "if self.training:" in (tmp_path / "out" / "model.py").read_text()


def test_a_branch_takes_its_scale_through_stochastic_depth() -> None:
    sparse = INSERT(fxprune.trace(randomize(Block()), example(2, 4, 6, 6))).graph_module
    (branch,) = (layer for layer in layers(sparse) if isinstance(layer.module, fxprune.BranchScale))
    branch.assign(scale=0.7)
    pruned = COMPILE(sparse).graph_module
    assert "mul" not in targets(fxprune.trace(pruned.eval(), example(2, 4, 6, 6)))[-4:]
    assert not any(isinstance(one, float) and one != 0.5 for node in pruned.graph.nodes for one in node.args)


def test_numbers_that_nobody_reads_are_not_drawn() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        r = m.layer(x)
        return x + (r * (torch.rand(x.shape[0], 1, 1, 1) < 0.5) if m.training else r)  # type: ignore[no-any-return]

    model = Wrapped(function, layer=nn.Sequential(conv(), nn.BatchNorm2d(4)))  # which takes batches alone
    sparse = INSERT(fxprune.trace(model, images())).graph_module
    for layer in layers(sparse):
        layer.assign(scale=0.0)
    assert targets(COMPILE(sparse).graph_module) == []


def test_costs_are_those_of_eval_mode_and_layers_of_train_mode_alone_stay() -> None:
    model = Auxiliary().eval()
    graph = fxprune.trace(model, images())
    assert total_params(graph) == sum(p.numel() for p in model.parameters())
    assert total_macs(graph) == 2 * 36 * 4 * 4 * 9 + 4 * 3
    result = INSERT(graph)
    assert [site.why for site in result.declined if site.path == "aux.0"] == ["train mode alone computes it"]
    assert len(layers(result.graph_module)) == 4


class Targets(nn.Module):
    """Wants targets in train mode, and returns their loss."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: torch.Tensor, wanted: torch.Tensor | None = None) -> Any:
        y = self.conv(x)
        return {"loss": (y - wanted).square().mean()} if self.training else y


def test_train_inputs() -> None:
    model, wanted = Targets().train(), images(1)
    graph = fxprune.trace(model, images(), train_inputs=(images(), wanted))
    assert opaque(graph) == []
    expected = outputs(model, True, images(2), wanted)
    assert torch.equal(outputs(graph, True, images(2), wanted)["loss"], expected["loss"])
    assert torch.equal(outputs(graph, False, images(2)), outputs(model, False, images(2)))
    sparse = INSERT(graph).graph_module
    assert torch.allclose(outputs(sparse, True, images(2), wanted)["loss"], expected["loss"])
    assert len(graph.meta[EXAMPLE_INPUTS]) == 1


def test_train_inputs_must_hold_those_of_eval_mode() -> None:
    with pytest.raises(TraceError, match="train_inputs lack wanted, which example_inputs give"):
        fxprune.trace(Targets(), (images(), images()), train_inputs=images())


@pytest.mark.parametrize("training", [True, False])
def test_what_fails_in_train_mode_refuses_to_train(training: bool) -> None:
    model = Targets().train(training)
    with (
        pytest.warns(FxpruneWarning, match="Targets fails on the example inputs in train mode")
        if training
        else _quiet()
    ):
        graph = fxprune.trace(model, images())
    assert torch.equal(outputs(graph, False), outputs(model, False))
    with pytest.raises(AssertionError, match="in train mode the model fails on the example"):
        outputs(INSERT(graph).graph_module, True)
    assert [one.source for one in assumptions_of(graph)] == ["in train mode"]


def _quiet() -> Any:
    import contextlib

    return contextlib.nullcontext()


def test_what_cannot_be_traced_in_train_mode_stays_opaque() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.layer(x) * (2 if m.training and x.sum() > 1e9 else 1)  # type: ignore[no-any-return]

    graph = fxprune.trace(nn.Sequential(conv(), Wrapped(function, layer=conv())), images())
    (one,) = opaque_modules(graph)
    assert (one.path, one.reason.startswith("in train mode")) == ("1", True)


def test_buffers_that_training_alone_writes_to() -> None:
    class Steps(nn.Module):
        steps: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.conv = conv()
            self.register_buffer("steps", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                self.steps += 1
            return self.conv(x)  # type: ignore[no-any-return]

    graph = fxprune.trace(Steps().train(), images())
    pruned = COMPILE(graph).graph_module
    for one in (graph, pruned):
        before = float(one.get_buffer("steps"))
        one.eval()(images())
        assert float(one.get_buffer("steps")) == before
        one.train()(images())
        assert float(one.get_buffer("steps")) == before + 1


def test_a_part_that_is_kept_in_eval_mode_stays_so() -> None:
    model = Auxiliary().train()
    model.first.drop.eval()
    graph = fxprune.trace(model, images())
    found = []
    for one in (model, graph):
        torch.manual_seed(0)
        with torch.no_grad():
            found.append(tensors_in(copy.deepcopy(one)(images())))
    assert difference(*found)[1] < 1e-6


def test_train_mode_that_wants_larger_inputs_leaves_the_first_tier(capfd: pytest.CaptureFixture[str]) -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool = conv(), nn.AvgPool2d(16)

        def forward(self, x: torch.Tensor) -> Any:
            y = self.conv(x)
            return (y, self.pool(y)) if self.training else y

    graph = fxprune.trace(Large().eval(), images())
    assert tier_of(graph) == "symbolic"
    assert "pool" not in capfd.readouterr().err
    with pytest.raises(AssertionError, match="train mode"):
        graph.train()(images())


class ReadsInAnotherOrder(nn.Module):
    """Reads what both modes need at other places in each."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            offset = self.a.sigmoid() * 2
            y = self.normalised(x) + self.b.sum()
        else:
            y = self.normalised(x) * 3 + self.b.sum()
            offset = self.a.sigmoid()
        return y + offset.sum()

    def normalised(self, x: torch.Tensor) -> torch.Tensor:
        norm = self.norm
        return functional.batch_norm(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias, self.training, 0.1, norm.eps
        )


def test_an_attribute_is_read_once_for_both_modes() -> None:
    torch.manual_seed(0)
    model, x = ReadsInAnotherOrder().eval(), torch.randn(3, 4, 5, 5)
    graph = fxprune.trace(model, x)
    reads = [str(node.target) for node in graph.graph.find_nodes(op="get_attr")]
    assert len(reads) == len(set(reads))
    assert not any(node.op == "get_attr" for node in graph.graph.nodes if "running" in str(node.target))
    for training in (False, True):
        torch.testing.assert_close(graph.train(training)(x), copy.deepcopy(model).train(training)(x))
