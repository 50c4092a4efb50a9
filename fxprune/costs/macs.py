"""What a graph costs: multiply-accumulates (MACs) and parameters, a node at a time.

MACs are counted for convolutions, linear and recurrent layers, attention and matrix products, as the field does;
norms, activations, pooling and element-wise arithmetic count as zero. What has neither a rule (here, and in
:mod:`fxprune.costs.mac_rules`) nor a place among the free ops (:mod:`fxprune.ops.free_ops`) is unknown, never zero:
totals are of what is known. One MAC is two FLOPs. Counts are for the traced example inputs, divided by their batch
size where all of them share a first dimension.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Collection, Sequence
from fractions import Fraction

from torch import fx, nn

from fxprune.costs.mac_rules import UnknownMacs, macs_of_call
from fxprune.errors import FxpruneWarning
from fxprune.facts.shapes import is_size, require_shapes, shape
from fxprune.gates.base import Gated
from fxprune.gates.channel_attention import ChannelAttention
from fxprune.ir.by_mode import MODE
from fxprune.ir.module_tree import CALLS, PER_SAMPLE, every_module, is_opaque, opaque_children, regions_in
from fxprune.ir.node_targets import attribute
from fxprune.ir.nodes import called_module, graphs_of, place
from fxprune.ops.call import Call
from fxprune.ops.free_ops import is_free, is_free_layer, op_name
from fxprune.ops.operators import is_torchs_own

_NAMED = 5  # so many unknown ops are named
_WARNED_OF: weakref.WeakSet[fx.GraphModule] = weakref.WeakSet()


def node_macs(node: fx.Node) -> int:
    """Return the MACs of one node for the traced shapes, the whole batch; 0 if it multiplies nothing in eval mode.

    0 too if nobody knows them, see :func:`unknown_macs`; of an opaque module those of its regions.
    """
    try:
        return _macs(node)
    except UnknownMacs:
        return 0


def has_known_macs(node: fx.Node) -> bool:
    """Say whether the MACs of ``node`` are those that :func:`node_macs` returns, and no more."""
    try:
        _macs(node)
    except UnknownMacs:
        return False
    return node.meta.get(MODE) == "train" or not (is_opaque(called_module(node)) and around_regions(node))


def _macs(node: fx.Node) -> int:
    """Return the MACs of one node; raises UnknownMacs."""
    if node.meta.get(MODE) == "train" or node.op not in ("call_module", "call_function", "call_method"):
        return 0
    call = Call(node)
    if call.op is None:
        return _without_row(node, call.module)
    return macs_of_call(call, call.op)


def _without_row(node: fx.Node, module: nn.Module | None) -> int:
    if isinstance(module, Gated):
        return sum(_of_part(node, part) for part in module._modules.values() if part is not None)
    if isinstance(module, ChannelAttention):
        return module.macs * (shape(node) or (0,))[0]
    if module is not None and is_opaque(module):
        return sum(int(_all_nodes(region) * region.meta[CALLS]) for _, region in regions_in(module))
    is_known_free = is_free_layer(module) if module is not None else is_free(node.target)
    is_own = module is None and (node.op == "call_method" or is_torchs_own(node.target))
    if is_known_free or (is_own and is_size(node)):
        return 0
    raise UnknownMacs


def _of_part(node: fx.Node, part: nn.Module) -> int:
    """Return the MACs of a layer inside the gate that ``node`` calls."""
    call = Call(node, part)
    return 0 if call.op is None else macs_of_call(call, call.op)


def _all_nodes(graph_module: fx.GraphModule) -> int:
    return sum(node_macs(node) for node in graph_module.graph.nodes)


def total_macs(graph_module: fx.GraphModule) -> int:
    """Return the MACs of the whole graph for one sample, regions in opaque modules with all their calls included.

    They are what is known: there are more if :func:`unknown_macs` finds any node.
    """
    require_shapes(graph_module)
    return int(_all_nodes(graph_module) // batch_size(graph_module))


def unknown_macs(graph_module: fx.GraphModule) -> list[fx.Node]:
    """Return the nodes, those of regions too, whose MACs nobody knows: :func:`total_macs` counts none for them.

    They call foreign functions, opaque modules with parameters outside of regions, or ops of torch's without a rule.
    """
    require_shapes(graph_module)
    return [node for _, graph in graphs_of(graph_module) for node in graph.graph.nodes if not has_known_macs(node)]


def unknown_places(graph_module: fx.GraphModule) -> tuple[str, ...]:
    """Return what :func:`unknown_macs` finds, for a person: where each is, and what it calls."""
    return tuple(f"{place(node)}: {_called(node)}" for node in unknown_macs(graph_module))


def _called(node: fx.Node) -> str:
    return op_name(node.target) if node.op != "call_module" else type(called_module(node)).__name__


def tell_unknown(places: Sequence[str]) -> str:
    """Return what a total of MACs leaves out, in one line: "2 ops unknown: lstm: LSTM, fft_fft: fft_fft"."""
    more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
    return f"{len(places)} op{'s' * (len(places) != 1)} unknown: {', '.join(places[:_NAMED])}{more}"


def at_least(macs: str, unknown: Collection[str]) -> str:
    """Return a total of MACs as it is told where there are ``unknown`` ones."""
    return f"at least {macs}" if unknown else macs


def warn_of_unknown_macs(graph_module: fx.GraphModule, *, stacklevel: int) -> None:
    """Warn, once for a graph, that a target is met by the MACs that are known, if there are others."""
    places = unknown_places(graph_module)
    if places and graph_module not in _WARNED_OF:
        _WARNED_OF.add(graph_module)
        message = f"a target of MACs counts those that are known; {tell_unknown(places)}"
        warnings.warn(message, FxpruneWarning, stacklevel=stacklevel + 1)


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
    layers = (m for m in every_module(module) if not isinstance(m, Gated))
    return {id(p): p for m in layers for p in m._parameters.values() if p is not None}


def around_regions(node: fx.Node) -> dict[int, nn.Parameter]:
    """Return the parameters that ``node`` holds, by id, those in the regions of an opaque module left out."""
    module = called_module(node)
    if module is None or not is_opaque(module):
        return _node_parameters(node)
    return {id(p): p for part in opaque_children(module) for p in part.parameters(recurse=False)}
