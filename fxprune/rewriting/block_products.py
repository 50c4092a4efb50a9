"""A linear layer of blocks, written out in one of three forms.

linears     cat([W_b x_b + b_b for b], -1)                        k layers; blocks of any sizes, inputs of any rank
conv        conv1d(x[..., None], W, b, groups=k)[..., 0]          one layer; equal blocks, inputs (N, in)
bmm         baddbmm(b, x as (k, N, in / k), W) as (N, out)        one product; likewise
"""

from __future__ import annotations

import operator
from typing import Literal

import torch
from torch import fx, nn

from fxprune.facts.shapes import shape
from fxprune.ir.weight_blocks import WeightBlocks
from fxprune.rewriting.rewriter import Rewriter
from fxprune.rewriting.writer import Writer
from fxprune.weights.masking import Places, grouped, part, stacked

Form = Literal["linears", "conv", "bmm"]
FORMS: tuple[Form, ...] = ("linears", "conv", "bmm")


def takes_form(form: Form, source: fx.Node, blocks: WeightBlocks) -> bool:
    """Say whether a layer with these blocks, which reads ``source``, can be written so."""
    return form == "linears" or (len(set(blocks.sizes)) == 1 and len(shape(source) or ()) == 2)


class BlockWriter(Writer):
    """Writes the product of a layer's blocks in front of the node that calls it.

    Args:
        node: the call.
        layer: what it calls, with the rows and columns of one block after the other.
        places: the rows and columns of each.
    """

    def __init__(self, node: fx.Node, layer: nn.Linear, places: Places, rewriter: Rewriter) -> None:
        super().__init__(node, rewriter)
        self._layer, self._places = layer, places
        self._path = str(node.target)

    def write(self, form: Form, source: fx.Node) -> fx.Node:
        """Return the node that computes what the layer does of ``source``, with its features in the blocks' order."""
        writers = {"linears": self._linears, "conv": self._conv, "bmm": self._bmm}
        return writers[form](source)

    def select(self, source: fx.Node, order: torch.Tensor, name: str) -> fx.Node:
        """Return ``source`` with its features in another order."""
        index = order.to(self._layer.weight.device)
        read = self.rewriter.insert(
            "get_attr", self.rewriter.put(f"{self._path}_{name}", index), before=self.node, of=[self.node]
        )
        return self.call(torch.index_select, source, -1, read)

    def _linears(self, source: fx.Node) -> fx.Node:
        self.rewriter.put(self._path, nn.Module().train(self._layer.training))  # which holds the new layers
        sizes = [len(columns) for _, columns in self._places]
        parts = self.call(torch.split, source, sizes, -1)
        found = []
        for number, places in enumerate(self._places):
            read = self.call(operator.getitem, parts, number)
            found.append(self.layer(f"{self._path}.{number}", part(self._layer, *places), read))
        return self.call(torch.cat, found, -1)

    def _conv(self, source: fx.Node) -> fx.Node:
        column = self.method("unsqueeze", source, -1)
        return self.method("squeeze", self.layer(self._path, grouped(self._layer, self._places), column), -1)

    def _bmm(self, source: fx.Node) -> fx.Node:
        self.rewriter.put(self._path, stacked(self._layer, self._places))
        weight, bias = (
            self.rewriter.insert("get_attr", f"{self._path}.{name}", before=self.node, of=[self.node])
            for name in ("weight", "bias")
        )
        read = self.method("transpose", self.method("unflatten", source, -1, (len(self._places), -1)), 0, 1)
        product = self.call(torch.baddbmm, bias, read, weight)
        return self.method("flatten", self.method("transpose", product, 0, 1), 1)
