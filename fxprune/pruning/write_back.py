"""Give a model the layers that passes made of its graph: the user's own modules, with fewer channels and layers.

    model --trace--> graph --passes--> graph'          write_back(model, graph') = model',   model'(x) = graph'(x)

The forward of every module stays the user's. It may count channels that are gone, or sum what was removed: so what
was made is run in float64 beside the graph, and is given out only where both return the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import fx, nn

from fxprune.costs.macs import batch_size
from fxprune.errors import FxpruneError, first_line
from fxprune.gates.base import Gated
from fxprune.ir.arguments import require_kind
from fxprune.ir.copies import copy_module
from fxprune.ir.module_tree import every_path
from fxprune.ir.nodes import example_inputs_of, graphs_of, require_graph
from fxprune.ir.pytrees import map_tensors
from fxprune.ir.wrappers import holds_wrappers
from fxprune.pruning.differing import place_of_difference
from fxprune.pruning.model_runs import run_model_float64, train_error
from fxprune.pruning.placing import place_layers
from fxprune.rewriting.contract import PassResult
from fxprune.rewriting.float64 import run_float64
from fxprune.rewriting.verify import TOLERANCE, difference
from fxprune.tracing.source import line_of_error

_Module = TypeVar("_Module", bound=nn.Module)


def write_back(model: _Module, result: fx.GraphModule | PassResult, *, in_place: bool = False) -> _Module:
    """Return ``model`` with the layers that passes made of its graph: narrower ones, nn.Identity for removed ones.

    Classes, names, hooks, train flags and ties are those of ``model``. Layers and tensors are copies of the graph's.

    Args:
        model: the model that was traced; as it was then, or with other weights: it gets those of the graph.
        result: the graph, or what a pass or a pipeline returned.
        in_place: change ``model`` itself, and return it; where that is refused it stays as it is.

    Returns:
        A model that returns what the graph returns, to 1e-9 in float64, on the graph's example inputs, and on one
        sample more; where train mode has code of its own, that was run too.

    Raises:
        FxpruneTypeError: an argument is of another kind.
        FxpruneError: the graph has gates or no example inputs; the model is not the one that was traced; or its
            forward would not compute what the graph does: it counts channels that are gone, or does with a layer
            that was removed what no Identity does. Names the line, or the module, where that shows.
    """
    require_kind(model, nn.Module, "write_back", "model")
    require_kind(in_place, bool, "write_back", "in_place")
    graph_module = require_graph(getattr(result, "graph_module", result), "write_back")
    _require_no_gates(graph_module)
    if in_place and holds_wrappers(model):
        raise FxpruneError("write_back cannot change a wrapped model in place; give the module inside the wrapper")
    written = copy_module(model)
    called, count = _called_paths(written, graph_module)
    removed = place_layers(written, graph_module, called)
    where = _difference(written, graph_module, model, count)
    if where is not None:
        gone = f"; removed: {_listed(removed)}" if removed else ""
        raise FxpruneError(
            f"{type(written).__name__} cannot be written back: {where}{gone}; take the graph itself: "
            "fxprune.emit(graph_module, folder) writes its source"
        )
    if not in_place:
        return written  # type: ignore[return-value]  # what is inside a wrapper
    place_layers(model, graph_module, called)
    return model


def _require_no_gates(graph_module: fx.GraphModule) -> None:
    for _, graph in graphs_of(graph_module):
        for path, module in every_path(graph).items():
            if isinstance(module, Gated):
                raise FxpruneError(
                    f"write_back takes a graph without gates, and {path} is a {type(module).__name__}; apply "
                    "fxprune.AFTER_TRAINING, or passes.FuseChannelGate to gates of channels"
                )


def _called_paths(model: nn.Module, graph_module: fx.GraphModule) -> tuple[list[str], int]:
    """Return the paths of the modules that ``model`` calls in eval mode, and how many tensors it returns."""
    first: dict[int, str] = {}
    for path, module in every_path(model).items():
        if not isinstance(module, torch.jit.ScriptModule):  # which takes no hooks, and stays as it is
            first.setdefault(id(module), path)
    try:
        outputs, seen = run_model_float64(model, graph_module, example_inputs_of(graph_module), first.values())
    except Exception as error:
        cause = error.__cause__ or error
        raise FxpruneError(
            f"write_back cannot run {type(model).__name__} on the graph's example inputs, in float64: "
            f"{line_of_error(cause)}: {first_line(cause)}; give the model that was traced"
        ) from error
    return list(dict.fromkeys(one.path for one in seen)), len(outputs)


def _difference(written: nn.Module, graph_module: fx.GraphModule, model: nn.Module, count: int) -> str | None:
    """Say where ``written``, of ``count`` outputs, is another function than the graph; None if it is the same.

    ``model`` is what it was before.
    """
    for number, inputs in enumerate(_examples(graph_module)):
        try:
            expected = run_float64(graph_module, inputs)[:count]  # those of regions come after them
        except Exception as error:
            if number:  # the graph takes no other batch size
                continue
            cause = error.__cause__ or error
            return f"the graph cannot run on its example inputs: {line_of_error(cause)}: {first_line(cause)}"
        try:
            found = run_model_float64(written, graph_module, inputs)[0]
        except Exception as error:
            return place_of_difference(written, graph_module, model, inputs, error.__cause__ or error)
        if difference(expected, found)[1] > TOLERANCE:
            return place_of_difference(written, graph_module, model, inputs, None)
    failed = train_error(written, graph_module)
    return None if failed is None else f"in train mode it fails: {line_of_error(failed)}: {first_line(failed)}"


def _examples(graph_module: fx.GraphModule) -> Iterator[tuple[Any, ...]]:
    """Yield the example inputs, and those with a sample more."""
    inputs, batch = example_inputs_of(graph_module), batch_size(graph_module)
    yield inputs
    shares = any(isinstance(one, torch.Tensor) and one.dim() and len(one) == batch for one in inputs)

    def longer(tensor: torch.Tensor) -> torch.Tensor:
        is_batch = tensor.dim() > 0 and len(tensor) == batch
        return torch.cat([tensor, tensor[:1]]) if is_batch else tensor

    if shares:
        yield map_tensors(inputs, longer)


def _listed(paths: Sequence[str]) -> str:
    return f"{', '.join(paths[:3])}{f' and {len(paths) - 3} more' if len(paths) > 3 else ''}"
