"""Signatures: what is plain to see of them is so, and nothing else is taken for plain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from helpers import TinyNet, Wrapped
from torch import fx, nn

import fxprune
from fxprune import passes
from fxprune.errors import ContractError
from fxprune.ir.copies import copy_graph_module
from fxprune.ir.nodes import inherit, keep_example_inputs
from fxprune.pipelines.chains import AFTER_TRAINING
from fxprune.rewriting.contract import Contract, PassResult
from fxprune.rewriting.float64 import run_both
from fxprune.rewriting.signature import keeps_signature, signature, told_signature
from fxprune.structures.gated_layers import layers

X = torch.randn(2, 3, 8, 8)


def tiny() -> fx.GraphModule:
    return fxprune.trace(TinyNet(6).eval(), X)


def is_plain_to_see(before: fx.GraphModule, after: fx.GraphModule) -> bool:
    return keeps_signature(before, after, run_both(before, after, (X,)))


def test_of_our_chains_it_is_plain_to_see() -> None:
    graph = tiny()
    sparse = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(graph).graph_module
    for layer in layers(sparse)[::2]:
        layer.module.close()
    removed = fxprune.Pipeline([passes.RemoveLayers(threshold=0.0), *AFTER_TRAINING])(sparse).graph_module
    for before, after in ((graph, graph), (graph, sparse), (sparse, removed)):
        assert is_plain_to_see(before, after)
        assert told_signature(before) == signature(before) == signature(after)


@dataclass(frozen=True)
class Changed:
    """A pass of another library that puts ``function`` behind the last value, and promises equal ones."""

    name: ClassVar[str] = "changed"
    contract: ClassVar[Contract] = Contract.VALUES
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()

    def __call__(self, graph_module: fx.GraphModule) -> PassResult:
        *_, last, output = graph_module.graph.nodes
        with graph_module.graph.inserting_after(last):
            new = graph_module.graph.call_function(self.function, (last, *self.arguments))
        inherit(new, last, made_by=self.name)
        output.args = (new,)
        graph_module.recompile()
        return PassResult(graph_module, True)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [(torch.Tensor.double, ()), (torch.float_power, (1,)), (torch.Tensor.to, (torch.float64,))],
)
def test_another_dtype_is_a_breach_though_float64_shows_no_difference(
    function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    with pytest.raises(ContractError, match=r"equal signature but changed .*float32 to .*float64"):
        fxprune.Pipeline([Changed(function, arguments)])(tiny())


def test_a_function_that_was_called_before_may_be_called_again() -> None:
    graph = fxprune.trace(Wrapped(lambda m, x: torch.relu(x)), X)
    assert is_plain_to_see(graph, Changed(torch.relu)(copy_graph_module(graph)).graph_module)
    assert not is_plain_to_see(graph, Changed(torch.abs)(copy_graph_module(graph)).graph_module)


def test_a_weight_of_another_dtype_is_looked_at() -> None:
    before, after = tiny(), tiny()
    after.meta = before.meta
    assert is_plain_to_see(before, after)
    after.get_submodule("stem.0").double()
    assert not is_plain_to_see(before, after)


def test_other_example_inputs_are_looked_at() -> None:
    before = tiny()
    after = copy_graph_module(before)
    keep_example_inputs(after, (X.clone(),))
    assert not is_plain_to_see(before, after)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.conv(x).double(),
        lambda m, x: m.conv(x) * m.scale,
        lambda m, x: torch.fft.fft(m.conv(x)).real,
    ],
)
def test_what_computes_other_dtypes_or_reads_tensors_is_looked_at(function: Callable[..., Any]) -> None:
    model = Wrapped(function, conv=nn.Conv2d(3, 3, 1))
    model.register_parameter("scale", nn.Parameter(torch.ones(())))
    graph = fxprune.trace(model.eval(), X)
    assert not is_plain_to_see(graph, graph)
    assert told_signature(graph) == signature(graph)


def test_a_graph_that_was_cast_is_looked_at() -> None:
    graph = tiny().to(torch.bfloat16)
    assert told_signature(graph) is None
    assert not is_plain_to_see(graph, graph)
