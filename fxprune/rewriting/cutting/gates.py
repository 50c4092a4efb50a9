"""The gates of channels once some of these are gone: fewer scales, and other places of them at each column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from fxprune.gates.channel_gate import ChannelScale, ScaledAxis, ScaledColumns
from fxprune.ir.nodes import called_module
from fxprune.ops.call import Call
from fxprune.rewriting.cutting.kept import Kept
from fxprune.rewriting.cutting.layers import narrower
from fxprune.structures.channels.tensors import Vectors

Reading = ScaledColumns | ScaledAxis


class NarrowerGates:
    """What is left of all gates of channels in a graph: new modules, by the nodes that call them."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        graph_module = kept.walk.graph_module
        modules = {node: called_module(node) for node in graph_module.graph.find_nodes(op="call_module")}
        self._scales = {node: one for node, one in modules.items() if isinstance(one, ChannelScale)}
        self.readers: dict[fx.Node, Reading] = {n: one for n, one in modules.items() if isinstance(one, Reading)}
        before, after = self._read(cut=False), self._read(cut=True)
        self._left = {node: after[node] | ~before[node] for node in self._scales}

    def _read(self, *, cut: bool) -> dict[fx.Node, NDArray[np.bool_]]:
        """Return which scales a column is multiplied with: any, or one that is left by the ``cut``."""
        found = {node: np.zeros(one.width, dtype=bool) for node, one in self._scales.items()}
        for node, module in self.readers.items():
            mask = self._kept.of_vectors(self._vectors(node, module)) if cut else None
            index, first = module.index.cpu().numpy(), 1
            places = index if mask is None else index[:, mask]
            for read in node.args[1:]:
                mine = places - first
                found[read][mine[(mine >= 0) & (mine < len(found[read]))]] = True
                first += len(found[read])
        return found

    def _vectors(self, node: fx.Node, module: Reading) -> Vectors:
        if isinstance(module, ScaledColumns):
            weight: Any = module.layer.weight
            return self._kept.walk.records.of(weight).axes[module.axis]
        return self._kept.walk.along(self._kept.walk.value(node), module.axis)

    def scales(self) -> dict[fx.Node, ChannelScale | None]:
        """Return the gates that lose something; None in the place of one of which nothing is left."""
        found: dict[fx.Node, ChannelScale | None] = {}
        for node, left in self._left.items():
            if not left.all():
                places = torch.from_numpy(np.flatnonzero(left)).to(self._scales[node].gate.device)
                found[node] = self._scales[node].with_classes(places) if left.any() else None
        return found

    def reader(self, node: fx.Node, tensors: Mapping[int, torch.Tensor]) -> nn.Module | None:
        """Return what multiplies at ``node`` then; None if it stays as it is. Without any scales it is the layer."""
        module = self.readers[node]
        reads = [one for one in node.args[1:] if isinstance(one, fx.Node)]
        layer = narrower(Call(node, module.layer), self._kept, tensors) if isinstance(module, ScaledColumns) else None
        columns = self._index(node, module, reads)
        if layer is None and columns.shape == module.index.shape and all(self._left[one].all() for one in reads):
            return None
        index = torch.from_numpy(columns).to(module.index.device)
        has_scales = any(self._left[one].any() for one in reads)
        if isinstance(module, ScaledAxis):
            return ScaledAxis(index, module.axis) if has_scales else nn.Identity()
        plain = layer or module.layer
        if not has_scales:
            return plain
        made = ScaledColumns(plain, index, module.axis)
        made.training = module.training
        return made

    def _index(self, node: fx.Node, module: Reading, reads: list[fx.Node]) -> NDArray[np.int64]:
        left = np.concatenate([[True], *(self._left[one] for one in reads)])
        places = np.where(left, np.cumsum(left) - 1, 0)
        mask = self._kept.of_vectors(self._vectors(node, module))
        index = module.index.cpu().numpy()
        found: NDArray[np.int64] = places[index if mask is None else index[:, mask]].astype(np.int64)
        return found

    def reads(self, node: fx.Node) -> tuple[Any, ...]:
        """Return the arguments of ``node`` without the scales of which nothing is left."""
        return (node.args[0], *(one for one in node.args[1:] if self._left[one].any()))
