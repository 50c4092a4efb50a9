"""Write attention layers as linear layers, products and a softmax, whose heads and head sizes can be cut.

nn.MultiheadAttention(q, k, v)   ->   out_proj(softmax(q_proj(q) k_proj(k)' / sqrt(d)) v_proj(v)), head by head
shifted_window_attention(x)      ->   likewise in each window of x, see :mod:`fxprune.rewriting.windows`

The three projections are layers of their own, so that values may come to be narrower than queries and keys. A query
from which a mask hides all keys gets what F.scaled_dot_product_attention gives it, where the layer may return NaN.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx, nn
from torch.nn import functional

from fxprune.facts.module_uses import CallSites
from fxprune.ir.nodes import graphs_of
from fxprune.ops.call import is_a
from fxprune.rewriting.contract import Contract, Log, Pass
from fxprune.rewriting.rewriter import Facts, Rewriter
from fxprune.rewriting.rules import LAYERS, apply_rules
from fxprune.rewriting.windows import WindowWriter
from fxprune.rewriting.writer import Writer
from fxprune.structures.attention_calls import AttentionCall, attention_arguments, attention_call
from fxprune.structures.window_calls import WindowCall, bias_table, window_call
from fxprune.weights.projections import output_projection, projections


@dataclass(frozen=True)
class SplitAttention(Pass):
    """Write attention layers as linear layers, products and a softmax, so that heads and their sizes can be cut."""

    name: ClassVar[str] = "split-attention"
    contract: ClassVar[Contract] = Contract.VALUES

    def may_apply(self, graph_module: fx.GraphModule) -> bool:
        """Say whether there is any attention."""
        nodes = (node for _, graph in graphs_of(graph_module) for node in graph.graph.nodes)
        return any(is_a(node, "multihead_attention", "shifted_window_attention") for node in nodes)

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        """Write out every attention layer."""
        apply_rules((_SplitLayer(self.name), _SplitWindows(self.name), _LookUpBias(self.name)), graph_module, log)


@dataclass(frozen=True)
class _SplitLayer:
    """Write out an nn.MultiheadAttention of which only the output is read; its ``out_proj`` keeps its name."""

    name: str
    ops = LAYERS

    def check(self, node: fx.Node, facts: Facts) -> AttentionCall | str | None:
        return attention_call(node, facts(CallSites))

    def rewrite_at(self, node: fx.Node, found: AttentionCall, rewriter: Rewriter) -> None:
        rewriter.log.rewrote(node, "is four linear layers, products and a softmax now", found.reads)
        output = _LayerWriter(node, found, rewriter).write()
        for read in found.reads:
            rewriter.replace(read, output)
        rewriter.erase({node, *found.others})


@dataclass(frozen=True)
class _SplitWindows:
    """Write out torchvision's attention in windows."""

    name: str
    ops = ("call_function",)

    def check(self, node: fx.Node, facts: Facts) -> WindowCall | str | None:
        return window_call(node, facts(CallSites))

    def rewrite_at(self, node: fx.Node, found: WindowCall, rewriter: Rewriter) -> None:
        rewriter.log.rewrote(node, "is four linear layers, products and a softmax in windows now")
        rewriter.replace_computation(node, WindowWriter(node, found, rewriter).write())


@dataclass(frozen=True)
class _LookUpBias:
    """Write out how the biases of relative positions are looked up: (1, heads, tokens, tokens)."""

    name: str
    ops = ("call_function",)

    def check(self, node: fx.Node, facts: Facts) -> tuple[fx.Node, fx.Node, int] | None:
        return bias_table(node)

    def rewrite_at(self, node: fx.Node, found: tuple[fx.Node, fx.Node, int], rewriter: Rewriter) -> None:
        rewriter.log.rewrote(node, "is written out")
        table, index, tokens = found
        writer = Writer(node, rewriter)
        rows = writer.method("reshape", writer.call(operator.getitem, table, index), tokens, tokens, -1)
        rewriter.replace(node, writer.method("unsqueeze", writer.method("permute", rows, 2, 0, 1), 0))


class _LayerWriter(Writer):
    """Writes one attention layer in front of the node that calls it."""

    def __init__(self, node: fx.Node, found: AttentionCall, rewriter: Rewriter) -> None:
        super().__init__(node, rewriter)
        self._found = found

    def write(self) -> fx.Node:
        """Return the node that computes the output."""
        module, path = self._found.module, str(self.node.target)
        given = attention_arguments(self.node)
        self.rewriter.put(path, nn.Module().train(module.training))  # which holds the new layers
        q, k, v = (
            self._heads(given[name], self.layer(f"{path}.{name[0]}_proj", layer, given[name]))
            for name, layer in zip(("query", "key", "value"), projections(module), strict=True)
        )
        options = self._options()
        heads = self.call(functional.scaled_dot_product_attention, q, k, v, **options)
        first = module.batch_first
        tokens = self.method("transpose", heads, 1, 2) if first else self.method("permute", heads, 2, 0, 1, 3)
        joined = self.method("flatten", tokens, 2)
        return self.layer(f"{path}.out_proj", output_projection(module), joined, self._found.reads)

    def _options(self) -> dict[str, Any]:
        mask, dropout = self._mask(), self._found.module.dropout
        options: dict[str, Any] = {} if mask is None else {"attn_mask": mask}
        if dropout:
            flag = self.rewriter.insert("get_attr", "training", before=self.node, of=[self.node])
            options["dropout_p"] = self.call(operator.mul, dropout, flag)
        return {**options, "is_causal": True} if self._found.is_causal else options

    def _mask(self) -> fx.Node | None:
        """Return what is added to the scores, or is True where a key is seen; (batch, heads, queries, keys)."""
        mask, padding = self._found.masks
        is_bool = self._found.masks_are_bool
        if padding is not None:
            padding = self.call(operator.getitem, padding, (slice(None), None, None))
            both = operator.or_ if is_bool else operator.add
            mask = padding if mask is None else self.call(both, mask, padding)
        return self.call(torch.logical_not, mask) if mask is not None and is_bool else mask

    def _heads(self, source: fx.Node, projected: fx.Node) -> fx.Node:
        """Return ``projected`` as (batch, heads, tokens, head size); ``source`` has as many tokens."""
        module = self._found.module
        sizes = (self.size(source, 0), self.size(source, 1), module.num_heads, module.head_dim)
        parts = self.method("reshape", projected, *sizes)
        if module.batch_first:
            return self.method("transpose", parts, 1, 2)
        return self.method("permute", parts, 1, 2, 0, 3)
