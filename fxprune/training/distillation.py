"""Distillation: losses that learn what a teacher returns, and the feature maps that it computes on the way.

Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv 1503.02531. Romero et al.: FitNets, arXiv
1412.6550. Without whole layers a stage's feature maps keep their shape: they are compared as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import fx, nn
from torch.nn import functional

from fxprune.copies import copy_graph_module
from fxprune.errors import FxpruneError
from fxprune.facts.convs import is_conv
from fxprune.facts.flow import Flow
from fxprune.facts.layers import layers_of_graph
from fxprune.facts.shapes import same_shape, shape
from fxprune.graph import called_module, origins

_SMALLEST_SQUARE = 1e-12  # of a map that is all zeros


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

    That is (|a - b| / |b|)^2 of an image's map a and the teacher's b: summed over the maps, the mean over the images.
    """
    total = torch.zeros((), device=maps[0].device)
    for one, known in zip(maps, teacher, strict=True):
        known = known.float().flatten(1)
        error = (one.float().flatten(1) - known).square().sum(1)
        total = total + (error / known.square().sum(1).clamp(min=_SMALLEST_SQUARE)).mean()
    return total


def stage_ends(model: fx.GraphModule, teacher: fx.GraphModule) -> list[str]:
    """Return where feature maps can be compared: names, in the traced graph, of the layers that read them.

    Everything the outputs depend on passes through these maps, and the next conv or linear layer, which no pruning
    takes away, changes their shape: they are the ends of stages, and what the classifier reads. Where several layers
    read the same map, the first stands for them.

    Args:
        model: a graph with layer scales.
        teacher: the graph that it was made from, or another trace of the same network, whatever passes rewrote it.

    Raises:
        FxpruneError: there is no such map of one shape in both.
    """
    removable = {node for layer in layers_of_graph(model) for node in layer.nodes}
    known = {origins(node)[0]: _read(node) for node in teacher.graph.nodes if _is_conv_or_linear(node)}
    flow, output = Flow(model), model.graph.output_node()
    found: dict[fx.Node, str] = {}
    for node in model.graph.nodes:
        read = _read(node) if _is_conv_or_linear(node) and node not in removable else None
        other = known.get(origins(node)[0])
        if read is None or other is None or read.op == "placeholder" or shape(read) == shape(node):
            continue
        if same_shape(read, other) and flow.dominates(read, output):
            found.setdefault(read, origins(node)[0])
    if not found:
        raise FxpruneError(
            "the model and its teacher have no feature maps in common in front of a layer that changes their shape: "
            "leave distill_features out, or take the unpruned model, with any weights, as the teacher"
        )
    return list(found.values())


def with_feature_maps(graph_module: fx.GraphModule, readers: Iterable[str]) -> fx.GraphModule:
    """Return a graph, on the same layers, of (output, list of what the traced nodes named ``readers`` read)."""
    made = copy_graph_module(graph_module)
    nodes = {name: node for node in reversed(made.graph.nodes) for name in origins(node)}
    output = made.graph.output_node()
    output.args = ((output.args[0], [_read(nodes[name]) for name in readers]),)
    made.recompile()
    return made


def _is_conv_or_linear(node: fx.Node) -> bool:
    return is_conv(node) or node.target is functional.linear or isinstance(called_module(node), nn.Linear)


def _read(node: fx.Node) -> fx.Node | None:
    first = node.args[0] if node.args else node.kwargs.get("input")
    return first if isinstance(first, fx.Node) else None
