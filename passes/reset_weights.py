"""Draw the weights of every layer anew, as its class does.

    conv(x; W)   ->   conv(x; W')        W' by the layer's reset_parameters(); batch norms begin without statistics

What is drawn is what the layer's class draws, not what a model's own constructor made of it: a graph knows no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx, nn

from fxprune.gates.base import Gated
from fxprune.ir.copies import copy_module
from fxprune.ir.module_tree import every_module, is_opaque, is_parametrized, opaque_children
from fxprune.ir.node_targets import attribute
from fxprune.ir.nodes import called_module
from fxprune.rewriting.contract import Contract, Log, Pass
from fxprune.rewriting.rewriter import Rewriter

Graphs = Sequence[tuple[str, fx.GraphModule]]


@dataclass(frozen=True)
class ResetWeights(Pass):
    """Draw the weights of every layer anew, as its class does; batch norms begin without statistics.

    They are drawn on the CPU, in the order of the graph: the same ones on every device. Layers that share a weight
    share it afterwards. What is drawn is the result's own: training it leaves the network that it was made of as it
    was. What is frozen, and what has weights but no ``reset_parameters``, stays as it is, and is shared.

    Args:
        seed: of the weights.
    """

    name: ClassVar[str] = "reset-weights"
    after: ClassVar[tuple[str, ...]] = ("remove-channels", "remove-layers", "insert-channel-attention")
    contract: ClassVar[Contract] = Contract.SIGNATURE
    changes_shapes: ClassVar[bool] = False
    seed: int = 0

    def rewrite_all(self, graphs: Graphs, log: Log) -> None:
        """Reset the layers of all graphs; what several of them share, once."""
        stays = _obstacles(graphs)
        drawn = _Drawn()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            for log.region, graph in graphs:
                rewriter = Rewriter(graph, log, self.name)
                for node, held in _holders(graph):
                    if id(held) in stays:
                        log.decline(node, stays[id(held)])
                    elif isinstance(held, nn.Module):
                        drawn.put(node, held, rewriter)
        log.region = ""


class _Drawn:
    """Layers with new weights, by those that they stand for."""

    def __init__(self) -> None:
        self._copies: dict[int, Any] = {}

    def put(self, node: fx.Node, layer: nn.Module, rewriter: Rewriter) -> None:
        """Have ``node`` call ``layer`` with weights that are drawn anew; nothing is told where it has just these."""
        if id(layer) not in self._copies:
            _draw(copy_module(layer, memo=self._copies))
        new = self._copies[id(layer)]
        if not _same_state(layer, new):
            rewriter.log.rewrote(node, f"the weights of its {type(layer).__name__} are drawn anew")
        rewriter.set_layer(node, new)  # in any case: what is trained then must not train the layers of the input


def _draw(layer: nn.Module) -> None:
    """Draw the weights of ``layer`` anew, on the CPU."""
    device = next(iter((*layer.parameters(), *layer.buffers()))).device
    layer.cpu()
    for part in every_module(layer):
        reset: Any = getattr(part, "reset_parameters", None)
        if reset is not None:
            reset()
    layer.to(device)


def _holders(graph_module: fx.GraphModule) -> Iterator[tuple[fx.Node, nn.Module | nn.Parameter]]:
    """Yield what has weights in a graph: layers, each at its calls, and parameters that the graph reads itself."""
    for node in graph_module.graph.nodes:
        layer = called_module(node)
        if layer is not None and any(map(_has_weights, opaque_children(layer))):
            yield node, layer
        elif node.op == "get_attr":
            value = attribute(graph_module, str(node.target))
            if isinstance(value, nn.Parameter) and not _is_in_a_layer(node, graph_module):
                yield node, value


def _has_weights(part: nn.Module) -> bool:
    return bool(part._parameters) or (bool(part._buffers) and hasattr(part, "reset_parameters"))


def _is_in_a_layer(node: fx.Node, graph_module: fx.GraphModule) -> bool:
    """Say whether a parameter is read from a layer that the graph calls: it is drawn with that."""
    calls = {str(one.target) for one in graph_module.graph.find_nodes(op="call_module")}
    atoms = str(node.target).split(".")
    return any(".".join(atoms[:depth]) in calls for depth in range(1, len(atoms)))


def _obstacles(graphs: Graphs) -> dict[int, str]:
    """Return why what has weights stays as it is, by its id; what shares a weight with it does too."""
    held = {id(one): one for _, graph in graphs for _, one in _holders(graph)}
    found = {key: why for key, one in held.items() if (why := _obstacle(one)) is not None}
    fixed = {id(tensor) for key in found for tensor in _parameters(held[key])}
    waiting = held.keys() - found.keys()
    while shared := [key for key in waiting if not fixed.isdisjoint(map(id, _parameters(held[key])))]:
        waiting -= set(shared)
        found |= dict.fromkeys(shared, "it shares a weight with what stays as it is")
        fixed |= {id(tensor) for key in shared for tensor in _parameters(held[key])}
    return found


def _parameters(one: nn.Module | nn.Parameter) -> list[nn.Parameter]:
    return [one] if isinstance(one, nn.Parameter) else list(one.parameters())


def _obstacle(one: nn.Module | nn.Parameter) -> str | None:
    if isinstance(one, nn.Parameter):
        return (
            "is a parameter that the graph reads itself: no class says how it is drawn; freeze-weights makes layers "
            "of functions that it can"
        )
    if is_opaque(one):
        return f"it is opaque: {type(one).__name__} may keep more than its layers do"
    parameters = list(one.parameters())
    if parameters and not any(tensor.requires_grad for tensor in parameters):
        return "is frozen: no training would find weights for it"
    for part in every_module(one):
        if isinstance(part, Gated):
            return "is a gate; fuse it first (fxprune.AFTER_TRAINING)"
        if is_parametrized(part):
            return "its weight is computed from other parameters; apply freeze-weights first"
        if _has_weights(part) and not hasattr(part, "reset_parameters"):
            return f"{type(part).__name__} has weights and no reset_parameters"
    return None


def _same_state(one: nn.Module, other: nn.Module) -> bool:
    states = [module.state_dict() for module in (one, other)]
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())
