"""What layers read, as rows, on images: in one run of the graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from fxprune.choosing.samples import Batch
from fxprune.facts.layer_by_layer import LayerByLayer, bytes_held, room_for
from fxprune.ir.nodes import as_taken_now
from fxprune.ops.call import Call

_ROWS = 4096
"""So many rows are kept of each layer, spread over all."""


def rows_read(graph_module: fx.GraphModule, nodes: Sequence[fx.Node], batches: Sequence[Batch]) -> list[torch.Tensor]:
    """Return what each of ``nodes``, calls of linear layers in graph order, reads in eval mode; (rows, in) each."""
    inputs = [as_taken_now(graph_module, batch.inputs) for batch in batches]
    images = sum(batch.size for batch in batches)
    found = []
    with room_for(bytes_held(graph_module, images)) as folder:
        sources = [Call(node).operand(0) for node in nodes]
        with LayerByLayer(graph_module, inputs, sources, folder).running() as run:
            for source in sources:
                run.until(source)
                rows = torch.cat([value.reshape(-1, value.shape[-1]) for value in run.values(source)])
                found.append(rows[:: -(-len(rows) // _ROWS)].clone())
                run.release(source)
    return found
