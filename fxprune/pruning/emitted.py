"""The plain network that would be emitted of a graph with gates, without some of what these gate."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack

import torch
from torch import fx

from fxprune.choosing.remaining import Site
from fxprune.ir.copies import copy_module
from fxprune.ir.module_tree import evaluating
from fxprune.passes import RemoveChannels, RemoveLayers
from fxprune.passes.chains import AFTER_TRAINING
from fxprune.pipelines.pipeline import Pipeline
from fxprune.structures.channel_chunk import Chunk
from fxprune.structures.gated_layers import Gate, awake, gates_of

_COMPILE = Pipeline([RemoveLayers(threshold=0.0), *AFTER_TRAINING], verify=False)
_COMPILE_CHANNELS = Pipeline([RemoveLayers(threshold=0.0), *AFTER_TRAINING, RemoveChannels()], verify=False)
_NO_UNIT = 0.7  # for shortcuts, in the place of units that are measured later


def emitted_without(graph_module: fx.GraphModule, removed: Collection[Site], *, channels: bool) -> fx.GraphModule:
    """Return the plain network without ``removed``; ``channels`` says whether any may go."""
    with evaluating(graph_module), ExitStack() as closed:
        for site in removed:
            if isinstance(site, Chunk):
                closed.enter_context(site.lowered(0.0))
            else:
                closed.enter_context(awake(site))
                set_gate(site, 0.0)
        return (_COMPILE_CHANNELS if channels else _COMPILE)(graph_module).graph_module


def emitted_whole(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Return the plain network without any gate, as if none were closed: it takes the time of the unpruned one."""
    opened = copy_module(graph_module)
    assert isinstance(opened, fx.GraphModule)
    for gate in gates_of(opened):
        if not bool(gate.scale.all()):
            gate.assign(scale=1.0)
    return emitted_without(opened, (), channels=False)


@torch.no_grad()
def set_gate(layer: Gate, gate: float) -> None:
    """Set the gate of ``layer``, and the unit of its shortcut, if it has one, so that this is not 1 by chance."""
    layer.module.gate.fill_(gate)
    if layer.module.has_shortcut:
        layer.module.set_units(input_rms=float(layer.module.unit("gain")) * _NO_UNIT)
