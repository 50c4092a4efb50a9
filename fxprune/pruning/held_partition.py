"""The blocks of linear layers, held while they train: what lies across them is zero after each step.

held = fxprune.HeldPartition(masked)
...
optimizer.step()
held.step()             W_ij = 0 wherever i and j are in two blocks
"""

from __future__ import annotations

import torch
from torch import fx, nn

from fxprune.errors import FxpruneValueError
from fxprune.gates.base import ungated
from fxprune.ir.arguments import require_arguments
from fxprune.ir.nodes import called_modules, graphs_of, require_graph
from fxprune.ir.weight_blocks import WeightBlocks, blocks_of


class HeldPartition:
    """Holds the blocks that :class:`fxprune.passes.MaskPartition` noted; :meth:`step` comes after the optimizer's.

    It writes to weights and has no state of its own to save. Averages of the weights (EMA), copies (DDP,
    torch.compile) and other dtypes and devices need nothing more.

    Args:
        graph_module: the masked graph, or what wraps it.

    Raises:
        FxpruneValueError: no layer has blocks.
    """

    def __init__(self, graph_module: fx.GraphModule) -> None:
        require_arguments(HeldPartition.__init__, locals())
        layers = _layers(require_graph(graph_module, "HeldPartition"))
        if not layers:
            raise FxpruneValueError(
                "no layer of the graph has blocks: apply MaskPartition, and train what it returns"
            )
        self._held = [(layer, ~blocks.mask()) for layer, blocks in layers]

    @torch.no_grad()
    def step(self) -> None:
        """Zero what lies across the blocks."""
        for number, (layer, across) in enumerate(self._held):
            if across.device != layer.weight.device:
                across = across.to(layer.weight.device)
                self._held[number] = layer, across
            layer.weight.masked_fill_(across, 0.0)


def has_blocks(graph_module: fx.GraphModule) -> bool:
    """Say whether any layer of a graph has blocks."""
    return bool(_layers(graph_module))


def _layers(graph_module: fx.GraphModule) -> list[tuple[nn.Linear, WeightBlocks]]:
    found = []
    for _, graph in graphs_of(graph_module):
        for node, module in called_modules(graph).items():
            layer = ungated(module)
            blocks = blocks_of(node, layer.weight) if isinstance(layer, nn.Linear) else None
            if blocks is not None and isinstance(layer, nn.Linear):
                found.append((layer, blocks))
    return found
