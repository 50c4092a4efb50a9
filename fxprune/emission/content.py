"""What an emitted folder says of a graph: made, read back and run before any file is touched."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from fxprune.emission.check import (
    build_source,
    examples_fit,
    read_back,
    require_equal,
    require_equal_in_train_mode,
)
from fxprune.emission.class_names import class_names
from fxprune.emission.codegen import python_source
from fxprune.emission.constants import examples_to_data
from fxprune.emission.graph_data import graph_to_data, tell_values
from fxprune.emission.state_layout import StateLayout, state_layout
from fxprune.ir.by_mode import TRAIN_INPUTS, has_modes
from fxprune.ir.nodes import EXAMPLE_INPUTS, TRACE, as_taken_now, example_inputs_of
from fxprune.ir.trace_notes import assumptions_of


class Content(NamedTuple):
    """A graph as source and as data, with its weights, on the CPU, under the names that both have for them."""

    layout: StateLayout
    source: str
    data: dict[str, Any]
    state: dict[str, torch.Tensor]


def content_of(graph_module: fx.GraphModule) -> Content:
    """Return what is to be written of ``graph_module``; it computes what that does.

    Raises EmitError: plain PyTorch cannot express the graph, or what would be written cannot be read, or differs.
    """
    layout = state_layout(graph_module)
    source = _source(graph_module, layout)
    examples = example_inputs_of(graph_module) if EXAMPLE_INPUTS in graph_module.meta else None
    train_examples = graph_module.meta.get(TRAIN_INPUTS)
    if train_examples is not None:
        train_examples = as_taken_now(graph_module, train_examples)
    data = graph_to_data(graph_module.graph, layout) | {
        "classes": class_names(graph_module),
        "scales": [scale.path for scale in layout.scales.values()],
        "examples": examples_to_data(examples),
        "train_examples": examples_to_data(train_examples),
        "trace": graph_module.meta.get(TRACE),
        "assumptions": [asdict(assumption) for assumption in assumptions_of(graph_module)],
    }
    again, state = read_back(graph_module, data)
    state |= {scale.path: scale.value for scale in layout.scales.values()}
    model = build_source(source, state)
    if examples is not None:
        require_equal(graph_module, again, model, examples)
        if has_modes(graph_module.graph):
            require_equal_in_train_mode(again, model, train_examples or examples)
        model.load_state_dict(state)
        if examples_fit(again, data["examples"]):
            tell_values(data, again.graph)
        else:
            data["examples"] = None  # random numbers in their place would not do
    return Content(layout, source, data, state)


def _source(graph_module: fx.GraphModule, layout: StateLayout, *, in_place: bool = True) -> str:
    name = type(graph_module).__name__
    return python_source(graph_module.graph, layout, name, classes=class_names(graph_module), in_place=in_place)


def functional_model(graph_module: fx.GraphModule, content: Content) -> nn.Module:
    """Return the network that ``content`` tells of ``graph_module``, with nothing computed in place."""
    return build_source(_source(graph_module, content.layout, in_place=False), content.state)


def require_source(graph_module: fx.GraphModule) -> None:
    """Raise EmitError, naming node or module, if plain PyTorch cannot express ``graph_module``."""
    _source(graph_module, state_layout(graph_module))
