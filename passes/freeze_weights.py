"""Evaluate weights that are computed from parameters and buffers alone, and make plain layers of their readers.

conv2d(x, standardize(w), b)               ->   nn.Conv2d with weight standardize(w)
nn.Conv2d with a parametrized weight f(w)  ->   nn.Conv2d with weight f(w)            (inside a ResConv too)
F.linear(x, w, b)                          ->   nn.Linear
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import fx, nn

from fxprune.facts.constants import Constants
from fxprune.facts.conv_calls import ConvCall, conv_call
from fxprune.facts.linear_calls import linear_call
from fxprune.facts.module_uses import CallSites
from fxprune.gates.base import ungated
from fxprune.ir.module_tree import every_module
from fxprune.ir.node_targets import attribute, free_target, module_target
from fxprune.ir.nodes import called_module, graphs_of
from fxprune.ops.call import Call, is_a, is_conv
from fxprune.rewriting.contract import Contract, Log, Pass
from fxprune.rewriting.rewriter import Facts, Rewriter
from fxprune.rewriting.rules import CALLS, LAYERS, apply_rules
from fxprune.structures.computed_weights import computed_weights, frozen_layer, frozen_value


@dataclass(frozen=True)
class FreezeWeights(Pass):
    """Evaluate weights that are computed from parameters alone, so that convs and linear layers become plain."""

    name: ClassVar[str] = "freeze-weights"
    # which reads weights that this makes plain
    after: ClassVar[tuple[str, ...]] = ("fuse-branch-scale",)
    contract: ClassVar[Contract] = Contract.VALUES
    changes_shapes: ClassVar[bool] = False

    def may_apply(self, graph_module: fx.GraphModule) -> bool:
        """Say whether any weight may be computed, or read by a function."""
        return any(map(_may_freeze, (node for _, graph in graphs_of(graph_module) for node in graph.graph.nodes)))

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        """Freeze every such weight."""
        apply_rules((_FreezeLayer(self.name), _FreezeValue(self.name)), graph_module, log)
        if log.rewritten:
            log.warn("weights that were computed from others are plain now; training goes on with them directly")
        apply_rules((_MakeLayer(self.name),), graph_module, log)


@dataclass(eq=False)
class _FreezeLayer:
    """Replace a module that computes its weights, wherever it is called."""

    name: str
    ops = LAYERS
    plain: dict[nn.Module, tuple[str, nn.Module] | str] = field(default_factory=dict)

    def check(self, node: fx.Node, facts: Facts) -> tuple[str, nn.Module] | str | None:
        module = called_module(node)
        names = [] if module is None else computed_weights(ungated(module))
        if module is None or not names:
            return None
        if module not in self.plain:
            made = frozen_layer(module)
            self.plain[module] = made if isinstance(made, str) else (" and ".join(names), made)
        return self.plain[module]

    def rewrite_at(self, node: fx.Node, found: tuple[str, nn.Module], rewriter: Rewriter) -> None:
        names, layer = found
        rewriter.log.rewrote(node, f"its {names} is plain now")
        rewriter.set_layer(node, layer)


class _Value(NamedTuple):
    """The value of a constant, the reads that it is computed from, and who reads it that is no constant."""

    tensor: torch.Tensor
    leaves: list[fx.Node]
    readers: frozenset[fx.Node]


@dataclass(frozen=True)
class _FreezeValue:
    """Replace a tensor that the graph computes from parameters, and something else reads, by its value."""

    name: str
    ops = CALLS

    def check(self, node: fx.Node, facts: Facts) -> _Value | None:
        if not node.users:
            return None
        constants = facts(Constants)
        if constants.obstacle(node) is not None or not isinstance(constants.value(node), torch.Tensor):
            return None
        readers = frozenset(user for user in node.users if constants.obstacle(user) is not None)
        leaves = constants.leaves(node)
        return _Value(frozen_value(node, constants), leaves, readers) if readers and leaves else None

    def rewrite_at(self, node: fx.Node, found: _Value, rewriter: Rewriter) -> None:
        tensor, leaves, readers = found
        rewriter.log.rewrote(node, f"is computed from {', '.join(str(leaf.target) for leaf in leaves)} alone")
        target = rewriter.put(free_target(rewriter.graph_module, str(leaves[0].target)), tensor)
        frozen = rewriter.insert("get_attr", target, before=node, of=[*leaves, node])
        rewriter.replace_computation(node, frozen, readers)


@dataclass(frozen=True)
class _MakeLayer:
    """Replace a function's call with weights of its own by a layer."""

    name: str
    ops = ("call_function",)

    def check(self, node: fx.Node, facts: Facts) -> nn.Module | str | None:
        if is_conv(node):
            call = conv_call(node, facts(CallSites), facts(Constants))
            return call.module if isinstance(call, ConvCall) else call
        return linear_call(node, facts(CallSites)) if _is_linear(node) else None

    def rewrite_at(self, node: fx.Node, found: nn.Module, rewriter: Rewriter) -> None:
        source = Call(node).input
        assert source is not None
        target = module_target(rewriter.graph_module, node, source)
        rewriter.log.rewrote(node, f"is now the layer {target}")
        new = rewriter.insert("call_module", rewriter.put(target, found), (source,), before=node, of=[node])
        rewriter.replace_computation(node, new)


def _may_freeze(node: fx.Node) -> bool:
    module = called_module(node)
    if module is not None:
        return any(map(computed_weights, every_module(module) if module._modules else (module,)))
    if node.op == "get_attr" and node.graph.owning_module is not None:
        return isinstance(attribute(node.graph.owning_module, str(node.target)), torch.Tensor)
    return _is_linear(node) or (node.op == "call_function" and is_conv(node))


def _is_linear(node: fx.Node) -> bool:
    """Say whether ``node`` calls F.linear."""
    return node.op == "call_function" and is_a(node, "linear")
