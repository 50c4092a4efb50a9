"""The user's own model with the layers of a graph: equal to it, or refused with the line that is in the way."""

from __future__ import annotations

import copy
import io
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from helpers import assert_state_equal, randomize, state_of
from torch import fx, nn
from torch.nn.utils import parametrizations

import fxprune
from fxprune import passes
from fxprune.errors import FxpruneError, FxpruneTypeError
from fxprune.pruning.model_runs import run_model_float64
from fxprune.rewriting.contract import Pass
from fxprune.rewriting.float64 import run_float64
from fxprune.rewriting.verify import difference

HALF = passes.RemoveChannels(ratio=0.5)


def assert_is_the_graph(model: nn.Module, graph: fx.GraphModule, x: torch.Tensor) -> None:
    """Assert that ``model`` returns what ``graph`` does, in float64, and has none of its tensors."""
    found = run_model_float64(model, graph, [x])[0]
    assert difference(run_float64(graph, [x])[: len(found)], found)[1] <= 1e-9
    theirs = {tensor.data_ptr() for tensor in (*graph.parameters(), *graph.buffers())}
    assert theirs.isdisjoint(tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers()))


def written(model: nn.Module, x: torch.Tensor, *chain: Pass) -> nn.Module:
    """Return ``model`` with what ``chain`` makes of its graph, held equal to that; ``model`` stays as it is."""
    state = state_of(model)
    result = fxprune.Pipeline(chain, verify=False)(fxprune.trace(model, x))
    made = fxprune.write_back(model, result)
    assert_state_equal(model, state)
    assert type(made) is type(model)
    assert_is_the_graph(made, result.graph_module, x)
    return made


def refusal(model: nn.Module, x: torch.Tensor, *chain: Pass) -> str:
    """Return why what ``chain`` makes of ``model`` cannot be written back, in place neither: that changes nothing."""
    result = fxprune.Pipeline(chain, verify=False)(fxprune.trace(model, x))
    state, modules = state_of(model), list(model.modules())
    with pytest.raises(FxpruneError) as caught:
        fxprune.write_back(model, result)
    with pytest.raises(FxpruneError) as again:
        fxprune.write_back(model, result, in_place=True)
    assert str(again.value) == str(caught.value)
    assert list(model.modules()) == modules
    assert_state_equal(model, state)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def without(zero: Sequence[str], *, shortcut: float | None = None) -> tuple[Any, ...]:
    """Return the passes that remove the layers with gates at ``zero``."""
    return (_Gated(tuple(zero), shortcut), passes.RemoveLayers(threshold=1e-3), *fxprune.AFTER_TRAINING_KEEPING_NORMS)


class _Gated:
    """Inserts gates, and closes some."""

    def __init__(self, zero: Sequence[str], shortcut: float | None) -> None:
        self.zero, self.shortcut = zero, shortcut

    def __call__(self, graph_module: fx.GraphModule) -> Any:
        result = fxprune.insert_scales(graph_module, verify=False)
        gates = {gate.path: gate for gate in fxprune.gates_of(result.graph_module)}
        for path in self.zero:
            gates[path].assign(scale=0.0, shortcut=self.shortcut)
        return result


class Block(nn.Module):
    """A residual block of one conv."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> Any:
        return torch.relu(x + self.bn(self.conv(x)))


class Net(nn.Module):
    """Layers in all kinds of containers, a hook, an attribute and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.heads = nn.ModuleDict({"class": nn.Linear(16, 5), "box": nn.Linear(16, 4)})
        self.wide = nn.Conv2d(8, 16, 1)
        self.pos = nn.Parameter(torch.randn(1, 16, 1, 1))
        self.drop = nn.Dropout(0.1)
        self.names = ["a", "b"]

    def forward(self, x: torch.Tensor) -> Any:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        x = torch.relu(self.wide(x) + self.pos)
        x = self.drop(x.flatten(2).mean(-1))
        return torch.cat([head(x) for head in self.heads.values()], 1)

    def width(self) -> int:
        return self.wide.out_channels


def net() -> Net:
    torch.manual_seed(0)
    model = randomize(Net()).float()
    assert isinstance(model, Net)
    return model


def image(*shape: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(*(shape or (2, 3, 8, 8)))


def train_a_step(model: nn.Module, x: torch.Tensor) -> None:
    model.train()
    before = state_of(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(x).square().mean().backward()
    optimizer.step()
    named = dict(model.named_parameters())
    assert any(not torch.equal(one, before[name]) for name, one in named.items())
    assert all(one.grad is not None for one in named.values())
    model.eval()


@pytest.mark.parametrize(
    "chain", [(HALF,), (HALF, passes.FoldBatchNorm(), passes.Simplify())], ids=["channels", "folded"]
)
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_torchvision(name: str, chain: tuple[Pass, ...]) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    model, x = randomize(getattr(models, name)()).float(), image(2, 3, 32, 32)
    small = written(model, x, *chain)
    count = sum(one.numel() for one in small.parameters())
    assert count < 0.5 * sum(one.numel() for one in model.parameters())
    folded = len(chain) > 1
    assert folded == any(type(one) is nn.Identity for one in small.modules())
    assert folded != any(isinstance(one, nn.BatchNorm2d) for one in small.modules())
    if not folded:
        assert list(small.state_dict()) == list(model.state_dict())
    train_a_step(small, x)


def test_a_second_model_takes_its_state() -> None:
    model, x = net(), image()
    result = HALF(fxprune.trace(model, x))
    first, second = (fxprune.write_back(copy.deepcopy(model), result) for _ in range(2))
    train_a_step(first, x)
    assert not torch.equal(first(x), second(x))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))


def test_it_is_the_users_own_model() -> None:
    model, x, calls = net(), image(), []
    result = HALF(fxprune.trace(model, x))
    for module in (model, model.wide):
        module.register_forward_hook(lambda *_: calls.append("called"))
    small = fxprune.write_back(model, result)
    assert isinstance(small, Net)
    assert small.width() == 8
    assert list(small.heads) == ["class", "box"]
    assert small.pos.shape == (1, 8, 1, 1)
    assert isinstance(small.pos, nn.Parameter)
    assert small.names == ["a", "b"]
    assert small.names is not model.names
    calls.clear()
    small(x)
    assert calls == ["called", "called"]
    relu, drop = small.stem[2], small.drop
    assert isinstance(relu, nn.ReLU)
    assert relu.inplace
    assert isinstance(drop, nn.Dropout)


def test_train_flags_dtypes_and_what_is_frozen_stay() -> None:
    model, x = net().double(), image().double()
    model.train()
    model.blocks.eval()
    model.wide.requires_grad_(False)
    small = written(model, x, HALF)
    assert {name: one.training for name, one in small.named_modules()} == {
        name: one.training for name, one in model.named_modules()
    }
    assert {name: (one.requires_grad, one.dtype) for name, one in small.named_parameters()} == {
        name: (one.requires_grad, one.dtype) for name, one in model.named_parameters()
    }


def test_in_place() -> None:
    model, x = net(), image()
    result = HALF(fxprune.trace(model, x))
    conv, block = model.wide, model.blocks[0]
    assert fxprune.write_back(model, result, in_place=True) is model
    assert model.wide is conv
    assert model.blocks[0] is block
    assert conv.out_channels == 8
    assert_is_the_graph(model, result.graph_module, x)


def test_in_place_keeps_the_parameters_that_are_shared_with_the_graph() -> None:
    model, x = net(), image()
    first, wide = model.stem[0].weight, model.wide.weight
    result = passes.RemoveChannels(indices={"wide": [0]})(fxprune.trace(model, x, share_weights=True))
    fxprune.write_back(model, result, in_place=True)
    assert model.stem[0].weight is first
    assert model.wide.weight is not wide


def test_a_frozen_value_is_refused_by_the_pass_that_made_it() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.gamma, self.head = nn.Conv2d(3, 8, 1), nn.Parameter(torch.rand(8)), nn.Conv2d(8, 2, 1)

        def forward(self, x: torch.Tensor) -> Any:
            return self.head(self.conv(x) * self.gamma.view(1, -1, 1, 1))

    small: Any = written(Scaled(), image(), HALF)
    assert small.gamma.shape == (4,)
    said = refusal(Scaled(), image(), passes.FreezeWeights())
    assert "it has no gamma_1, a tensor that the graph reads: freeze-weights made it (leave that out, " in said


def test_copies_and_files_of_it() -> None:
    model, x = net(), image()
    small = written(model, x, HALF).eval()
    average = torch.optim.swa_utils.AveragedModel(small)
    average.update_parameters(small)
    assert torch.equal(average(x), small(x))
    file = io.BytesIO()
    torch.save(small, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), small(x))
    again = fxprune.trace(small, x)
    assert fxprune.verify(again, fxprune.trace(copy.deepcopy(small), x), x).equal


def test_a_second_time() -> None:
    model, x = net(), image()
    smaller = written(written(model, x, HALF), x, HALF, passes.FoldBatchNorm())
    assert isinstance(smaller, Net)
    assert smaller.width() == 4


class Counting(nn.Module):
    """Writes a width out, in a view that fails only afterwards, or that is silently another."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first, self.second = nn.Conv2d(3, 16, 1), nn.Conv1d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.first(x)
        if self.kind == "fails later":
            return self.second(x.view(-1, 16, 64))
        if self.kind == "other values":
            return self.second(x.flatten(2)) / 16**0.5 + x.sum((1, 2, 3)).view(-1, 1, 1) / 16
        return self.second(x.flatten(2))


def test_a_width_that_is_written_out_is_refused_with_its_line() -> None:
    said = refusal(Counting("fails later"), image(), HALF)
    assert said.startswith("Counting cannot be written back: test_write_back.py:")
    assert "`return self.second(x.view(-1, 16, 64))` has (-1, 16, 64) where the graph has (-1, 8, 64)" in said
    assert "; take the graph itself: fxprune.emit(" in said


def test_a_number_that_is_no_shape_stays_in_the_graph_too() -> None:
    written(Counting("other values"), image(), HALF)


class Splitting(nn.Module):
    """Splits its channels by halves, and reads each by another conv."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> Any:
        left, right = self.first(x).split(4, 1)
        return self.left(left) + self.right(right)


def test_other_channels_of_the_same_number_are_no_match() -> None:
    said = refusal(Splitting(), image(), passes.RemoveChannels(indices={"first": [0, 1]}))
    assert "`left, right = self.first(x).split(4, 1)`" in said


class Auxiliary(nn.Module):
    """Has a head that is used in train mode alone, and counts channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.aux = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1), nn.Conv1d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.stem(x)
        if self.training:
            return self.head(x) + self.aux(x.view(-1, 8, 64)).sum()
        return self.head(x)


def test_a_width_in_train_mode_is_refused() -> None:
    said = refusal(Auxiliary(), image(), HALF)
    assert "in train mode it fails: " in said
    assert "`return self.head(x) + self.aux(x.view(-1, 8, 64)).sum()`" in said


def test_a_branch_that_is_all_of_a_block_makes_it_an_identity() -> None:
    small = written(net(), image(), *without(["blocks.0.branch_scale"]))
    assert isinstance(small, Net)
    assert type(small.blocks[0]) is nn.Identity
    assert type(small.blocks[1]) is Block


def test_a_branch_in_a_resnet() -> None:
    """Its last ReLU is dropped, after another one: the block is nothing any more."""
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    model: Any = randomize(models.resnet18()).float()
    small: Any = written(model, image(2, 3, 32, 32), *without(["layer1.1.branch_scale"]))
    assert type(small.layer1[1]) is nn.Identity


class TwoBranches(nn.Module):
    """Two residual branches in one forward."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = (nn.Conv2d(n, 8, 3, padding=1) for n in (3, 8, 8))

    def forward(self, x: torch.Tensor) -> Any:
        x = self.stem(x).tanh()
        x = (x + self.a(x)).tanh()
        return x + self.b(x)


def test_a_branch_inside_one_forward_is_refused() -> None:
    said = refusal(TwoBranches(), image(), *without(["branch_scale"]))
    assert "b, called in test_write_back.py:" in said
    assert "`return x + self.b(x)`, returns other values than in the graph; removed: a; take" in said


def test_a_branch_with_a_factor_is_refused_by_its_name() -> None:
    model, x = net(), image()
    sparse = fxprune.insert_scales(fxprune.trace(model, x)).graph_module
    next(gate for gate in fxprune.gates_of(sparse) if gate.kind == "branch").assign(scale=0.5)
    chain = (passes.FuseBranchScale(), passes.SplitResConv())
    result = fxprune.Pipeline(chain, verify=False)(sparse)
    with pytest.raises(
        FxpruneError, match=r"the graph has come to have mul \(blocks.0.*\), which no forward computes"
    ):
        fxprune.write_back(model, result)


def test_a_removed_layer_with_a_shortcut_is_an_identity() -> None:
    model = randomize(
        nn.Sequential(
            OrderedDict(
                a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 8, 3, padding=1), norm=nn.BatchNorm2d(8), c=nn.Conv2d(8, 2, 1)
            )
        )
    )
    small: Any = written(model, image().double(), *without(["b"], shortcut=1.0))
    assert type(small.b) is nn.Identity
    assert type(small.norm) is nn.Identity
    assert [name for name, _ in small.named_children()] == ["a", "b", "norm", "c"]


class Tied(nn.Module):
    """A conv that is called twice, under two names, and a weight that two layers have."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.again = nn.Sequential(self.conv, nn.ReLU())
        self.up, self.down = nn.Linear(8, 16, bias=False), nn.Linear(8, 16, bias=False)
        self.down.weight = self.up.weight
        self.spare = nn.Linear(8, 16, bias=False)  # never called
        self.spare.weight = self.up.weight

    def forward(self, x: torch.Tensor) -> Any:
        x = self.again(self.conv(self.stem(x))).mean((2, 3))
        return (self.up(x) * self.down(x)).sum(1)


def test_what_is_tied_stays_tied() -> None:
    small = written(Tied(), image(), HALF)
    assert isinstance(small, Tied)
    assert small.again[0] is small.conv
    assert small.conv.in_channels < 8
    assert small.up.weight is small.down.weight is small.spare.weight


class Weighted(nn.Module):
    """Weights that are computed from others."""

    def __init__(self) -> None:
        super().__init__()
        self.a = parametrizations.weight_norm(nn.Conv2d(3, 8, 1))
        self.b = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> Any:
        return self.b(torch.relu(self.a(x)))


def test_parametrized_layers_become_plain_where_the_graph_has_plain_ones() -> None:
    kept: Any = written(Weighted(), image(), passes.RemoveChannels(indices={"b": [0]}))
    assert nn.utils.parametrize.is_parametrized(kept.a)
    plain: Any = written(Weighted(), image(), passes.FreezeWeights(), HALF)
    assert type(plain.a) is nn.Conv2d
    assert plain.a.out_channels == 4


class Own(nn.Conv2d):
    """A conv that pads by itself."""

    def forward(self, input: torch.Tensor) -> Any:
        padded = nn.functional.pad(input, (1, 1, 1, 1))
        return nn.functional.conv2d(padded, self.weight, self.bias, groups=self.groups)


class ActivatedNorm(nn.BatchNorm2d):
    """A norm that ends in an activation, as timm's do."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.act = nn.ReLU()

    def forward(self, input: torch.Tensor) -> Any:
        tensors = self.running_mean, self.running_var, self.weight, self.bias
        return self.act(nn.functional.batch_norm(input, *tensors, self.training, self.momentum or 0.0, self.eps))


def own_layers() -> nn.Sequential:
    torch.manual_seed(0)
    depthwise, last = Own(8, 8, 3, groups=8), nn.Conv2d(8, 2, 1)
    model = randomize(nn.Sequential(Own(3, 8, 3), ActivatedNorm(8), depthwise, nn.BatchNorm2d(8), last))
    assert isinstance(model, nn.Sequential)
    return model.float()


def test_layers_of_classes_of_the_users_keep_them() -> None:
    small: Any = written(own_layers(), image(), HALF)
    assert [type(one) for one in small] == [Own, ActivatedNorm, Own, nn.BatchNorm2d, nn.Conv2d]
    assert (small[2].groups, small[2].in_channels, small[2].out_channels) == (4, 4, 4)
    assert small[1].num_features == 4


def test_what_is_inside_a_norm_that_was_folded_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), ActivatedNorm(8), nn.Conv2d(8, 2, 1))
    small: Any = written(randomize(model).float(), image(), passes.FoldBatchNorm(), HALF)
    assert type(small[1]) is nn.Sequential
    assert type(small[1].act) is nn.ReLU


def test_a_norm_that_is_traced_as_a_function_stays() -> None:
    model: Any = nn.Sequential(nn.Conv2d(3, 8, 3), ActivatedNorm(8), nn.Conv2d(8, 2, 1))
    model[1].momentum = None
    small: Any = written(randomize(model).float(), image(), HALF)
    assert type(small[1]) is ActivatedNorm
    assert small[1].num_features == 4


class Branching(nn.Module):
    """Asks for a value: it stays one call, and what is in it is a graph of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 1))
        self.factor = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> Any:
        return x if float(x.sum()) > 1e9 else self.inner(x) * self.factor


@pytest.mark.parametrize("inside", [True, False])
def test_layers_inside_opaque_modules(inside: bool) -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 1), Branching(), nn.Conv2d(8, 2, 1)) if inside else Branching()
    small: Any = written(randomize(model).float(), image(2, 8, 4, 4), passes.FoldBatchNorm(), HALF)
    small = small[1] if inside else small
    assert small.inner[0].out_channels == 8
    assert type(small.inner[1]) is nn.Identity


def test_what_torch_jit_compiled_stays() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of its own function
        compiled = torch.jit.script(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()))
        model = nn.Sequential(compiled, nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
        result = HALF(fxprune.trace(model, image(2, 8, 4, 4)))
        small = fxprune.write_back(model, result)
    assert isinstance(small[0], torch.jit.ScriptModule)
    assert [one.out_channels for one in small if isinstance(one, nn.Conv2d)] == [4, 2]


def test_weights_are_those_of_the_graph() -> None:
    model, x = net(), image()
    result = HALF(fxprune.trace(model, x))
    with torch.no_grad():
        for parameter in result.graph_module.parameters():
            parameter.mul_(1.1)
    assert_is_the_graph(fxprune.write_back(model, result.graph_module), result.graph_module, x)


def test_what_a_wrapper_holds() -> None:
    model, x = net(), image()
    wrapped = nn.DataParallel(model)
    result = HALF(fxprune.trace(wrapped, x))
    small: Any = fxprune.write_back(wrapped, result)
    assert type(small) is Net
    with pytest.raises(FxpruneError, match="cannot change a wrapped model in place; give the module inside"):
        fxprune.write_back(wrapped, result, in_place=True)


def test_inputs_by_keyword() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))

        def forward(self, *images: torch.Tensor, scale: torch.Tensor) -> list[torch.Tensor]:
            return [self.net(one) * scale for one in images]

    model, x = Keyword(), image()
    graph = fxprune.trace(model, (x, x + 1), {"scale": torch.ones(1)})
    small = fxprune.write_back(model, HALF(graph))
    assert len(small(x, x, scale=torch.ones(1))) == 2


def test_gates_are_refused_with_what_fuses_them() -> None:
    model, x = net(), image()
    graph = fxprune.trace(model, x)
    for gated in (fxprune.insert_scales(graph), passes.InsertChannelGate()(graph)):
        with pytest.raises(FxpruneError, match=r"takes a graph without gates, and .* apply fxprune.AFTER_TRAINING"):
            fxprune.write_back(model, gated)


def test_another_model_is_refused() -> None:
    x = image()
    result = HALF(fxprune.trace(net(), x))
    for other in (nn.Sequential(nn.Conv2d(3, 8, 1)), nn.Linear(2, 2)):
        with pytest.raises(FxpruneError, match="; give the model that was traced"):
            fxprune.write_back(other, result)
    with pytest.raises(FxpruneTypeError, match="write_back takes a graph, got Net"):
        fxprune.write_back(net(), net())  # type: ignore[arg-type]


def test_a_layer_of_functions_is_refused() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.head = nn.Parameter(torch.randn(8, 3, 1, 1)), nn.Conv2d(8, 2, 1)

        def forward(self, x: torch.Tensor) -> Any:
            return self.head(torch.relu(nn.functional.conv2d(x, self.weight)))

    small: Any = written(Functional(), image(), HALF)
    assert small.weight.shape == (4, 3, 1, 1)
    said = refusal(Functional(), image(), passes.FreezeWeights())
    assert "has no place for conv2d_1 (conv2d), which the graph calls: freeze-weights made it (leave that out" in said


def test_a_layer_that_the_graph_has_come_to_have_is_refused() -> None:
    model, x = net(), image()
    graph = copy.deepcopy(fxprune.trace(model, x))
    node = next(iter(graph.graph.find_nodes(op="call_module")))
    graph.add_module("stranger", nn.Linear(8, 8))
    node.target = "stranger"
    graph.recompile()
    with pytest.raises(FxpruneError, match=r"has no place for .*, which the graph calls: another model was traced"):
        fxprune.write_back(model, graph)
