"""What a diff tells of each node of a graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import fx, nn

from fxprune.costs.macs import around_regions, batch_size, node_macs, total_macs, total_params, unknown_places
from fxprune.diffing.entries import NodeInfo, Totals
from fxprune.facts.constant_factors import constant_factor
from fxprune.facts.shapes import shape
from fxprune.gates.base import ungated
from fxprune.gates.gate import ScaledLayer
from fxprune.ir.module_tree import regions_in
from fxprune.ir.nodes import called_module, module_path, node_count
from fxprune.ops.layer_classes import AnyConv


def describe(graph_module: fx.GraphModule, region: str = "") -> dict[fx.Node, NodeInfo]:
    """Return what there is to say of each node of one graph, in graph order; ``region`` is the path of that graph."""
    batch = batch_size(graph_module)
    prefix = f"{region}." if region else ""
    found = {}
    for node in graph_module.graph.nodes:
        module = called_module(node)
        holds_regions = module is not None and bool(regions_in(module))
        path = module_path(node)
        found[node] = NodeInfo(
            name=prefix + node.name,
            op=_op_of(node),
            path=prefix + path if path else region,
            inputs=tuple(prefix + source.name for source in reads(node)),
            shape=shape(node),
            macs=0 if holds_regions else int(node_macs(node) // batch),
            params=sum(p.numel() for p in around_regions(node).values()),
            scale=_scale(module),
            detail=_detail(node, module),
        )
    return found


def totals(graph_module: fx.GraphModule) -> Totals:
    """Return what ``graph_module`` and the regions in it hold."""
    macs, params = total_macs(graph_module), total_params(graph_module)
    return Totals(node_count(graph_module), macs, params, unknown_places(graph_module))


def reads(node: fx.Node) -> list[fx.Node]:
    """Return the nodes that ``node`` reads, in the order of its arguments, as often as it reads them."""
    found: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), found.append)
    return found


def _op_of(node: fx.Node) -> str:
    """Return the name of what ``node`` calls: a module's class, a function or a method; else the node's kind."""
    if node.op == "call_module":
        return type(called_module(node)).__name__
    if node.op in ("call_function", "call_method"):
        return str(getattr(node.target, "__name__", node.target))
    return node.op


def _scale(module: nn.Module | None) -> float | None:
    if not isinstance(module, ScaledLayer):
        return None
    scale = float(module.effective_scale)
    return scale if math.isfinite(scale) else None  # JSON has no NaN


def _detail(node: fx.Node, module: nn.Module | None) -> str:
    layer = None if module is None else ungated(module)
    if isinstance(layer, AnyConv):
        parts = [_sizes(layer.kernel_size)]
        parts += [
            f"{name} {_steps(steps)}"
            for name, steps in (("stride", layer.stride), ("dilation", layer.dilation))
            if any(step != 1 for step in steps)
        ]
        parts.append(f"{layer.in_channels} -> {layer.out_channels}")
        parts += [f"groups {layer.groups}"] if layer.groups != 1 else []
        return ", ".join(parts)
    if isinstance(layer, nn.Linear):
        return f"{layer.in_features} -> {layer.out_features}"
    if node.op == "get_attr":
        return str(node.target)
    factor = constant_factor(node)
    return f"times {factor[1]:.4g}" if factor else ""


def _sizes(sizes: Sequence[Any]) -> str:
    return "x".join(str(size) for size in sizes)


def _steps(steps: Sequence[Any]) -> str:
    return str(steps[0]) if len(set(steps)) == 1 else _sizes(steps)
