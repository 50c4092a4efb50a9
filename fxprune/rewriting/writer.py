"""Writes out what one node computes, in front of it: each new node stands for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx, nn

from fxprune.rewriting.rewriter import Rewriter


class Writer:
    """Writes nodes in front of ``node``, for which they stand."""

    def __init__(self, node: fx.Node, rewriter: Rewriter) -> None:
        self.node = node
        self.rewriter = rewriter
        self._sizes: dict[tuple[fx.Node, int], fx.Node] = {}

    def call(self, function: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Return the call of a function."""
        new = self.rewriter.insert("call_function", function, args, before=self.node, of=[self.node])
        if kwargs:
            new.kwargs = kwargs
        return new

    def method(self, name: str, *args: Any) -> fx.Node:
        """Return the call of a method of the first of ``args``."""
        return self.rewriter.insert("call_method", name, args, before=self.node, of=[self.node])

    def size(self, source: fx.Node, axis: int) -> fx.Node:
        """Return the size of an axis, which is asked for once."""
        if (source, axis) not in self._sizes:
            self._sizes[source, axis] = self.method("size", source, axis)
        return self._sizes[source, axis]

    def layer(self, target: str, layer: nn.Module, source: fx.Node, of: Sequence[fx.Node] = ()) -> fx.Node:
        """Return the call of a new layer at ``target``, which is free; it stands for ``of`` too."""
        put = self.rewriter.put(target, layer)
        return self.rewriter.insert("call_module", put, (source,), before=self.node, of=[*of, self.node])
