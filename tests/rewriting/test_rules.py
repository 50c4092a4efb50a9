"""Rules under one worklist: what is looked at when, on which version, what waits, and when it ends."""

from __future__ import annotations

import operator
import re
import types
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from helpers import Wrapped, assert_rewrites, targets, traced
from torch import fx, nn

import fxprune
from fxprune.facts.ranges import bounds_of_values
from fxprune.ir.copies import copy_graph_module
from fxprune.ir.nodes import PASSES, input_at
from fxprune.passes import CombineScales, DropIdentities, DropRedundantActivations, Simplify
from fxprune.passes.simplify import SIMPLIFICATIONS
from fxprune.rewriting.contract import Contract, Log, Pass
from fxprune.rewriting.rewriter import Facts, Rewriter
from fxprune.rewriting.rules import CALLS, FUNCTIONS, Rule, RulePass, apply_rules


def graph(*ops: Any) -> fx.GraphModule:
    """Return a graph that applies ``ops`` to its input, one after the other."""

    def forward(_: Any, x: torch.Tensor) -> torch.Tensor:
        for op in ops:
            x = op(x)
        return x

    return copy_graph_module(traced(Wrapped(forward), torch.randn(2, 3)))


@dataclass(eq=False)
class Dropping:
    """Drops calls of ``target``; notes what it looks at, and how many nodes the graph has as facts know it."""

    target: Any
    name: str = "dropping"
    ops: Container[str] = CALLS
    needs: Any = None  # a target that must be in the graph no more
    looked: list[str] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)

    def check(self, node: fx.Node, facts: Facts) -> bool | str | None:
        self.looked.append(node.name)
        if node.target is not self.target:
            return None
        facts(self._count)
        if any(other.target is self.needs for other in node.graph.nodes):
            return f"{self.needs.__name__} is still there"
        return True

    def _count(self, graph_module: fx.GraphModule) -> int:
        self.versions.append(len(graph_module.graph.nodes))
        return self.versions[-1]

    def rewrite_at(self, node: fx.Node, found: bool, rewriter: Rewriter) -> None:
        rewriter.log.rewrote(node, "dropped")
        rewriter.replace(node, input_at(node))


def test_one_version_of_the_graph_serves_all_that_a_rule_finds_on_it() -> None:
    made, log, rule = graph(*[torch.tanh] * 6, torch.sigmoid), Log(), Dropping(torch.tanh)
    apply_rules([rule], made, log)
    assert targets(made) == ["sigmoid"]
    assert [site.node for site in log.rewritten] == ["tanh", *(f"tanh_{n}" for n in range(1, 6))]
    assert rule.versions == [9]  # six rewrites; of the graph that is left nothing is asked


def test_a_rule_looks_at_the_kinds_of_nodes_that_it_names() -> None:
    rule = Dropping(torch.tanh, ops=("placeholder", "output"))
    apply_rules([rule], graph(torch.tanh), Log())
    assert rule.looked == ["x", "output"]


def test_what_is_near_an_edit_is_looked_at_first_then_all_once_more() -> None:
    ops = (torch.sigmoid, torch.sin, torch.tanh, torch.cos, torch.exp, torch.exp)
    first, second = Dropping(torch.tanh), Dropping(torch.log)
    apply_rules([first, second], graph(*ops), Log())
    everything = ["sigmoid", "sin", "tanh", "cos", "exp", "exp_1"]
    rest = [name for name in everything if name != "tanh"]
    assert first.looked == [*everything, "sin", "cos", *rest]
    assert second.looked == [*rest, *rest]  # its first look was after the edit


def test_an_edit_far_away_is_seen_and_what_is_declined_is_so_at_the_end() -> None:
    ops = (torch.tanh, torch.exp, torch.exp, torch.exp, torch.sigmoid, torch.sin)
    waits, never = Dropping(torch.tanh, needs=torch.sigmoid), Dropping(torch.exp, needs=torch.sin)
    made, log = graph(*ops), Log()
    apply_rules([waits, never, Dropping(torch.sigmoid)], made, log)
    assert targets(made) == ["exp", "exp", "exp", "sin"]
    assert [site.node for site in log.rewritten] == ["sigmoid", "tanh"]
    assert [(site.node, site.why) for site in log.declined] == [
        (name, "sin is still there") for name in ("exp", "exp_1", "exp_2")
    ]


def test_the_first_rule_goes_on_as_long_as_it_finds_something() -> None:
    """Each application of the first frees the next one."""

    class FromTheEnd(Dropping):
        def check(self, node: fx.Node, facts: Facts) -> bool | None:
            is_last = next(iter(node.users)).op == "output"
            return True if is_last and node.target is torch.tanh else None

    made, log = graph(torch.sigmoid, torch.tanh, torch.tanh, torch.tanh), Log()
    apply_rules([FromTheEnd(torch.tanh), Dropping(torch.sigmoid)], made, log)
    assert [site.node for site in log.rewritten] == ["tanh_2", "tanh_1", "tanh", "sigmoid"]
    assert targets(made) == []


@dataclass(eq=False)
class Merging:
    """f(f(x)) -> f(x); it names the inner f, whose input it looked at."""

    name: str = "merging"
    ops: Container[str] = FUNCTIONS

    def check(self, node: fx.Node, facts: Facts) -> tuple[str, list[fx.Node]] | None:
        inner = node.args[0]
        if not node.users or not isinstance(inner, fx.Node) or not node.target is inner.target is torch.tanh:
            return None
        return str(inner.args[0]), [inner]

    def rewrite_at(self, node: fx.Node, found: tuple[str, list[fx.Node]], rewriter: Rewriter) -> None:
        source, (inner,) = found
        assert str(inner.args[0]) == source
        rewriter.log.rewrote(node, "merged")
        new = rewriter.insert("call_function", torch.tanh, (inner.args[0],), before=node, of=[inner, node])
        rewriter.replace(node, new)


def test_what_was_edited_since_it_was_looked_into_waits_for_the_next_version() -> None:
    made, log = graph(*[torch.tanh] * 9), Log()
    apply_rules([Merging(), *SIMPLIFICATIONS], made, log)
    assert targets(made) == ["tanh"]
    assert sum(site.why == "merged" for site in log.rewritten) == 8
    (last,) = (node for node in made.graph.nodes if node.op == "call_function")
    assert last.meta[PASSES] == ("merging",)


def test_new_nodes_are_made_by_the_rule_and_not_by_the_pass_that_runs_it() -> None:
    result = Simplify()(graph(lambda x: x * 2.0, lambda x: x * 3.0))
    assert [node.meta.get(PASSES) for node in result.graph_module.graph.nodes if node.op == "call_function"] == [
        ("combine-scales",)
    ]


def test_a_long_chain_takes_few_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counted(graph_module: fx.GraphModule) -> Any:
        asked.append(1)
        return bounds_of_values(graph_module)

    monkeypatch.setattr("fxprune.passes.drop_redundant_activations.bounds_of_values", counted)
    assert_rewrites(graph(*[torch.relu] * 50), DropRedundantActivations(), count=49)
    assert len(asked) <= 4  # in two runs of the pass
    assert_rewrites(graph(*[lambda x: x * 1.0] * 50), DropIdentities(), count=50)
    assert_rewrites(graph(*[lambda x: x * 2.0] * 50), CombineScales(), count=49)


def test_a_pass_that_is_a_rule_is_a_pass() -> None:
    @dataclass(frozen=True)
    class DropTanh(RulePass):
        """Drop every tanh."""

        name: ClassVar[str] = "drop-tanh"
        contract: ClassVar[Contract] = Contract.SIGNATURE

        def check(self, node: fx.Node, facts: Facts) -> bool | None:
            return node.target is torch.tanh or None

        def rewrite_at(self, node: fx.Node, found: bool, rewriter: Rewriter) -> None:
            rewriter.log.rewrote(node, "dropped")
            rewriter.replace(node, input_at(node))

    result = assert_rewrites(graph(torch.tanh, torch.exp, torch.tanh), DropTanh(), count=2)
    assert targets(result.graph_module) == ["exp"]


@pytest.mark.parametrize(("method", "given"), [("check", 2), ("rewrite_at", 3)])
def test_a_rule_without_its_parts_is_told_so(method: str, given: int) -> None:
    @dataclass(frozen=True)
    class Empty(RulePass):
        name: ClassVar[str] = "empty"
        contract: ClassVar[Contract] = Contract.NOTHING

    with pytest.raises(NotImplementedError, match=f"pass empty has no {method}"):
        getattr(Empty(), method)(*[None] * given)


def test_every_simplification_is_a_pass_of_its_own() -> None:
    rules: tuple[Rule, ...] = SIMPLIFICATIONS
    assert all(isinstance(rule, Pass) for rule in rules)
    assert fxprune.passes.Simplify().name not in {rule.name for rule in rules}
    assert operator.mul(1, len(rules)) == len({rule.name for rule in rules})


def test_the_pass_of_the_documentation_runs_as_printed() -> None:
    text = (Path(__file__).parents[2] / "docs" / "write-a-pass.md").read_text()
    (code,) = [part for part in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "class DropTanh" in part]
    module = types.ModuleType("of_the_documentation")
    exec(compile(code, "write-a-pass.md", "exec", dont_inherit=True), module.__dict__)
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    traced = fxprune.trace(model.eval(), torch.randn(2, 3))
    result = fxprune.Pipeline([module.DropTanh()])(traced)
    assert [node.op for node in result.graph_module.graph.nodes] == ["placeholder", "call_module", "output"]
