"""Writes attention in windows as pads, reshapes, linear layers, products and a softmax, for images of any size.

x (batch, height, width, channels)   ->   padded to whole windows, rolled, (batch, windows, tokens, channels)
                                     ->   attention in each window   ->   rolled back, cut to height and width

Rolled, the last windows hold tokens of both ends of the image: they see those of their own end alone, by -100 where a
border runs between two, at height - shift or width - shift. Torchvision's other border, at height - window, is one
between windows, and parts none.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from fxprune.ir.node_targets import free_target
from fxprune.ops.call import Call
from fxprune.rewriting.rewriter import Rewriter
from fxprune.rewriting.writer import Writer
from fxprune.structures.window_calls import WindowCall
from fxprune.weights.projections import linear, thirds


class WindowWriter(Writer):
    """Writes one attention in windows in front of its call."""

    def __init__(self, node: fx.Node, found: WindowCall, rewriter: Rewriter) -> None:
        super().__init__(node, rewriter)
        self._found = found
        self._call = Call(node)
        self._image = self._call.operand(0)

    def write(self) -> fx.Node:
        """Return the node that computes the output."""
        padded = self._padded()
        shifts = self._shifts(padded)
        windows = self._parted(self._rolled(padded, [self.call(operator.neg, one) for one in shifts]))
        tokens = self._tokens(windows)
        attended = self._attended(tokens, self._mask(padded, windows, shifts))
        merged = self._rolled(self._merged(attended, windows), shifts)
        own = (slice(None), *(slice(None, self.size(self._image, axis)) for axis in (1, 2)))
        return self.method("contiguous", self.call(operator.getitem, merged, own))

    def _padded(self) -> fx.Node:
        """Return the image with rows and columns of zeros behind it, up to whole windows."""
        missing = [
            self.call(operator.mod, self.call(operator.neg, self.size(self._image, axis)), length)
            for axis, length in zip((1, 2), self._found.window, strict=True)
        ]
        return self.call(functional.pad, self._image, (0, 0, 0, missing[1], 0, missing[0]))

    def _shifts(self, padded: fx.Node) -> list[Any]:
        """Return by how much rows and columns are rolled: not at all where one window spans them."""
        if not self._found.is_shifted:
            return []
        pairs = zip((1, 2), self._found.window, self._found.shift, strict=True)
        return [
            self.call(operator.mul, self.call(operator.gt, self.size(padded, axis), length), shift)
            for axis, length, shift in pairs
        ]

    def _rolled(self, image: fx.Node, shifts: list[Any]) -> fx.Node:
        return self.call(torch.roll, image, tuple(shifts), (1, 2)) if shifts else image

    def _parted(self, image: fx.Node) -> fx.Node:
        """Return an image as (batch, rows of windows, height, windows of a row, width, channels)."""
        (height, width), last = self._found.window, self.size(self._image, 3)
        rows, columns = (
            self.call(operator.floordiv, self.size(image, axis), length) for axis, length in ((1, height), (2, width))
        )
        return self.method("reshape", image, self.size(self._image, 0), rows, height, columns, width, last)

    def _tokens(self, windows: fx.Node) -> fx.Node:
        """Return (batch, windows, tokens of a window, channels)."""
        side_by_side = self.method("permute", windows, 0, 1, 3, 2, 4, 5)
        return self.method("flatten", self.method("flatten", side_by_side, 3, 4), 1, 2)

    def _merged(self, tokens: fx.Node, windows: fx.Node) -> fx.Node:
        """Return the image that the windows are parts of."""
        height, width = self._found.window
        counts = (self.size(windows, 1), self.size(windows, 3))
        parts = self.method(
            "reshape", tokens, self.size(self._image, 0), *counts, height, width, self.size(self._image, 3)
        )
        in_order = self.method("permute", parts, 0, 1, 3, 2, 4, 5)
        return self.method("flatten", self.method("flatten", in_order, 3, 4), 1, 2)

    def _attended(self, tokens: fx.Node, mask: fx.Node) -> fx.Node:
        """Return what tokens take from those of their window, (batch, windows, tokens of a window, channels)."""
        q, k, v = self._projected(tokens)
        options: dict[str, Any] = {"attn_mask": mask}
        scale = self._call.argument("logit_scale")
        if scale is not None:  # cosines, times a scale a head: at most 100
            factor = self.method("exp", self.call(torch.clamp, scale, None, math.log(100.0)))
            q = self.call(operator.mul, self.call(functional.normalize, q, 2.0, -1), factor)
            k = self.call(functional.normalize, k, 2.0, -1)
            options["scale"] = 1.0
        of_scores, of_output = self._found.dropouts
        flag = self._call.argument("training")
        if of_scores:
            options["dropout_p"] = self.call(operator.mul, of_scores, flag)
        heads = self.call(functional.scaled_dot_product_attention, q, k, v, **options)
        joined = self.method("flatten", self.method("transpose", heads, 2, 3), 3)
        weights, training = self._found.weights, self.rewriter.graph_module.training
        layer = linear(weights["proj_weight"], weights.get("proj_bias"), training)
        out = self.layer(self._output_target(), layer, joined, self._reads("proj"))
        return self.call(functional.dropout, out, of_output, flag) if of_output else out

    def _projected(self, tokens: fx.Node) -> list[fx.Node]:
        """Return queries, keys and values, each by a layer of its own."""
        stacked = self._found.weights
        biases = thirds(stacked.get("qkv_bias"))
        if self._call.argument("logit_scale") is not None:
            biases[1] = None  # V2 takes that of the keys for 0
        parts = zip("qkv", thirds(stacked["qkv_weight"]), biases, strict=True)
        training, read = self.rewriter.graph_module.training, self._reads("qkv")
        return [
            self._heads(self.layer(self._target(f"{name}_proj"), linear(weight, bias, training), tokens, read))
            for name, weight, bias in parts
        ]

    def _heads(self, projected: fx.Node) -> fx.Node:
        """Return (batch, windows, heads, tokens of a window, head size)."""
        sizes = [self.size(projected, axis) for axis in (0, 1)]
        rows = len(self._found.weights["qkv_weight"]) // 3
        counts = (math.prod(self._found.window), self._found.heads, rows // self._found.heads)
        return self.method("transpose", self.method("reshape", projected, *sizes, *counts), 2, 3)

    def _mask(self, padded: fx.Node, windows: fx.Node, shifts: list[Any]) -> fx.Node:
        """Return what is added to the scores, (windows or 1, heads or 1, tokens, tokens)."""
        bias = self._call.argument("relative_position_bias")
        if not shifts:
            return bias  # type: ignore[no-any-return]
        device, dtype = (self.call(getattr, self._image, name) for name in ("device", "dtype"))
        ends = []
        for axis, shift in zip((1, 2), shifts, strict=True):
            places = self.call(torch.arange, self.size(padded, axis), device=device)
            ends.append(self.call(operator.ge, places, self.call(operator.sub, self.size(padded, axis), shift)))
        below = self.call(operator.mul, self.call(operator.getitem, ends[0], (slice(None), None)), 2)
        height, width = self._found.window
        sizes = (self.size(windows, 1), height, self.size(windows, 3), width)
        parts = self.method("reshape", self.call(operator.add, below, ends[1]), *sizes)
        flat = self.method("flatten", self.method("transpose", parts, 1, 2), 2, 3)
        end = self.method("flatten", flat, 0, 1)  # which ends of the image each token of each window is of
        differ = self.call(operator.ne, self.method("unsqueeze", end, 1), self.method("unsqueeze", end, 2))
        apart = self.call(operator.mul, self.method("to", differ, dtype), -100)
        return self.call(operator.add, bias, self.method("unsqueeze", apart, 1))

    def _reads(self, name: str) -> list[fx.Node]:
        reads = (self._call.argument(f"{name}_{kind}") for kind in ("weight", "bias"))
        return [one for one in reads if one is not None]

    def _target(self, name: str) -> str:
        """Return a free name beside the stacked weights."""
        owner = str(self._call.argument("qkv_weight").target).rpartition(".")[0].rpartition(".")[0]
        return free_target(self.rewriter.graph_module, f"{owner}.{name}" if owner else name)

    def _output_target(self) -> str:
        """Return the name of the layer whose weights are read behind the attention, if it holds nothing else."""
        reads = self._reads("proj")
        owners = {str(one.target).rpartition(".")[0] for one in reads}
        path = owners.pop() if len(owners) == 1 else ""
        nodes = self.rewriter.graph_module.graph.nodes
        used = [one for one in nodes if one.op in ("get_attr", "call_module") and one not in reads]
        taken = any(f"{one.target}.".startswith(f"{path}.") for one in used)
        return path if path and not taken else self._target("out_proj")
