"""Sizes in a graph, before and after channels are gone, and which of them batch and resolution are in."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from fxprune.facts.shapes import META, metadata_in
from fxprune.ops.call import Call
from fxprune.rewriting.cutting.kept import Kept
from fxprune.structures.channels.values import Value

UNKNOWN = object()


class Numbers:
    """What the nodes that compute no tensors compute, once channels are gone."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._after: dict[fx.Node, Any] = {}
        self._free: dict[fx.Node, Any] = {}

    def after(self, node: fx.Node) -> Any:
        """Return the number, or the tuple of numbers, that ``node`` computes then, if nothing rewrites it."""
        if node not in self._after:
            self._after[node] = self._work_out(node)
        return self._after[node]

    def _work_out(self, node: fx.Node) -> Any:
        before = node.meta.get(META)
        read = self._read(node)
        if read is not None:
            return read[1]
        sources = node.all_input_nodes
        if not sources or any(metadata_in(one.meta.get(META)) for one in sources):
            return before
        if all(self.after(one) == one.meta.get(META) for one in sources):
            return before
        if node.op != "call_function":
            return UNKNOWN
        try:
            compute: Any = node.target
            return compute(*fx.map_arg(node.args, self.after), **fx.map_arg(node.kwargs, self.after))
        except Exception:  # whatever Python's operators raise on numbers that never were
            return UNKNOWN

    def _read(self, node: fx.Node) -> tuple[Value, Any] | None:
        """Return the value whose shape ``node`` reads, and what it reads then; None if it reads none."""
        call = Call(node)
        if call.kind != "size" or call.input is None:
            return None
        value = self._kept.walk.value(call.input)
        if not isinstance(value, Value):
            return None
        shape = torch.Size(self._kept.shape(value))
        name = call.op.name if call.op is not None else ""
        if name == "size":
            dim = call.argument("dim")
            return value, shape if dim is None else shape[self._kept.walk.number(dim)]
        if name == "getattr":
            return value, shape if node.args[1] == "shape" else node.meta.get(META)
        if name == "numel":
            return value, math.prod(shape)
        return value, shape[0] if name == "len" else node.meta.get(META)

    def changes(self, node: fx.Node) -> bool:
        """Say whether it computes another number then."""
        before = node.meta.get(META)
        return not metadata_in(before) and before is not None and self.after(node) != before

    def is_free(self, node: fx.Node) -> Any:
        """Say whether batch or resolution is in a number: what reads the size of an axis without channels."""
        if node not in self._free:
            self._free[node] = self._is_free(node)
        return self._free[node]

    def _is_free(self, node: fx.Node) -> Any:
        read = self._read(node)
        if read is not None:
            value, found = read
            free = tuple(not any(axis in one.axes for one in value.layers) for axis in range(len(value.shape)))
            if isinstance(found, torch.Size):
                return free
            dim = Call(node).argument("dim")
            return free[self._kept.walk.number(dim)] if isinstance(dim, (int, fx.Node)) else any(free)
        given = [self.is_free(one) for one in node.all_input_nodes if not metadata_in(one.meta.get(META))]
        if Call(node).op is not None and Call(node).op.name == "getitem" and isinstance(given[0], tuple):  # type: ignore[union-attr]
            index = self._kept.walk.number(node.args[1])
            return given[0][index] if isinstance(index, int) else True
        return any(any(one) if isinstance(one, tuple) else one for one in given)
