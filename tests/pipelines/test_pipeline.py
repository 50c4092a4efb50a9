"""Pipelines: contracts are held, results are printed, torch.fx's own passes fit in, ours fit there."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import torch
from helpers import TinyNet, assert_state_equal, example, state_of, targets, tiny, with_scales
from torch import fx, nn
from torch.fx.passes.infra.pass_base import PassResult as FxPassResult
from torch.fx.passes.infra.pass_manager import PassManager
from torch.nn.modules.module import register_module_forward_hook

import fxprune
from fxprune import passes
from fxprune.errors import ContractError
from fxprune.pipelines.registry import known_passes
from fxprune.rewriting.contract import Contract, Log, Pass
from fxprune.structures.gated_layers import layers


@dataclass(frozen=True)
class DoubleTheHead(Pass):
    """Break the promise of equal values at the classifier."""

    name: ClassVar[str] = "double-the-head"
    contract: ClassVar[Contract] = Contract.VALUES
    factor: float = 2.0

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        (node,) = [n for n in graph_module.graph.nodes if n.target == "head"]
        with graph_module.graph.inserting_after(node):
            new = graph_module.graph.call_function(operator.mul, (node, self.factor))
        node.replace_all_uses_with(new)
        new.update_arg(0, node)
        log.rewrote(node, "doubled")


@dataclass(frozen=True)
class DropTheHead(Pass):
    """Break the promise of an equal signature."""

    name: ClassVar[str] = "drop-the-head"
    contract: ClassVar[Contract] = Contract.SIGNATURE

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        (node,) = [n for n in graph_module.graph.nodes if n.target == "head"]
        node.replace_all_uses_with(node.args[0])
        graph_module.graph.erase_node(node)
        log.rewrote(node, "dropped")


def test_a_breach_names_the_pass_and_the_node_and_loses_nothing() -> None:
    graph = tiny()
    code, state = graph.code, state_of(graph)
    with pytest.raises(ContractError, match=r"double-the-head .* first at mul"):
        fxprune.Pipeline([passes.FoldBatchNorm(), DoubleTheHead(), passes.Simplify()])(graph)
    assert graph.code == code
    assert_state_equal(graph, state)


def test_two_breaches_that_cancel_are_no_breach_of_the_whole() -> None:
    result = fxprune.Pipeline([DoubleTheHead(), DoubleTheHead(factor=0.5)])(tiny())
    assert result.modified


def test_a_broken_signature_is_a_breach() -> None:
    with pytest.raises(ContractError, match=r"drop-the-head promised an equal signature but changed \(2, 5\)"):
        fxprune.Pipeline([DropTheHead()])(tiny())


def test_verification_can_be_turned_off() -> None:
    result = fxprune.Pipeline([DoubleTheHead()], verify=False)(tiny())
    assert result.max_relative is None
    assert "not verified" in str(result)


def test_the_result_prints_a_table_and_keeps_every_stage() -> None:
    graph = with_scales(tiny(), (0.0, 1.0), (0.5, 0.5))
    result = fxprune.Pipeline([passes.RemoveLayers(), passes.FuseResConv(), passes.FoldBatchNorm()])(graph)
    assert [step.name for step in result.steps] == ["remove-layers", "fuse-resconv", "fold-batch-norm"]
    assert [len(step.result.rewritten) for step in result.steps] == [1, 3, 1]
    assert result.steps[1].before is result.steps[0].result.graph_module
    assert result.max_relative is not None
    assert result.max_relative < 1e-12
    text = str(result)
    assert "fuse-resconv" in text
    assert "MACs" in text
    assert "verified in float64" in text


def test_a_pipeline_is_a_pass() -> None:
    inner = fxprune.Pipeline([passes.FoldBatchNorm(), passes.Simplify()])
    assert inner.contract is Contract.VALUES
    result = fxprune.Pipeline([inner, passes.EliminateDeadCode()])(tiny())
    assert "BatchNorm2d" not in targets(result.graph_module)
    assert fxprune.Pipeline([inner, passes.RemoveLayers()]).contract is Contract.SIGNATURE


def test_an_empty_pipeline_changes_nothing() -> None:
    graph = tiny()
    result = fxprune.Pipeline([])(graph)
    assert result.graph_module is graph
    assert not result.modified
    assert "nothing was done" in str(result)


def test_a_pass_of_torch_fx_runs_in_our_pipeline_on_a_copy() -> None:
    def rename(graph_module: fx.GraphModule) -> FxPassResult:
        for node in graph_module.graph.nodes:
            if node.target == "head":
                node.name = "renamed"
        graph_module.recompile()
        return FxPassResult(graph_module, True)

    graph = tiny()
    result = fxprune.Pipeline([rename, passes.FoldBatchNorm()])(graph)
    assert "renamed" in result.graph_module.code
    assert "renamed" not in graph.code


def test_what_returns_no_pass_result_is_refused() -> None:
    with pytest.raises(fxprune.FxpruneError, match="returned TinyNet, not a PassResult"):
        fxprune.Pipeline([lambda graph: graph])(tiny())


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    model: Any = TinyNet()
    for call in (
        lambda: passes.Simplify()(model),
        lambda: fxprune.Pipeline([passes.Simplify()])(model),
        lambda: fxprune.diff(model, tiny()),
        lambda: fxprune.emit(model, tmp_path),
    ):
        with pytest.raises(fxprune.FxpruneError, match=r"takes a graph, got TinyNet; make one with fxprune\.trace"):
            call()
    with pytest.raises(fxprune.FxpruneError, match=r"Simplify is a class; a pipeline takes Simplify\(\)"):
        fxprune.Pipeline([passes.Simplify])  # type: ignore[list-item]  # what a user may write


def test_the_verdict_names_what_it_does_not_cover() -> None:
    text = str(fxprune.Pipeline([passes.FoldBatchNorm()])(tiny()))
    assert text.splitlines()[-1].startswith("verified in float64: largest relative difference ")
    assert "may change values" not in text
    text = str(fxprune.Pipeline([passes.InsertResConv(shortcut=1.0), passes.FoldBatchNorm()])(tiny()))
    assert text.splitlines()[-1].endswith("; insert-resconv may change values")


def test_our_passes_run_in_torch_fx_pass_manager() -> None:
    graph = tiny()
    result = PassManager(passes=cast(Any, [passes.FoldBatchNorm(), passes.Simplify()]))(graph)
    assert result.modified
    torch.testing.assert_close(result.graph_module(example(2, 3, 8, 8)), graph(example(2, 3, 8, 8)))


def test_unchanged_weights_are_shared_and_changed_ones_are_new() -> None:
    graph = tiny()
    result = passes.FoldBatchNorm()(graph)
    assert result.graph_module.get_submodule("head") is graph.get_submodule("head")
    assert result.graph_module.get_submodule("stem.0") is not graph.get_submodule("stem.0")


def test_float32_graphs_are_compared_by_the_algebra_and_not_by_rounding() -> None:
    graph = fxprune.trace(TinyNet().eval(), torch.randn(2, 3, 8, 8))
    sparse = with_scales(graph, (0.0, 0.3), (0.7, 1.1))
    compile_ = [passes.RemoveLayers(), passes.FuseResConv(), passes.FoldBatchNorm(), passes.Simplify()]
    result = fxprune.Pipeline(compile_)(sparse)
    assert result.max_relative is not None
    assert result.max_relative < 1e-12
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(result.graph_module(x), sparse(x), rtol=1e-4, atol=1e-5)


def test_verify_names_where_two_graphs_part() -> None:
    graph = tiny()
    other = fxprune.Pipeline([passes.FoldBatchNorm()])(graph).graph_module
    assert fxprune.verify(graph, other, example(2, 3, 8, 8)).equal
    with torch.no_grad():
        other.get_submodule("block2.conv1").weight.add_(0.1)  # type: ignore[operator]
    found = fxprune.verify(graph, other, example(2, 3, 8, 8))
    assert not found.equal
    assert found.max_relative > 1e-3
    assert found.first_difference == "block2_conv1 (block2.conv1), Conv2d"
    assert "block2.conv1" in str(found)


def test_verifying_a_whole_pipeline_takes_two_forward_passes() -> None:
    calls = 0

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal calls
        calls += isinstance(module, nn.Linear) and type(output) is torch.Tensor and not output.is_meta  # none is fake

    traced = tiny()
    sparse = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(traced).graph_module
    for layer in layers(sparse)[::2]:
        layer.module.close()
    for pipeline, graph in (
        (fxprune.Pipeline([passes.RemoveLayers(), *fxprune.AFTER_TRAINING]), sparse),
        (fxprune.Pipeline([passes.RemoveLayers(threshold=0.0), *fxprune.AFTER_TRAINING]), sparse),
        (fxprune.Pipeline([passes.InsertBranchScale()]), traced),
    ):
        calls = 0
        handle = register_module_forward_hook(count)
        try:
            assert pipeline(graph).modified
        finally:
            handle.remove()
        assert calls == 2


def test_passes_out_of_order_are_told() -> None:
    with pytest.warns(fxprune.FxpruneWarning, match="fold-batch-norm stands before fuse-resconv"):
        fxprune.Pipeline([passes.FoldBatchNorm(), passes.FuseResConv()])
    fxprune.Pipeline([passes.FuseResConv(), passes.FoldBatchNorm(), passes.FuseResConv()])


def test_chains_are_in_the_order_that_their_passes_ask_for() -> None:
    insertions = (passes.InsertResConv(), passes.InsertBranchScale())
    fxprune.Pipeline([*insertions, passes.RemoveLayers(), *fxprune.AFTER_TRAINING])  # a warning is an error here
    known = set(known_passes())
    assert all(known.issuperset(kind.after) for kind in known_passes().values())
