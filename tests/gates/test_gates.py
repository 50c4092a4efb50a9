"""Gates of every kind have one interface: they are listed, read and set alike, and nothing asks for their class."""

from __future__ import annotations

import ast
import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Block, Wrapped, example, tiny, traced
from torch import fx, nn

import fxprune
from fxprune import passes
from fxprune.gates.resconv import Parametrization
from fxprune.ir.nodes import graphs_of
from fxprune.structures.gated_layers import layers

ROOT = Path(__file__).parents[2]
INSERT = [passes.InsertResConv(), passes.InsertBranchScale()]


def sparse_graph(graph: fx.GraphModule | None = None) -> fx.GraphModule:
    return fxprune.Pipeline(INSERT, verify=False)(graph or tiny()).graph_module


def one_block(parametrization: Parametrization = "gain-gate") -> tuple[nn.Module, fx.GraphModule]:
    """Return a residual block, and its graph with two convs' gates and the branch's."""
    torch.manual_seed(0)
    block = Block(4)
    insert = [passes.InsertResConv(parametrization=parametrization), passes.InsertBranchScale()]
    return block, fxprune.Pipeline(insert, verify=False)(traced(block, example(2, 4, 6, 6))).graph_module


def masked(block: Any, x: torch.Tensor, convs: list[tuple[float, float]], branch: float) -> torch.Tensor:
    """Return what a block computes whose convs have these (scale, shortcut), and whose branch this scale."""
    y = convs[0][0] * block.bn1(block.conv1(x)) + convs[0][1] * x
    z = y.relu()
    y = convs[1][0] * block.bn2(block.conv2(z)) + convs[1][1] * z
    out: torch.Tensor = (x + branch * y).relu()
    return out


class Choosy(nn.Module):
    """A block with a branch that depends on data: it is opaque, and the block in it a region."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.block(x)
        return y if y.sum() > -1e9 else x


def test_all_gates_are_listed_in_graph_order() -> None:
    gates = fxprune.gates_of(sparse_graph())
    assert [(gate.kind, gate.path) for gate in gates] == [
        ("conv", "block1.conv1"),
        ("conv", "block1.conv2"),
        ("branch", "block1.branch_scale"),
        ("conv", "block2.conv1"),
        ("conv", "block2.conv2"),
        ("branch", "block2.branch_scale"),
    ]
    assert all(gate.width == 1 and gate.removable and torch.equal(gate.scale, torch.ones(1)) for gate in gates)
    assert not any(gate.scale.requires_grad for gate in gates)
    assert repr(gates[0]) == "Gate('conv', 'block1.conv1', width=1)"
    assert fxprune.gates_of(tiny()) == []


def test_those_that_cannot_be_removed_are_listed_too() -> None:
    graph = passes.InsertResConv(include_reshaping=True)(tiny()).graph_module
    gates = fxprune.gates_of(graph)
    assert [gate.path for gate in gates if not gate.removable] == ["stem.0"]
    assert gates[0].nodes == frozenset()
    assert [gate.path for gate in layers(graph)] == [gate.path for gate in gates[1:]]
    before, x = graph(example(2, 3, 8, 8)), example(2, 3, 8, 8)
    gates[0].assign(scale=-1.0)
    assert not torch.allclose(graph(x), before)
    gates[0].assign(scale=1.0)
    torch.testing.assert_close(graph(x), before)


def test_gates_of_regions_are_listed_with_their_paths() -> None:
    graph = sparse_graph(traced(nn.Sequential(Choosy(), Block(4)), example(2, 4, 6, 6)))
    gates = fxprune.gates_of(graph)
    inside = [gate for gate in gates if gate.region]
    assert [(gate.kind, gate.path) for gate in inside] == [
        ("conv", "0.block.conv1"),
        ("conv", "0.block.conv2"),
        ("branch", "0.block.branch_scale"),
    ]
    assert {gate.region for gate in gates} == {region for region, _ in graphs_of(graph)}
    branch = next(gate for gate in inside if gate.kind == "branch")
    branch.assign(scale=0)
    assert [str(site).partition(":")[0] for site in passes.RemoveLayers(threshold=0.0)(graph).rewritten] == [
        branch.path
    ]


@pytest.mark.parametrize("parametrization", ["gain-gate", "free"])
@pytest.mark.parametrize("drift", [1.0, 1.7])
@pytest.mark.parametrize("state", ["open", "resting", "closed"])
def test_what_is_assigned_is_what_is_computed(state: str, drift: float, parametrization: Parametrization) -> None:
    block, graph = one_block(parametrization)
    gates, x = fxprune.gates_of(graph), example(3, 4, 5, 7, seed=1)
    for gate in gates:
        if state == "resting" and gate.module.parametrization != "free":
            gate.module.rest()
        elif state == "closed":
            gate.module.close()
    with torch.no_grad():  # as training does
        for one in (*block.parameters(), *(p for p in graph.parameters() if p.dim())):
            one.mul_(drift)
    for gate, scale, shortcut in zip(gates, (0.3, -0.5, 2.0), (0.7, torch.tensor([0.2]), None), strict=True):
        gate.assign(scale=torch.tensor([scale], dtype=torch.float64), shortcut=shortcut)
        assert not gate.module.closed
        assert not gate.module.resting
        assert gate.module.trained_scale.requires_grad
        assert gate.scale.tolist() == pytest.approx([abs(scale)], rel=1e-6)
        assert gate.coefficients() == pytest.approx((scale, 1.0 if shortcut is None else float(shortcut)), rel=1e-7)
    expected = masked(block, x, [(0.3, 0.7), (-0.5, float(torch.tensor(0.2)))], 2.0)
    torch.testing.assert_close(graph(x), expected, rtol=1e-12, atol=1e-12)


def test_zero_is_off_and_one_is_on_again() -> None:
    block, graph = one_block()
    conv, _, branch = fxprune.gates_of(graph)
    x = example(2, 4, 6, 6, seed=2)
    conv.assign(scale=0, shortcut=1)
    torch.testing.assert_close(graph(x), masked(block, x, [(0, 1), (1, 0)], 1), rtol=1e-12, atol=1e-12)
    branch.assign(scale=torch.zeros(1))
    assert branch.scale.tolist() == conv.scale.tolist() == [0]
    assert torch.equal(graph(x), x.relu())
    conv.assign(scale=1, shortcut=0)
    branch.assign(scale=torch.tensor([True]))
    torch.testing.assert_close(graph(x), block(x), rtol=1e-12, atol=1e-12)


def test_what_is_not_given_stays() -> None:
    _, graph = one_block()
    conv = fxprune.gates_of(graph)[0]
    conv.assign(scale=0.5, shortcut=0.25)
    conv.assign(shortcut=2.0)
    assert conv.coefficients() == pytest.approx((0.5, 2.0))
    conv.assign(scale=1.5)
    assert conv.coefficients() == pytest.approx((1.5, 2.0))


def test_a_gate_that_a_schedule_keeps_still_stays_so() -> None:
    _, graph = one_block()
    for gate in fxprune.gates_of(graph):
        gate.module.train_scale(False)
        gate.assign(scale=0.5)
        assert not gate.module.trained_scale.requires_grad


def test_what_was_assigned_is_in_copies_and_states() -> None:
    _, graph = one_block()
    conv, _, branch = fxprune.gates_of(graph)
    conv.assign(scale=-0.3, shortcut=0.4)
    branch.assign(scale=0.6)
    x = example(2, 4, 6, 6, seed=3)
    duplicate, (_, other) = copy.deepcopy(graph), one_block()
    other.load_state_dict(graph.state_dict())
    for one in (duplicate, other):
        assert torch.equal(one(x), graph(x))
        assert [gate.coefficients() for gate in fxprune.gates_of(one)] == [
            gate.coefficients() for gate in fxprune.gates_of(graph)
        ]
    fxprune.gates_of(duplicate)[0].assign(scale=1.0)
    assert conv.coefficients() == pytest.approx((-0.3, 0.4))


@pytest.mark.parametrize(
    ("index", "given", "message"),
    [
        (0, {}, "Gate.assign takes a scale, a shortcut or both for conv1, got neither"),
        (0, {"scale": "off"}, "Gate.assign takes a number or a Tensor or None for scale, got str 'off'"),
        (0, {"scale": True}, "Gate.assign takes a number or a Tensor or None for scale, got bool True"),
        (
            0,
            {"scale": torch.ones(2)},
            r"numbers of shape \(1,\) for scale of conv1, got torch.float32 of shape \(2,\)",
        ),
        (0, {"scale": torch.ones(1, 1)}, r"got torch.float32 of shape \(1, 1\)"),
        (0, {"shortcut": torch.ones(1) * 1j}, r"for shortcut of conv1, got torch.complex64 of shape \(1,\)"),
        (0, {"scale": float("nan")}, r"Gate.assign takes finite numbers for scale of conv1, got \[nan\]"),
        (0, {"scale": 1.0, "shortcut": float("inf")}, r"finite numbers for shortcut of conv1, got \[inf\]"),
        (2, {"scale": torch.tensor([-float("inf")])}, r"finite numbers for scale of branch_scale, got \[-inf\]"),
        (2, {"scale": 0.5, "shortcut": 1.0}, "no shortcut for branch_scale: a gate of kind 'branch' has none"),
    ],
)
def test_wrong_values_are_told_and_change_nothing(index: int, given: dict[str, Any], message: str) -> None:
    _, graph = one_block()
    before = {name: value.clone() for name, value in graph.state_dict().items()}
    with pytest.raises(fxprune.FxpruneError, match=message) as caught:
        fxprune.gates_of(graph)[index].assign(**given)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in graph.state_dict().items())


def test_no_warning_where_passes_assign() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        passes.InsertResConv(shortcut=1.0)(tiny())


def test_a_wrapped_graph_has_its_gates() -> None:
    graph = sparse_graph()
    assert fxprune.gates_of(nn.DataParallel(graph)) == fxprune.gates_of(graph)  # type: ignore[arg-type]
    with pytest.raises(fxprune.FxpruneError, match=r"gates_of takes a graph, got PassResult; give it its"):
        fxprune.gates_of(passes.InsertResConv()(tiny()))  # type: ignore[arg-type]


def test_nothing_else_asks_for_a_class() -> None:
    """Only the file of a kind of gate, and the passes that insert and fuse it, know its class."""
    kinds = {"ResConv": "resconv", "BranchScale": "branch_scale"}
    asked = []
    for path in (*(ROOT / "fxprune").rglob("*.py"), *(ROOT / "passes").glob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") in ("isinstance", "issubclass"):
                names = {getattr(one, "id", getattr(one, "attr", "")) for one in ast.walk(call.args[1])}
                asked += [f"{path.name}: {name}" for name in names & kinds.keys() if kinds[name] not in path.stem]
    assert asked == []


def test_free_scales_are_shrunk_with_their_sign() -> None:
    graph = passes.InsertResConv(parametrization="free")(
        traced(Wrapped(lambda m, x: m.c(x), c=nn.Conv2d(3, 3, 3, padding=1)), example(2, 3, 6, 6))
    ).graph_module
    (gate,) = fxprune.gates_of(graph)
    gate.assign(scale=-0.5)
    with torch.no_grad():
        gate.module.shrink(0.2)
    assert gate.coefficients()[0] == pytest.approx(-0.3)
    term = fxprune.pruning.l1_term(graph)
    term.backward()
    assert (float(term.detach()), float(gate.module.trained_scale.grad or 0)) == pytest.approx((0.3, -1.0))
