"""Write attention layers as linear layers, products and a softmax, whose heads and head sizes can be cut.

nn.MultiheadAttention(q, k, v)   ->   out_proj(softmax(q_proj(q) k_proj(k)' / sqrt(d)) v_proj(v)), head by head

The three projections are layers of their own, so that values may come to be narrower than queries and keys.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from fxprune.facts.module_uses import CallSites
from fxprune.ir.nodes import called_module, graphs_of
from fxprune.rewriting.contract import Contract
from fxprune.rewriting.rewriter import Facts, Rewriter
from fxprune.rewriting.rules import LAYERS, RulePass
from fxprune.structures.attention_calls import AttentionCall, attention_arguments, attention_call
from fxprune.weights.slicing import narrowed


@dataclass(frozen=True)
class SplitAttention(RulePass):
    """Write attention layers as linear layers, products and a softmax, so that heads and their sizes can be cut."""

    name: ClassVar[str] = "split-attention"
    contract: ClassVar[Contract] = Contract.VALUES
    ops: ClassVar[tuple[str, ...]] = LAYERS

    def may_apply(self, graph_module: fx.GraphModule) -> bool:
        """Say whether there is an attention layer."""
        nodes = (node for _, graph in graphs_of(graph_module) for node in graph.graph.nodes)
        return any(isinstance(called_module(node), nn.MultiheadAttention) for node in nodes)

    def check(self, node: fx.Node, facts: Facts) -> AttentionCall | str | None:
        """Find an attention layer of which only the output is read, or what is in the way."""
        return attention_call(node, facts(CallSites))

    def rewrite_at(self, node: fx.Node, found: AttentionCall, rewriter: Rewriter) -> None:
        """Write out what the layer computes; its ``out_proj`` keeps its name."""
        rewriter.log.rewrote(node, "is four linear layers, products and a softmax now", found.reads)
        output = _Writer(node, found, rewriter).write()
        for read in found.reads:
            rewriter.replace(read, output)
        rewriter.erase({node, *found.others})


class _Writer:
    """Writes one attention layer in front of the node that calls it."""

    def __init__(self, node: fx.Node, found: AttentionCall, rewriter: Rewriter) -> None:
        self._node, self._found, self._rewriter = node, found, rewriter
        self._sizes: dict[tuple[fx.Node, int], fx.Node] = {}

    def write(self) -> fx.Node:
        """Return the node that computes the output."""
        module, given = self._found.module, attention_arguments(self._node)
        container = nn.Module().train(module.training)
        self._rewriter.put(str(self._node.target), container)
        layers = projections(module)
        q, k, v = (
            self._heads(given[name], self._layer(f"{name[0]}_proj", layer, given[name]))
            for name, layer in zip(("query", "key", "value"), layers, strict=True)
        )
        options = self._options()
        attended = self._call(functional.scaled_dot_product_attention, q, k, v)
        attended.kwargs = options
        first = self._method("transpose", attended, 1, 2) if module.batch_first else None
        tokens = first or self._method("permute", attended, 2, 0, 1, 3)
        joined = self._method("flatten", tokens, 2)
        return self._layer("out_proj", output_projection(module), joined, *self._found.reads)

    def _options(self) -> dict[str, Any]:
        mask = self._mask()
        options: dict[str, Any] = {} if mask is None else {"attn_mask": mask}
        if self._found.module.dropout:
            flag = self._rewriter.insert("get_attr", "training", before=self._node, of=[self._node])
            options["dropout_p"] = self._call(operator.mul, self._found.module.dropout, flag)
        return {**options, "is_causal": True} if self._found.is_causal else options

    def _mask(self) -> fx.Node | None:
        """Return what is added to the scores, or is True where a key is seen; (batch, heads, queries, keys)."""
        mask, padding = self._found.masks
        is_bool = self._found.masks_are_bool
        if padding is not None:
            padding = self._call(operator.getitem, padding, (slice(None), None, None))
            both = operator.or_ if is_bool else operator.add
            mask = padding if mask is None else self._call(both, mask, padding)
        return self._call(torch.logical_not, mask) if mask is not None and is_bool else mask

    def _heads(self, source: fx.Node, projected: fx.Node) -> fx.Node:
        """Return ``projected`` as (batch, heads, tokens, head size); ``source`` has as many tokens."""
        module = self._found.module
        sizes = (self._size(source, 0), self._size(source, 1), module.num_heads, module.head_dim)
        parts = self._method("reshape", projected, *sizes)
        if module.batch_first:
            return self._method("transpose", parts, 1, 2)
        return self._method("permute", parts, 1, 2, 0, 3)

    def _size(self, source: fx.Node, axis: int) -> fx.Node:
        if (source, axis) not in self._sizes:
            self._sizes[source, axis] = self._method("size", source, axis)
        return self._sizes[source, axis]

    def _layer(self, name: str, layer: nn.Linear, source: fx.Node, *others: fx.Node) -> fx.Node:
        target = self._rewriter.put(f"{self._node.target}.{name}", layer)
        return self._rewriter.insert("call_module", target, (source,), before=self._node, of=[self._node, *others])

    def _call(self, function: Any, *args: Any) -> fx.Node:
        return self._rewriter.insert("call_function", function, args, before=self._node, of=[self._node])

    def _method(self, name: str, *args: Any) -> fx.Node:
        return self._rewriter.insert("call_method", name, args, before=self._node, of=[self._node])


def projections(module: nn.MultiheadAttention) -> list[nn.Linear]:
    """Return the layers that make queries, keys and values, with parameters of their own."""
    biases = _thirds(module.in_proj_bias)
    if module.in_proj_weight is not None:
        weights = _thirds(module.in_proj_weight)
    else:
        weights = [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
    return [linear(weight, bias, module.training) for weight, bias in zip(weights, biases, strict=True)]


def output_projection(module: nn.MultiheadAttention) -> nn.Linear:
    """Return its ``out_proj`` as a plain linear layer with the same parameters."""
    return linear(module.out_proj.weight, module.out_proj.bias, module.training)


def linear(weight: torch.Tensor, bias: torch.Tensor | None, training: bool) -> nn.Linear:
    """Return a linear layer that holds these parameters, ``bias`` or none."""
    rows, columns = weight.shape
    layer = nn.Linear(columns, rows, bias=bias is not None, device="meta")
    layer.weight, layer.bias = weight, bias  # type: ignore[assignment]  # they are parameters, the bias or none
    return layer.train(training)


def _thirds(stacked: nn.Parameter | None) -> list[Any]:
    """Return what of a parameter is for queries, keys and values, each a parameter of its own."""
    if stacked is None:
        return [None] * 3
    thirds = np.eye(3, dtype=bool).repeat(len(stacked) // 3, axis=1)
    return [narrowed(stacked, {0: mask}) for mask in thirds]
