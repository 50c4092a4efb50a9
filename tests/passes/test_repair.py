import copy
from typing import Any

import pytest
import torch
from helpers import Block, module_at, randomize, state_of
from torch import fx, nn

import fxprune
from fxprune import passes
from fxprune.errors import FxpruneError, FxpruneValueError
from fxprune.rewriting.repairing import Statistics

X = torch.randn(60, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
DATA = [X[:40], X[40:]]


def plain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)
    )


def redundant() -> fx.GraphModule:
    """Of the first conv's channels one is a mixture of two others, one is constant."""
    model: Any = randomize(plain())
    with torch.no_grad():
        model[0].weight[2] = 0.3 * model[0].weight[0] - 1.5 * model[0].weight[1]
        model[0].weight[5] = 0
    return fxprune.trace(model, X[:4])


def error(one: fx.GraphModule, other: fx.GraphModule) -> float:
    with torch.no_grad():
        return float((one(X) - other(X)).norm() / other(X).norm())


@pytest.mark.parametrize("options", [{}, {"statistics": "once"}, {"taps": "shared"}], ids=str)
def test_what_others_hold_is_repaired_exactly(options: dict[str, Any]) -> None:
    graph = redundant()
    cut = passes.RemoveChannels(indices={"0": [2, 5]})(graph).graph_module
    result = passes.Repair(data=DATA, reference=graph, ridge=0.0, **options)(cut)
    assert error(cut, graph) > 1e-2
    assert error(result.graph_module, graph) < 1e-9
    assert [site.path for site in result.rewritten] == ["1"]
    assert result.rewritten[0].why.startswith("refitted on 60 images: 0.0% off")


@pytest.mark.parametrize("statistics", ["layer after layer", "once"])
def test_less_is_lost_than_by_the_cut(statistics: Statistics) -> None:
    torch.manual_seed(0)
    graph = fxprune.trace(randomize(plain()), X[:4])
    cut = passes.RemoveChannels(indices={"0": [0, 1, 2]})(graph).graph_module
    repaired = passes.Repair(data=DATA, reference=graph, statistics=statistics)(cut).graph_module
    assert error(repaired, graph) < error(cut, graph)


def test_a_pipeline_gives_what_it_began_with() -> None:
    graph = redundant()
    result = fxprune.Pipeline([passes.RemoveChannels(indices={"0": [2]}), passes.Repair(data=DATA, ridge=0.0)])(graph)
    assert error(result.graph_module, graph) < 1e-9
    alone = passes.Repair(data=DATA)
    with pytest.raises(FxpruneError, match="give reference="):
        alone(graph)


def test_the_graphs_that_it_is_given_stay() -> None:
    graph = redundant()
    cut = passes.RemoveChannels(ratio=0.5)(graph).graph_module
    before, after = copy.deepcopy(state_of(graph)), copy.deepcopy(state_of(cut))
    passes.Repair(data=DATA, reference=graph)(cut)
    for kept, now in ((before, graph), (after, cut)):
        assert all(torch.equal(kept[name], value) for name, value in now.state_dict().items())


def test_nothing_is_done_where_nothing_went() -> None:
    graph = redundant()
    assert not passes.Repair(data=DATA, reference=graph)(graph).modified


def test_channels_that_were_cut_twice_are_known_by_their_first_numbers() -> None:
    graph = redundant()
    once = passes.RemoveChannels(indices={"0": [0]})(graph).graph_module
    twice = passes.RemoveChannels(indices={"0": [4]})(once).graph_module  # the sixth of all
    of_first = passes.Repair(data=DATA, reference=graph, ridge=0.0)(twice).graph_module
    of_second = passes.Repair(data=DATA, reference=once, ridge=0.0)(twice).graph_module
    assert error(of_first, graph) < 1e-9
    assert error(of_second, once) < 1e-9


def test_the_mean_goes_into_the_norm_behind_and_training_would_go_on_from_there() -> None:
    graph = redundant()
    cut = passes.RemoveChannels(indices={"0": [1]})(graph).graph_module
    repaired = passes.Repair(data=DATA, reference=graph)(cut).graph_module
    assert module_at(repaired, "1").bias is not None
    model: Any = randomize(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8)))
    graph = fxprune.trace(model, X[:4])
    cut = passes.RemoveChannels(indices={"0": [1]})(graph).graph_module
    repaired = passes.Repair(data=DATA, reference=graph, ridge=0.0)(cut).graph_module
    assert module_at(repaired, "1").bias is None
    read = (
        module_at(repaired, "1")(module_at(repaired, "0")(X)).mean((0, 2, 3)) - module_at(repaired, "2").running_mean
    )
    was = model[1](model[0](X)).mean((0, 2, 3)) - model[2].running_mean
    torch.testing.assert_close(read, was)


def test_a_bias_appears_where_there_is_none_and_no_norm() -> None:
    model: Any = randomize(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1, bias=False), nn.ReLU()))
    with torch.no_grad():
        model[0].weight[3] = 0  # constant: its mean is all that is lost
    graph = fxprune.trace(model, X[:4])
    cut = passes.RemoveChannels(indices={"0": [3]})(graph).graph_module
    repaired = passes.Repair(data=DATA, reference=graph, ridge=0.0)(cut).graph_module
    assert module_at(repaired, "1").bias is not None
    assert error(repaired, graph) < 1e-9


class Blocks(nn.Module):
    """A stem, two residual blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.first, self.second = Block(6), Block(6)
        self.head = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.second(self.first(self.stem(x))).mean((2, 3)))
        return found


@pytest.mark.parametrize("what", ["branches", "convs"])
def test_what_layers_leave_behind_is_made_up_for(what: str) -> None:
    torch.manual_seed(0)
    graph = fxprune.trace(randomize(Blocks()), X[:4])
    plan = fxprune.choose(graph, what, fxprune.Targets(macs=0.56), criterion="half-gate", data=[X[:8]])
    cut = plan.apply(graph).graph_module
    repaired = passes.Repair(data=DATA, reference=graph)(cut).graph_module
    assert error(repaired, graph) < 0.6 * error(cut, graph)


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(8, 8, 3, groups=4, stride=2), nn.Conv2d(8, 4, 1)],
        [nn.ConvTranspose2d(8, 8, 3, stride=2, groups=2, output_padding=1), nn.Conv2d(8, 4, 1)],
        [nn.Conv2d(8, 8, 3, groups=8, dilation=2), nn.Conv2d(8, 4, 1)],
        [nn.Conv2d(8, 4, 3, padding=1, padding_mode="circular")],
    ],
    ids=str,
)
def test_readers_of_any_kind(layers: list[nn.Module]) -> None:
    torch.manual_seed(0)
    graph = fxprune.trace(randomize(nn.Sequential(nn.Conv2d(3, 8, 3), *layers)), X[:4])
    cut = passes.RemoveChannels(ratio=0.5, groups="within")(graph).graph_module
    repaired = passes.Repair(data=DATA, reference=graph)(cut).graph_module
    assert error(repaired, graph) < error(cut, graph)


def test_attention_projections() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.head(self.attention(x, x, x, need_weights=False)[0])
            return found

    x = torch.randn(50, 7, 8, dtype=torch.float64)
    graph = passes.SplitAttention()(fxprune.trace(randomize(Attending()), x[:4])).graph_module
    cut = passes.RemoveChannels(ratio=0.5)(graph).graph_module
    result = passes.Repair(data=[x], reference=graph)(cut)
    assert result.modified
    with torch.no_grad():
        assert (result.graph_module(x) - graph(x)).norm() < (cut(x) - graph(x)).norm()


def test_wide_linear_layers_are_fitted_on_few_images() -> None:
    model = randomize(nn.Sequential(nn.Conv2d(3, 200, 1), nn.Flatten(), nn.Linear(200 * 64, 3)))
    graph = fxprune.trace(model, X[:4])
    cut = passes.RemoveChannels(indices={"0": list(range(40))})(graph).graph_module
    result = passes.Repair(data=DATA, reference=graph)(cut)
    assert error(result.graph_module, graph) < 0.3 * error(cut, graph)
    assert any("are fewer samples than 1 layers have inputs" in one for one in result.warnings)


def test_what_cannot_be_fitted_is_declined_with_a_reason() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.twice = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.twice(torch.relu(self.twice(self.first(x))))
            return found

    graph = fxprune.trace(randomize(Shared()), X[:4])
    result = passes.Repair(data=DATA, reference=graph)(graph)
    assert any("shared by 2 call sites" in str(site) for site in result.declined)


def test_bad_input() -> None:
    graph = redundant()
    cut = passes.RemoveChannels(ratio=0.5)(graph).graph_module
    with pytest.raises(FxpruneValueError, match="ridge is 0 at least"):
        passes.Repair(ridge=-1.0)
    with pytest.raises(FxpruneError, match="does not take a batch of data"):
        passes.Repair(data=[X[:, :2]], reference=graph)(cut)
    with pytest.raises(FxpruneValueError, match=r"0 cannot be fitted: .* NaN"):
        passes.Repair(data=[X * float("nan")], reference=graph)(cut)


def test_without_images_the_example_inputs_serve_and_that_is_said() -> None:
    graph = redundant()
    cut = passes.RemoveChannels(ratio=0.5)(graph).graph_module
    result = passes.Repair(reference=graph)(cut)
    assert any("fitted on the graph's 4 example inputs" in one for one in result.warnings)
