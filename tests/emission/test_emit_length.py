"""Emitted networks of torchvision are no longer than torchvision writes them, and compute the same."""

from __future__ import annotations

import ast
import inspect
import textwrap
from pathlib import Path

import pytest
import torch
from helpers import emitted
from safetensors.torch import load_file
from torch import fx

import fxprune
from fxprune import passes
from fxprune.pipelines.chains import AFTER_TRAINING
from fxprune.structures.gated_layers import layers

FOLDED = fxprune.Pipeline([passes.FoldBatchNorm(), passes.Simplify()])


def text_of(folder: Path) -> str:
    return (folder / "model.py").read_text().partition("\n\n\ndef load(")[0]


def lines_of(text: str) -> int:
    """Count lines that are neither blank, nor comments, nor docstrings."""
    text = textwrap.dedent(text)
    documented: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.Module)) and ast.get_docstring(node) is not None:
            documented |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    rows = enumerate(text.split("\n"), start=1)
    return sum(bool(row.strip()) and not row.strip().startswith("#") and at not in documented for at, row in rows)


FAMILIES = {
    "resnet18": ("resnet", ["BasicBlock", "ResNet"]),
    "resnet50": ("resnet", ["Bottleneck", "ResNet"]),
    "efficientnet_b0": ("efficientnet", ["MBConv", "EfficientNet"]),
    "densenet121": ("densenet", ["_DenseLayer", "_DenseBlock", "_Transition", "DenseNet"]),
    "convnext_tiny": ("convnext", ["LayerNorm2d", "CNBlock", "ConvNeXt"]),
    "mobilenet_v3_large": ("mobilenetv3", ["InvertedResidual", "MobileNetV3"]),
}
OPS: dict[str, list[str]] = {
    "efficientnet_b0": ["Conv2dNormActivation", "SqueezeExcitation", "StochasticDepth"],
    "convnext_tiny": ["Conv2dNormActivation", "Permute", "StochasticDepth"],
    "mobilenet_v3_large": ["Conv2dNormActivation", "SqueezeExcitation"],
}


def allowed_lines(name: str) -> float:
    """Return 1.2 times the lines of torchvision's own classes that the model is made of."""
    import torchvision
    from torchvision.ops.misc import ConvNormActivation

    home, classes = FAMILIES[name]
    module = getattr(torchvision.models, home)
    kinds = [getattr(module, one) for one in classes] + [
        getattr(torchvision.ops, one, None) for one in OPS.get(name, [])
    ]
    kinds += [ConvNormActivation] if name in OPS else []
    return 1.2 * sum(lines_of(inspect.getsource(kind)) for kind in kinds if kind is not None)


def close_half(graph: fx.GraphModule) -> fx.GraphModule:
    """Return what is left of ``graph`` when training has closed every second gate."""
    sparse = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(graph).graph_module
    for layer in layers(sparse)[1::2]:
        layer.module.close()
    return fxprune.Pipeline([passes.RemoveLayers(threshold=0.0), *AFTER_TRAINING])(sparse).graph_module


@pytest.mark.parametrize("name", FAMILIES)
def test_networks_of_torchvision_are_as_long_as_torchvision_writes_them(name: str, tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    x = torch.randn(1, 3, 32, 32)
    traced = fxprune.trace(getattr(torchvision.models, name)().eval(), x, check=False)
    for graph in (traced, FOLDED(traced).graph_module):
        emitted(graph, tmp_path, x)
        assert lines_of(text_of(tmp_path)) <= allowed_lines(name)
        assert load_file(tmp_path / "weights.safetensors").keys() == graph.state_dict().keys()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_large", "densenet121"])
def test_what_pruning_left_computes_the_same(name: str, tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    x = torch.randn(1, 3, 32, 32)
    graph = close_half(fxprune.trace(getattr(torchvision.models, name)().eval(), x, check=False))
    emitted(graph, tmp_path, x)
