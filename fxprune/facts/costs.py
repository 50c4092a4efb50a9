"""What a graph costs: multiply-accumulates (MACs) and parameters, a node at a time.

MACs are counted for convolutions, linear layers and matrix products, as the field does; norms, activations
and element-wise arithmetic count as zero. One MAC is two FLOPs. Counts are for the traced example inputs,
divided by their batch size where all of them share a first dimension.
"""

from __future__ import annotations

import math
import operator
from fractions import Fraction
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from fxprune.by_mode import MODE
from fxprune.facts.convs import is_conv
from fxprune.facts.shapes import require_shapes, shape
from fxprune.graph import called_module
from fxprune.layer_classes import CONV_CLASSES, TRANSPOSED_CLASSES
from fxprune.module_tree import CALLS, PER_SAMPLE, every_module, is_opaque, opaque_children, regions_in
from fxprune.node_targets import attribute
from fxprune.scaled_layer import ScaledLayer

_PRODUCTS = {operator.matmul, torch.matmul, torch.mm, torch.bmm, "matmul", "mm", "bmm", "__matmul__"}
# ... with a sum: where the first factor is.
_SUMS_AND_PRODUCTS: dict[Any, str] = {
    torch.addmm: "mat1",
    torch.baddbmm: "batch1",
    "addmm": "mat1",
    "baddbmm": "batch1",
}
_FREE = {operator.add, torch.add, functional.relu}  # what most of a CNN's function calls are


def node_macs(node: fx.Node) -> int:
    """Return the MACs of one node for the traced shapes, the whole batch; 0 if it multiplies nothing in eval mode."""
    if node.meta.get(MODE) == "train":
        return 0
    module = called_module(node)
    if module is not None:
        return _module_macs(node, module)
    if node.op not in ("call_function", "call_method") or node.target in _FREE:
        return 0
    if getattr(node.target, "__name__", "").startswith("shifted_window_attention"):
        return _window_attention_macs(node)
    out = _output_elements(node)
    if node.target is functional.linear or node.target is functional.scaled_dot_product_attention:
        return _functional_macs(node, out)
    if is_conv(node):
        weight = _argument_shape(node, 1, "weight")
        transposed: bool = "transpose" in getattr(node.target, "__name__", "")
        elements = _input_elements(node) if transposed else out
        return elements * math.prod(int(size) for size in weight[1:]) if weight else 0
    if node.target in _PRODUCTS:
        left = _argument_shape(node, 0, "input")
        return out * left[-1] if left else 0
    if node.target in _SUMS_AND_PRODUCTS:
        left = _argument_shape(node, 1, _SUMS_AND_PRODUCTS[node.target])
        return out * left[-1] if left else 0
    return _einsum_macs(node) if node.target is torch.einsum else 0


def _module_macs(node: fx.Node, module: nn.Module) -> int:
    if isinstance(module, ScaledLayer):
        return sum(_module_macs(node, part) for part in module.children())
    if isinstance(module, CONV_CLASSES):  # reads no computed weight
        return _output_elements(node) * module.in_channels // module.groups * math.prod(module.kernel_size)
    if isinstance(module, nn.Linear):
        return _output_elements(node) * int(module.in_features)
    if isinstance(module, TRANSPOSED_CLASSES):
        return _input_elements(node) * module.out_channels // module.groups * math.prod(module.kernel_size)
    if isinstance(module, nn.Bilinear):
        return _output_elements(node) * int(module.in1_features) * (int(module.in2_features) + 1)
    if isinstance(module, nn.MultiheadAttention):
        return _attention_macs(node, module)
    if is_opaque(module) and (regions := regions_in(module)):
        return sum(int(_all_nodes(region) * region.meta[CALLS]) for _, region in regions)
    return 0


def _functional_macs(node: fx.Node, out: int) -> int:
    if node.target is functional.linear:
        source = _argument_shape(node, 0, "input")
        return out * source[-1] if source else 0
    query, key = _argument_shape(node, 0, "query"), _argument_shape(node, 1, "key")
    return 0 if not query or not key else math.prod(query[:-1]) * key[-2] * query[-1] + out * key[-2]


def _einsum_macs(node: fx.Node) -> int:
    """Return the MACs of a product of two tensors: of all their axes, each once; 0 for a sum or a transpose."""
    terms, *given = node.args
    operands = given[0] if len(given) == 1 and isinstance(given[0], (list, tuple)) else given
    shapes = [shape(one) if isinstance(one, fx.Node) else None for one in operands]
    if not isinstance(terms, str) or "." in terms or len(shapes) != 2:
        return 0
    names = terms.replace(" ", "").partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    for axes, sides in zip(names, shapes, strict=False):
        sizes |= dict(zip(axes, sides or (), strict=False))
    return math.prod(sizes.values()) if len(names) == 2 else 0


def _window_attention_macs(node: fx.Node) -> int:
    """Return the MACs of torchvision's Swin attention: four projections, and two products inside windows."""
    source = _argument_shape(node, 0, "input")
    window: Any = node.args[4] if len(node.args) > 4 else node.kwargs.get("window_size")
    if not source or not isinstance(window, (list, tuple)) or not all(isinstance(side, int) for side in window):
        return 0
    return math.prod(source) * (4 * source[-1] + 2 * math.prod(window))


def _attention_macs(node: fx.Node, module: nn.MultiheadAttention) -> int:
    query, key = _argument_shape(node, 0, "query"), _argument_shape(node, 1, "key")
    if not query or not key:
        return 0
    width, batched = int(module.embed_dim), len(query) == 3
    axis = 1 if batched and module.batch_first else 0
    tokens, others = query[axis], key[axis]
    batch = query[1 - axis] if batched else 1
    projected = 2 * tokens * width + others * (int(module.kdim) + int(module.vdim))
    return batch * width * (projected + 2 * tokens * others)


def _all_nodes(graph_module: fx.GraphModule) -> int:
    return sum(node_macs(node) for node in graph_module.graph.nodes)


def total_macs(graph_module: fx.GraphModule) -> int:
    """Return the MACs of the whole graph for one sample, regions in opaque modules with all their calls included."""
    require_shapes(graph_module)
    return int(_all_nodes(graph_module) // batch_size(graph_module))


def batch_size(graph_module: fx.GraphModule) -> int | Fraction:
    """Return the first dimension that all example inputs share; 1 if they share none.

    For a region it is what its MACs are divided by to be those of all its calls for one sample of the whole graph.
    """
    if PER_SAMPLE in graph_module.meta:
        return Fraction(graph_module.meta[PER_SAMPLE])
    shapes = [shape(node) for node in graph_module.graph.find_nodes(op="placeholder", sort=False)]
    sizes = {s[0] if s else None for s in shapes}
    size = sizes.pop() if len(sizes) == 1 else None
    return size or 1


def node_params(node: fx.Node) -> int:
    """Return how many trainable or frozen parameters ``node`` holds (scales left out)."""
    return sum(p.numel() for p in _node_parameters(node).values())


def total_params(graph_module: fx.GraphModule) -> int:
    """Return how many parameters the graph holds, tied ones once (scales left out)."""
    found: dict[int, nn.Parameter] = {}
    for node in graph_module.graph.nodes:
        found |= _node_parameters(node)
    return sum(p.numel() for p in found.values())


def _node_parameters(node: fx.Node) -> dict[int, nn.Parameter]:
    """Return the parameters that ``node`` holds, by id (scales left out)."""
    owner = node.graph.owning_module
    if node.op == "get_attr" and owner is not None:
        value = attribute(owner, str(node.target))
        return {id(value): value} if isinstance(value, nn.Parameter) else {}
    module = called_module(node)
    if module is None:
        return {}
    layers = (m for m in every_module(module) if not isinstance(m, ScaledLayer))
    return {id(p): p for m in layers for p in m._parameters.values() if p is not None}


def around_regions(node: fx.Node) -> dict[int, nn.Parameter]:
    """Return the parameters that ``node`` holds, by id, those in the regions of an opaque module left out."""
    module = called_module(node)
    if module is None or not is_opaque(module):
        return _node_parameters(node)
    return {id(p): p for part in opaque_children(module) for p in part.parameters(recurse=False)}


def _output_elements(node: fx.Node) -> int:
    return math.prod(shape(node) or (0,))


def _input_elements(node: fx.Node) -> int:
    return math.prod(_argument_shape(node, 0, "input") or (0,))


def _argument_shape(node: fx.Node, index: int, name: str) -> tuple[int, ...] | None:
    argument: Any = node.args[index] if index < len(node.args) else node.kwargs.get(name)
    return shape(argument) if isinstance(argument, fx.Node) else None
