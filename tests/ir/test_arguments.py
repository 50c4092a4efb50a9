"""Arguments of the wrong kind: whatever is public names itself, and what it was given, in one line."""

from __future__ import annotations

import inspect
import math
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TinyNet
from torch import fx, nn

import fxprune
from fxprune import passes, pruning
from fxprune.pipelines.registry import parse_passes
from fxprune.rewriting.contract import PassResult
from fxprune.training.cifar_resnet import CifarResNet
from fxprune.training.settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore:Remove(Branches|ResConvs) goes with 0.2:DeprecationWarning")

# What is not called by users: data, errors, a base class whose subclasses are.
DATA = {
    "PassResult",
    "PipelineResult",
    "GraphDiff",
    "Verification",
    "LatencyModel",
    "Contract",
    "FxpruneError",
    "FxpruneWarning",
    "Pass",
}


def public() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for module in (fxprune, passes, pruning):
        found |= {name: getattr(module, name) for name in module.__all__}
    return {name: value for name, value in found.items() if callable(value) and name not in DATA}


def sparse_graph() -> fx.GraphModule:
    torch.manual_seed(0)
    graph = fxprune.trace(TinyNet(), torch.randn(2, 3, 8, 8))
    return fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()], verify=False)(graph).graph_module


@pytest.fixture(scope="module")
def graph() -> fx.GraphModule:
    return sparse_graph()


def right(graph: fx.GraphModule, folder: Path) -> dict[str, Any]:
    """Return, for each argument's name, one that is right wherever it is asked for."""
    x = torch.randn(2, 3, 8, 8)
    return {
        "graph_module": graph, "before": graph, "after": graph, "a": graph, "b": graph, "model": graph,
        "example_inputs": x, "fit": lambda sparse: None, "meet_after": 4, "targets": fxprune.Targets(macs=0.9),
        "folder": folder / "out", "result": graph, "layers": {},
        "passes": [passes.Simplify()], "conv": nn.Conv2d(3, 3, 3, padding=1), "strength": 0.1, "weight_decay": 0.1,
    }  # fmt: skip


# Whatever the annotation says: none of these will do. ``Any`` takes all; a bool is no number.
WRONG = [None, "half", 1.5, 3, [], [1], object(), nn.Conv2d(1, 1, 1), torch.ones(2), torch.optim.SGD]


def allowed(value: Any, annotation: str) -> bool:
    """Say whether ``value`` is of a kind that ``annotation`` names, or may be told only later."""
    names: dict[type, tuple[str, ...]] = {
        type(None): ("None",),
        str: ("str", "Literal", "Parametrization", "Layers", "What", "PathLike"),
        float: ("float",),
        int: ("float", "int"),
        list: ("Sequence", "What"),
        nn.Conv2d: ("Module", "Conv"),
        torch.Tensor: ("Tensor",),
        type: ("Callable",),
    }
    return any(name in annotation for name in ("Any", *names.get(type(value), ())))


def calls() -> list[tuple[str, str, Any]]:
    """Return every (callable, argument, wrong value)."""
    found = []
    for name, function in public().items():
        for argument in inspect.signature(function).parameters.values():
            annotation = str(argument.annotation)
            wrong = [one for one in WRONG if not allowed(one, annotation)]
            found += [(name, argument.name, one) for one in wrong if argument.kind is not argument.VAR_POSITIONAL]
    return found


def test_every_public_callable_is_called_wrongly() -> None:
    missing = {name for name, _, _ in calls()}.symmetric_difference(public())
    assert missing <= {"BranchScale", *passes.__all__}  # its weights are any number; most passes have no options


@pytest.mark.parametrize("name", sorted({name for name, _, _ in calls()}))
def test_a_wrong_argument_is_named(name: str, graph: fx.GraphModule, tmp_path: Path) -> None:
    function = public()[name]
    known = right(graph, tmp_path)
    needed = [
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    for _, argument, wrong in (one for one in calls() if one[0] == name):
        arguments = {each: known[each] for each in needed} | {argument: wrong}
        with pytest.raises(fxprune.FxpruneError) as caught:
            function(**arguments)
        message = str(caught.value)
        assert "\n" not in message, message
        assert type(wrong).__name__ in message, f"{argument}: {message}"
        assert name in message or name == "trace", f"{argument}: {message}"


@pytest.mark.parametrize("name", passes.__all__)
def test_a_pass_takes_a_graph(name: str, graph: fx.GraphModule) -> None:
    one = getattr(passes, name)()
    for wrong in (TinyNet(), nn.DataParallel(TinyNet()), PassResult(graph, False), None, "graph", [graph], 3):
        with pytest.raises(fxprune.FxpruneError, match=f"takes a graph, got {type(wrong).__name__}; "):
            one(wrong)


def test_where_the_graph_is_is_said(graph: fx.GraphModule) -> None:
    with pytest.raises(
        fxprune.FxpruneError, match=r"SteeredL1 takes a graph, got PassResult; give it its \.graph_module$"
    ):
        fxprune.SteeredL1(PassResult(graph, False), targets=fxprune.Targets(macs=0.5), meet_after=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_a_graph_that_is_wrapped_is_one(graph: fx.GraphModule, wrap: Any) -> None:
    sparse = passes.InsertResConv()(wrap(graph)).graph_module
    assert fxprune.SteeredL1(wrap(sparse), targets=fxprune.Targets(macs=0.5), meet_after=3).graph_module is sparse
    assert fxprune.pruning.report(wrap(sparse)) == fxprune.pruning.report(sparse)


anything: Any = fxprune
any_passes: Any = passes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda graph: any_passes.RemoveLayers(threshold="0.1"),
            "RemoveLayers takes a number or None for threshold, got str '0.1'",
        ),
        (
            lambda graph: any_passes.RemoveLayers(rank="foo"),
            "unknown rank 'foo'; known: scale, scale-per-mac, apoz, blend, bn-gamma, .*, weight-norm",
        ),
        (
            lambda graph: anything.SteeredL1(graph, targets=fxprune.Targets(macs=0.5), meet_after=1.5),
            "SteeredL1 takes a whole number for meet_after, got float 1.5",
        ),
        (
            lambda graph: anything.ProximalL1(graph, {"a": "x"}),
            "ProximalL1 takes a number or a mapping of a number for strength",
        ),
        (lambda graph: anything.ProximalL1(graph).step("x"), r"ProximalL1\.step takes a number for lr, got str 'x'"),
        (
            lambda graph: anything.emit(graph, "out", formats="onnx"),
            "emit takes a sequence of .* for formats, got str 'onnx'",
        ),
        (
            lambda graph: anything.Pipeline(any_passes.Simplify()),
            "Pipeline takes a sequence of .* for passes, got Simplify",
        ),
        (
            lambda graph: anything.BranchScale("gamma"),
            "BranchScale takes a sequence of a Tensor for weights, got tuple",
        ),
    ],
)
def test_messages(call: Any, message: str, graph: fx.GraphModule) -> None:
    with pytest.raises(fxprune.FxpruneError, match=message):
        call(graph)


def test_wrong_kinds_are_type_errors_and_wrong_values_value_errors(graph: fx.GraphModule) -> None:
    conv = nn.Conv2d(3, 3, 3, padding=1)
    kinds = (
        lambda: any_passes.RemoveLayers(threshold="0.1"),
        lambda: any_passes.RemoveLayers(rank=3),
        lambda: fxprune.Pipeline([any_passes.Simplify]),
        lambda: anything.emit("graph", "out"),
    )
    values = (
        lambda: any_passes.RemoveLayers(rank="foo"),
        lambda: passes.RemoveLayers(threshold=-1.0),
        lambda: passes.RemoveLayers(target_macs=50),
        lambda: fxprune.ProximalL1(graph, -1.0),
        lambda: fxprune.ProximalL1(graph, {"nowhere": 1.0}),
        lambda: fxprune.ResConv(conv, input_rms=0.0),
        lambda: fxprune.ResConv(conv).assign(scale=math.inf),
        lambda: fxprune.BranchScale().assign(scale=math.nan),
        lambda: Settings(lr=0.0),
        lambda: CifarResNet(depth=21),
        lambda: parse_passes("no-such-pass"),
    )
    for wrong, error in (*((call, TypeError) for call in kinds), *((call, ValueError) for call in values)):
        with pytest.raises(fxprune.FxpruneError) as caught:
            wrong()
        assert isinstance(caught.value, error), caught.value


def test_enumerations_and_missing_arguments_are_pythons_own() -> None:
    assert issubclass(fxprune.Contract, Enum)
    for function in public().values():
        if any(
            p.default is p.empty and p.kind is not p.VAR_POSITIONAL
            for p in inspect.signature(function).parameters.values()
        ):
            with pytest.raises(TypeError, match="missing"):
                function()
