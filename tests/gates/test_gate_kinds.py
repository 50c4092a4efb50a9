"""Other kinds of gates are classes of their own: costs, shapes, diffs, removal, shrinking take them as they are."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from helpers import assert_rewrites, example, tiny
from torch import fx, nn
from torch.nn.utils import parametrizations

import fxprune
from fxprune import passes
from fxprune.choosing.inspection import inspect_graph
from fxprune.costs.macs import total_macs, total_params
from fxprune.errors import EmitError
from fxprune.facts.equal_shapes import EqualShapes
from fxprune.gates.gate import CLOSED, OPEN, RESTING, ScaledLayer
from fxprune.ir.node_targets import set_attribute
from fxprune.ir.nodes import example_inputs_of, inherit


class Filters(ScaledLayer):
    """A scale on each filter of a conv; as a whole it cannot be removed."""

    kind, fused_by, wraps = "made-up filters", "FuseFilters", "layer"
    units = ("initial_gauge",)

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer
        self.gate = nn.Parameter(self._begin(layer.weight, initial_gauge=1.0).new_ones(layer.out_channels))

    @property
    def trained_scale(self) -> nn.Parameter:
        return self.gate

    @property
    def effective_scales(self) -> torch.Tensor:
        return torch.zeros_like(self.gate) if self.closed else self.gate.detach().clone()

    @property
    def effective_scale(self) -> float:
        return float(self.effective_scales.mean())

    def set_scale(self, scale: torch.Tensor | None, shortcut: torch.Tensor | None, *_: torch.Tensor) -> None:
        assert scale is not None
        self._enter(OPEN)
        self.gate.copy_(scale)

    def close(self) -> None:
        self._enter(CLOSED)

    def rest(self) -> None:
        self._enter(RESTING)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(x)
        return y if self.resting else y * self.effective_scales.reshape(-1, 1, 1).to(y.dtype)


class Bend(ScaledLayer):
    """A share of what an activation changes; without it its input is left."""

    kind, fused_by, wraps = "made-up activation", "FuseBends", "layer"
    units = ("initial_gauge",)
    removable = True

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.gate = nn.Parameter(self._begin(torch.ones(()), initial_gauge=1.0).new_ones(()))

    @property
    def trained_scale(self) -> nn.Parameter:
        return self.gate

    @property
    def effective_scale(self) -> float:
        return float(self.gate.detach())

    def coefficients(self, *_: torch.Tensor) -> tuple[float, float]:
        return self.effective_scale, 1 - self.effective_scale

    def set_scale(self, scale: torch.Tensor | None, shortcut: torch.Tensor | None, *_: torch.Tensor) -> None:
        assert scale is not None
        self.gate.fill_(float(scale))

    def close(self) -> None:
        self.gate.zero_()
        self._enter(CLOSED)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = x + self.gate * (self.layer(x) - x)
        return y


def wrap(graph: fx.GraphModule, name: str, kind: type[Filters] | type[Bend]) -> None:
    """Put a gate around the layer that the node of that name calls."""
    (node,) = (node for node in graph.graph.nodes if node.name == name)
    set_attribute(graph, str(node.target), kind(graph.get_submodule(str(node.target))))  # type: ignore[arg-type]
    inherit(node, node, made_by="wrap")


@pytest.fixture
def plain() -> fx.GraphModule:
    return tiny()


@pytest.fixture
def gated(plain: fx.GraphModule) -> fx.GraphModule:
    """The tiny network with gates of five kinds of layers: its stem's filters and activation, convs, branches."""
    graph = copy.deepcopy(plain)
    wrap(graph, "stem_0", Filters)
    wrap(graph, "stem_2", Bend)
    return fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(graph).graph_module


def test_they_are_listed_and_set_like_all(plain: fx.GraphModule, gated: fx.GraphModule) -> None:
    filters, bend, *others = fxprune.gates_of(gated)
    assert [(one.kind, one.path, one.width, one.removable) for one in (filters, bend)] == [
        ("made-up filters", "stem.0", 6, False),
        ("made-up activation", "stem.2", 1, True),
    ]
    assert [one.kind for one in others] == ["conv", "conv", "branch"] * 2
    x = example(2, 3, 8, 8, seed=1)
    torch.testing.assert_close(gated(x), plain(x), rtol=1e-12, atol=1e-12)
    mask = torch.tensor([1.0, 0, 1, 0, 1, 1])
    filters.assign(scale=mask)
    assert torch.equal(filters.scale, mask.double())
    with torch.no_grad():
        plain.get_submodule("stem.0").weight[mask == 0] = 0  # type: ignore[operator]
    torch.testing.assert_close(gated(x), plain(x), rtol=1e-12, atol=1e-12)
    duplicate = copy.deepcopy(gated)
    assert torch.equal(fxprune.gates_of(duplicate)[0].scale, filters.scale)
    duplicate.load_state_dict(gated.state_dict())
    filters.assign(scale=0.0)
    assert filters.scale.tolist() == [0.0] * 6
    with pytest.raises(
        fxprune.FxpruneError, match=r"shape \(6,\) for scale of stem.0, got torch.float32 of shape \(1,\)"
    ):
        filters.assign(scale=torch.ones(1))
    with pytest.raises(fxprune.FxpruneError, match=r"no shortcut for stem\.0: a gate of kind 'made-up filters'"):
        filters.assign(shortcut=1.0)


def test_costs_and_shapes_are_those_of_the_layers_in_them(plain: fx.GraphModule, gated: fx.GraphModule) -> None:
    assert (total_macs(gated), total_params(gated)) == (total_macs(plain), total_params(plain))
    nodes = {node.name: node for node in gated.graph.nodes}
    shapes = EqualShapes(gated)
    assert shapes.rank(nodes["stem_2"]) == shapes.rank(nodes["stem_0"]) == 4
    graph = copy.deepcopy(plain)
    wrap(graph, "stem_0", Filters)
    found = inspect_graph(graph)
    assert [branch.eligible for _, branch in found.branches] == [True, True]  # proved through the gate
    assert [path for path, _ in found.convs] == [f"block{i}.conv{j}" for i in (1, 2) for j in (1, 2)]


def test_a_diff_tells_the_layer_in_it_and_the_scale(plain: fx.GraphModule, gated: fx.GraphModule) -> None:
    changes = {change.main.name: change for change in fxprune.diff(plain, gated).changes}
    assert changes["stem_0"].what == ("op", "scale")  # the kernel is as it was
    assert changes["stem_0"].after is not None
    assert changes["stem_0"].after.detail == "3x3, 3 -> 6"
    other = copy.deepcopy(gated)
    fxprune.gates_of(other)[0].assign(scale=torch.tensor([1.0, 0, 1, 0, 1, 0]))
    with torch.no_grad():
        next(gate.module.wrapped for gate in fxprune.gates_of(other)).weight.mul_(2)  # type: ignore[union-attr, operator]
    found = fxprune.diff(gated, other)
    told = {c.main.name: (c.what, c.after and c.after.scale) for c in found.changes if c.kind != "unchanged"}
    assert told == {"stem_0": (("kernel", "scale"), 0.5)}


def test_one_is_removed_and_the_other_is_not(gated: fx.GraphModule) -> None:
    filters, bend, *_ = fxprune.gates_of(gated)
    filters.assign(scale=0.0)
    bend.assign(scale=0.0)
    assert not passes.RemoveLayers(threshold=0.0, kinds=("conv", "branch"))(gated).rewritten
    one = passes.RemoveLayers(threshold=0.0, kinds=("made-up activation",))
    result = assert_rewrites(gated, one, count=1)
    assert [str(site) for site in result.rewritten] == ["stem.2: its scale is 0; 1 * x takes its place"]
    assert [gate.path for gate in fxprune.gates_of(result.graph_module)] == [
        gate.path for gate in fxprune.gates_of(gated) if gate.path != "stem.2"
    ]


def test_shrinking_and_optimizers_know_them(gated: fx.GraphModule) -> None:
    shrink = fxprune.ProximalL1(gated, {"stem.2": 0.25})
    shrink.step(1.0)
    assert shrink.layers["stem.2"].effective_scale == 0.75
    assert float(fxprune.pruning.l1_term(gated).detach()) == pytest.approx(6.75)
    assert "stem.2" in fxprune.pruning.report(gated)
    decayed, rest = fxprune.pruning.parameter_groups(gated, 1e-4)
    gates = [gate.module.trained_scale for gate in fxprune.gates_of(gated)]
    assert not {id(one) for one in gates} - {id(one) for one in rest["params"]}
    assert all(one.dim() > 1 for one in decayed["params"])


def test_a_computed_weight_in_one_becomes_plain(plain: fx.GraphModule) -> None:
    parametrizations.weight_norm(plain.get_submodule("stem.0"))
    wrap(plain, "stem_0", Filters)
    fxprune.gates_of(plain)[0].assign(scale=0.5)
    frozen = fxprune.Pipeline([passes.FreezeWeights()])(plain)
    assert frozen.modified
    (gate,) = fxprune.gates_of(frozen.graph_module)
    assert type(gate.module.wrapped) is nn.Conv2d
    assert gate.scale.tolist() == [0.5] * 6


def test_one_that_is_left_is_named_with_its_pass(gated: fx.GraphModule, tmp_path: Path) -> None:
    with pytest.raises(EmitError, match=r"stem\.0 is still a Filters; apply passes\.FuseFilters before emitting"):
        fxprune.emit(gated, tmp_path)


def test_scales_stay_wide_and_inputs_are_cast_with_the_weights(gated: fx.GraphModule) -> None:
    half = copy.deepcopy(gated).half()
    assert all(gate.module.trained_scale.dtype == torch.float32 for gate in fxprune.gates_of(half))
    assert example_inputs_of(half)[0].dtype == torch.float16


def test_a_copy_with_gates_that_moved_and_an_old_history_is_refused(gated: fx.GraphModule) -> None:
    filters = fxprune.gates_of(gated)[0]
    filters.module.rest()
    duplicate = copy.deepcopy(gated)
    x = example(2, 3, 8, 8)
    assert torch.equal(duplicate(x), gated(x))
    with torch.no_grad():
        fxprune.gates_of(duplicate)[0].module.trained_scale[2] = 0.5
    with pytest.raises(fxprune.FxpruneError, match=r"a layer rests whose gate is 0\.5"):
        duplicate(x)
