"""The tiers of tracing, each tried where the one before fails.

1. symbolic tracing: no value is known.
2. tracing with the example's values at hand: branches on sizes, dtypes and devices take the example's way.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx, nn

from fxprune.errors import TraceError
from fxprune.tracing.attempt import attempt
from fxprune.tracing.check import require_same_function
from fxprune.tracing.inputs import Call, call_of_graph
from fxprune.tracing.symbolic import SymbolicTracer
from fxprune.tracing.values import ValueTracer


def trace_by_tiers(
    own: nn.Module, call: Call, flags: Mapping[str, bool], expected: list[list[torch.Tensor]] | None
) -> fx.GraphModule:
    """Return the graph of ``own`` by the first tier that gives one and, where ``expected`` is given, that returns it.

    Raises TraceError, that of the last tier, if none does.
    """

    def checked(graph_module: fx.GraphModule) -> fx.GraphModule:
        if expected is not None:
            require_same_function(own, graph_module, call_of_graph(graph_module, call), expected)
        return graph_module

    try:
        return checked(attempt(own, call, flags, lambda: SymbolicTracer(call)))
    except TraceError:
        if isinstance(own, fx.GraphModule):
            raise
    return checked(attempt(own, call, flags, lambda: ValueTracer(call)))
