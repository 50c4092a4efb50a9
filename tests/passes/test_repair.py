import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Block, module_at, randomize, state_of
from torch import fx, nn

import fxprune
from fxprune import passes
from fxprune.errors import FxpruneError, FxpruneValueError
from fxprune.facts.layer_by_layer import LayerByLayer
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
    assert any(one.startswith("too few images (") and "1 of the layers" in one for one in result.warnings)


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
    for ridge in (-1.0, float("inf"), float("nan")):
        with pytest.raises(FxpruneValueError, match="ridge is a finite number, 0 at least"):
            passes.Repair(ridge=ridge)
    for step in (passes.Repair, passes.MeasureNorms):
        with pytest.raises(FxpruneValueError, match="memory is a number of bytes, 0 at least; got -1"):
            step(memory=-1)
    with pytest.raises(FxpruneError, match="does not take a batch of data"):
        passes.Repair(data=[X[:, :2]], reference=graph)(cut)
    with pytest.raises(FxpruneValueError, match=r"0 cannot be fitted: .* NaN"):
        passes.Repair(data=[X * float("nan")], reference=graph)(cut)


def test_without_images_the_example_inputs_serve_and_that_is_said() -> None:
    graph = redundant()
    cut = passes.RemoveChannels(ratio=0.5)(graph).graph_module
    result = passes.Repair(reference=graph)(cut)
    assert any("fitted on the graph's 4 example inputs" in one for one in result.warnings)


class Tokens(nn.Module):
    """Its norm is of tokens, and its layers are of features."""

    def __init__(self, tokens: int, features: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 8), nn.Linear(8, features, bias=False)
        self.norm = nn.BatchNorm1d(tokens)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.second(torch.relu(self.first(x)))))


@pytest.mark.parametrize("features", [6, 7])
def test_a_norm_of_other_channels_takes_no_mean(features: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(60, 6, 5, dtype=torch.float64)
    model: Any = randomize(Tokens(6, features))
    with torch.no_grad():
        model.first.weight[2] = 0  # constant: its mean is all that is lost
        model.first.bias[2] = 1
    graph = fxprune.trace(model, x[:4])
    cut = passes.RemoveChannels(indices={"first": [2]})(graph).graph_module
    repaired = passes.Repair(data=[x], reference=graph, ridge=0.0)(cut).graph_module
    torch.testing.assert_close(repaired(x), graph(x))
    assert torch.equal(module_at(repaired, "norm").running_mean, module_at(graph, "norm").running_mean)


class Context(nn.Module):
    """A summand that is the same all over an image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        return x + self.second(torch.relu(self.first(x.mean((2, 3), keepdim=True))))  # type: ignore[no-any-return]


def test_a_summand_of_another_shape_than_the_sum_is_fitted_to_itself() -> None:
    graph = fxprune.trace(randomize(Context()), X[:4])
    cut = passes.RemoveChannels(indices={"first": [0, 1]})(graph).graph_module
    result = passes.Repair(data=DATA, reference=graph)(cut)
    assert "second" in [site.path for site in result.rewritten]
    assert error(result.graph_module, graph) < error(cut, graph)


def test_layers_are_in_the_mode_that_they_were_in() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    graph = fxprune.trace(randomize(model), X[:4])
    cut = passes.RemoveChannels(indices={"0": [0, 1]})(graph).graph_module.train()
    module_at(cut, "1").eval()
    repaired = passes.Repair(data=DATA, reference=graph)(cut).graph_module
    assert module_at(repaired, "2") is not module_at(cut, "2")
    assert {name: module_at(repaired, name).training for name in "012"} == {"0": True, "1": False, "2": True}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_what_is_rounding_is_not_fitted(dtype: torch.dtype) -> None:
    x = X.to(dtype)
    graph = fxprune.trace(randomize(plain()).to(dtype), x[:4])
    assert not passes.Repair(data=[x], reference=graph)(graph).modified
    cut = passes.RemoveChannels(indices={"0": [0, 1]})(graph).graph_module
    assert "0" not in [site.path for site in passes.Repair(data=[x], reference=graph)(cut).rewritten]


def test_images_that_are_missing_are_told() -> None:
    graph = redundant()
    with pytest.raises(FxpruneValueError, match="there are no images to fit layers on: give data="):
        passes.Repair(data=[], reference=graph)(graph)


def test_images_that_are_alike_are_no_error() -> None:
    graph = redundant()
    cut = passes.RemoveChannels(indices={"0": [0], "1": [3]})(graph).graph_module
    one = X[:1].expand(32, -1, -1, -1)
    repaired = passes.Repair(data=[one], reference=graph)(cut).graph_module
    torch.testing.assert_close(repaired(X[:1]), graph(X[:1]))


class Upsampled(nn.Module):
    """A transposed conv that is told its size, as a U-Net's."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 3, stride=2), nn.ConvTranspose2d(8, 4, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.up(torch.relu(self.down(x)), output_size=[x.shape[-2], x.shape[-1]])
        assert isinstance(found, torch.Tensor)
        return found


def test_a_layer_that_is_told_its_size_is_left_alone() -> None:
    graph = fxprune.trace(randomize(Upsampled()), X[:4])
    result = passes.Repair(data=DATA, reference=graph)(graph)
    assert [site.why for site in result.declined] == ["it is called with more than its input, as an output_size"]


def test_a_loaded_network_that_was_cut_again_is_fitted_to_nothing_wrong(tmp_path: Path) -> None:
    graph = redundant()
    once = passes.RemoveChannels(indices={"0": [0, 1]})(graph).graph_module
    fxprune.emit(once, tmp_path / "out")
    twice = passes.RemoveChannels(indices={"0": [0]})(fxprune.load_emitted(tmp_path / "out")).graph_module
    result = passes.Repair(data=DATA, reference=graph)(twice)
    assert ("0", "nothing in the unpruned graph computes what it does") in [
        (site.path, site.why) for site in result.declined
    ]
    assert "0" not in [site.path for site in result.rewritten]


def test_taps_that_are_shared_are_fitted_once() -> None:
    graph = redundant()
    cut = passes.RemoveChannels(indices={"0": [0, 1]})(graph).graph_module
    repair = passes.Repair(data=DATA, reference=graph, taps="shared")
    once = repair(cut)
    again = repair(once.graph_module)
    assert "1" in [site.path for site in once.rewritten]
    assert ("1", "its weights are not those of the unpruned graph any more, to which shared taps would be added") in [
        (site.path, site.why) for site in again.declined
    ]
    assert torch.equal(module_at(again.graph_module, "1").weight, module_at(once.graph_module, "1").weight)


class Projected(nn.Module):
    """A residual block whose shortcut is a conv, called after those of the branch, as in torchvision's ResNets."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU())
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.shortcut = nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.branch(x) + self.shortcut(x)  # type: ignore[no-any-return]


def test_a_shortcut_behind_its_branch_is_fitted_to_what_the_sum_lacks() -> None:
    torch.manual_seed(0)
    graph = fxprune.trace(randomize(Projected()), X[:4])
    cut = passes.RemoveChannels(indices={"stem.2": [0, 1, 2]})(graph).graph_module
    result = passes.Repair(data=DATA, reference=graph, ridge=0.0)(cut)
    assert [site.path for site in result.rewritten] == ["branch.0", "branch.2", "shortcut"]
    repaired = result.graph_module
    (shortcut,) = (node for node in repaired.graph.nodes if node.target == "shortcut")
    read, branch = shortcut.args[0], next(iter(shortcut.users)).args[0]
    wanted = graph(X).detach()
    with LayerByLayer(repaired, [(X,)], kept=[read, branch]).running() as run:
        run.until(shortcut)
        x, rest = run.values(read)[0], wanted - run.values(branch)[0]
    rows, target = (one.movedim(1, -1).flatten(0, 2) for one in (torch.cat([x, torch.ones_like(x[:, :1])], 1), rest))
    best = rows @ torch.linalg.lstsq(rows, target, driver="gelsd").solution - target
    assert error(repaired, graph) * float(wanted.norm()) == pytest.approx(float(best.norm()))


class Factors(nn.Module):
    """Constant factors, which go into the weights before them: into a branch's, and the last layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.head = nn.Conv2d(8, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = x + 0.1 * torch.relu(self.second(torch.relu(self.first(x))))
        return 3 * self.head(torch.relu(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("options", [{}, {"statistics": "once"}, {"taps": "shared"}], ids=str)
def test_a_factor_that_was_folded_is_known(options: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = randomize(Factors())
    with torch.no_grad():
        model.first.weight[3] = 2 * model.first.weight[1]
        model.first.bias[3] = 2 * model.first.bias[1]
    graph = fxprune.trace(model, X[:4])
    chain = [passes.FoldScale(), passes.RemoveChannels(indices={"first": [3]})]
    cut = fxprune.Pipeline(chain)(graph).graph_module
    result = passes.Repair(data=DATA, reference=graph, ridge=0.0, **options)(cut)
    assert [site.path for site in result.rewritten] == ["second"]
    assert error(result.graph_module, graph) < 1e-9 < error(cut, graph)
    fxprune.emit(cut, tmp_path / "out")
    loaded = fxprune.load_emitted(tmp_path / "out")
    again = passes.Repair(data=DATA, reference=graph, ridge=0.0, **options)(loaded).graph_module
    assert error(again, graph) <= error(loaded, graph)


def test_a_reference_of_another_network_is_refused() -> None:
    other = fxprune.trace(randomize(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))), X[:4])
    with pytest.raises(FxpruneError, match="reference is of another network, or trace"):
        passes.Repair(data=DATA, reference=other)(redundant())
