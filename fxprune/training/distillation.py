"""Distillation: losses that learn what a teacher returns, and the feature maps that it computes on the way.

Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv 1503.02531. Romero et al.: FitNets, arXiv
1412.6550. Without whole layers a stage's feature maps keep their shape: they are compared as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import fx, nn
from torch.nn import functional

from fxprune.errors import FxpruneError
from fxprune.facts.dominators import Flow
from fxprune.facts.shapes import META, shape
from fxprune.gates.channel_gate import ScaledColumns
from fxprune.ir.copies import copy_graph_module
from fxprune.ir.nodes import origins
from fxprune.ops.call import Call
from fxprune.ops.op import WEIGHTED
from fxprune.structures.gated_layers import layers_of_graph

_SMALLEST_SQUARE = 1e-8  # mean of a map's squares, below which it counts as zeros


class Ensemble(nn.Module):
    """Returns the mean of what ``networks`` return: logits (N, classes)."""

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the mean logits of ``images``."""
        return torch.stack([network(images).float() for network in self.networks]).mean(0)


def distillation(logits: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return how far softened ``logits`` (N, classes) are from the teacher's: T^2 KL, mean over the images."""
    student = functional.log_softmax(logits.float() / temperature, dim=1)
    known = functional.log_softmax(teacher.float() / temperature, dim=1)
    return functional.kl_div(student, known, reduction="batchmean", log_target=True) * temperature**2


def feature_distance(maps: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return how far feature maps (N, ...) are from the teacher's.

    That is (|a - b| / |b|)^2 of an image's map a and the teacher's b, its mean over maps and images. A b that is all
    zeros is left out: nothing can be said relative to it.
    """
    distances = []
    for one, known in zip(maps, teacher, strict=True):
        known = known.float().flatten(1)
        error, size = (one.float().flatten(1) - known).square().mean(1), known.square().mean(1)
        distances.append(torch.where(size > _SMALLEST_SQUARE, error / size.clamp(min=_SMALLEST_SQUARE), 0).mean())
    return torch.stack(distances).mean()


def stage_ends(model: fx.GraphModule, teacher: fx.GraphModule) -> list[str]:
    """Return where feature maps can be compared: names, in the traced graph, of the layers that read them.

    Everything the outputs depend on passes through these maps, and a conv or linear layer that no pruning takes away
    changes their shape next: they are the ends of stages, what the classifier reads, and, in blocks that no shortcut
    goes around, what lies between convs of different widths. Of several layers that read one map, the first is named.

    Args:
        model: a graph with layer scales.
        teacher: the graph that it was made from, or another trace of the same network, before any pass.

    Raises:
        FxpruneError: there is no such map, or the teacher has none of them in the same shape.
    """
    removable = {node for layer in layers_of_graph(model) for node in layer.nodes}
    known = {node.name: _read(node) for node in teacher.graph.nodes if _is_conv_or_linear(node)}
    flow, output = Flow(model), model.graph.output_node()
    found: dict[fx.Node, str] = {}
    for node in model.graph.nodes:
        read = _read(node) if _is_conv_or_linear(node) and node not in removable else None
        if read is None or read.op == "placeholder" or shape(read) == shape(node):
            continue
        if flow.dominates(read, output):
            found.setdefault(read, origins(node)[0])
    if not found:
        raise FxpruneError(
            "distill_features has nothing to compare: the graph shows no layer that changes the shape of a feature "
            "map that all of the network passes through; leave it out"
        )
    common = [name for read, name in found.items() if _same_map(read, known.get(name))]
    if not common:
        raise FxpruneError(
            f"the teacher has none of the model's feature maps (what {', '.join(found.values())} read): "
            "give the unpruned model, with any weights, as the teacher, or leave distill_features out"
        )
    return common


def with_feature_maps(graph_module: fx.GraphModule, readers: Iterable[str]) -> fx.GraphModule:
    """Return a graph, on the same layers, of (output, list of what the traced nodes named ``readers`` read)."""
    made = copy_graph_module(graph_module)
    nodes = {name: node for node in reversed(made.graph.nodes) for name in origins(node)}
    output = made.graph.output_node()
    output.args = ((output.args[0], [_read(nodes[name]) for name in readers]),)
    output.meta[META] = fx.map_arg(output.args[0], lambda node: node.meta.get(META))
    made.recompile()
    return made


def _is_conv_or_linear(node: fx.Node) -> bool:
    return _call(node).kind in WEIGHTED


def _same_map(a: fx.Node, b: fx.Node | None) -> bool:
    first, second = shape(a), None if b is None else shape(b)
    return first is not None and second is not None and first[1:] == second[1:]  # whatever the batches of the traces


def _read(node: fx.Node) -> fx.Node | None:
    return _call(node).input


def _call(node: fx.Node) -> Call:
    """Return what ``node`` computes, without the scales of channels."""
    call = Call(node)
    return Call(node, call.module.layer) if isinstance(call.module, ScaledColumns) else call
