"""Which blocks were chosen, as a file: to mask another process's graph alike, and to go on after a kill.

{
  "fxprune_partition": 1,
  "layers": {"classifier.0": {"rows": [0, 3, 1, ...], "columns": [2, 2, 0, ...]}, ...}
}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import fx

from fxprune.errors import LoadError
from fxprune.files import read_json_of, write_text
from fxprune.gates.base import ungated
from fxprune.ir.arguments import option_kinds, require_arguments, require_kind
from fxprune.ir.nodes import called_modules, graphs_of
from fxprune.ir.weight_blocks import WeightBlocks, blocks_of

_FORMAT = "fxprune_partition"
VERSION = 1


@dataclass(frozen=True)
class PartitionPlan:
    """The blocks of linear layers, by path; those of regions begin with that of the region."""

    layers: Mapping[str, WeightBlocks]

    def __post_init__(self) -> None:
        for name, hint in option_kinds(PartitionPlan).items():
            require_kind(getattr(self, name), hint, "PartitionPlan", name)

    @classmethod
    def of(cls, graph_module: fx.GraphModule) -> PartitionPlan:
        """Return the blocks that :class:`fxprune.passes.MaskPartition` has noted in a graph."""
        found = {}
        for region, graph in graphs_of(graph_module):
            for node, module in called_modules(graph).items():
                weight = ungated(module)._parameters.get("weight")
                blocks = None if weight is None else blocks_of(node, weight)
                if blocks is not None:
                    found[f"{region}.{node.target}" if region else str(node.target)] = blocks
        return cls(found)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        layers = {
            path: {"rows": one.rows.tolist(), "columns": one.columns.tolist()} for path, one in self.layers.items()
        }
        return {_FORMAT: VERSION, "layers": layers}

    def save(self, path: str | Path) -> None:
        """Write it, atomically; raises LoadError if it cannot be written."""
        require_arguments(PartitionPlan.save, locals())
        write_text(Path(path), json.dumps(self.to_json()))

    @classmethod
    def load(cls, path: str | Path) -> PartitionPlan:
        """Return what was saved; raises LoadError for a file that is no such plan."""
        require_arguments(PartitionPlan.load, locals())
        path = Path(path)
        data = read_json_of(path, "plan of a partition")
        layers = data.get("layers") if isinstance(data, dict) and data.get(_FORMAT) == VERSION else None
        if not isinstance(layers, dict):
            raise LoadError(f"{path} is no plan of a partition, or one of another version of fxprune")
        return cls({str(name): _blocks(path, str(name), one) for name, one in layers.items()})


def is_partition_plan(path: Path) -> bool:
    """Say whether a JSON file is the plan of a partition; raises LoadError if it cannot be read."""
    data = read_json_of(path, "plan")
    return isinstance(data, dict) and _FORMAT in data


def _blocks(path: Path, name: str, data: Any) -> WeightBlocks:
    sides = [data.get(side) for side in ("rows", "columns")] if isinstance(data, dict) else []
    if len(sides) != 2 or not all(map(_is_assignment, sides)):
        raise LoadError(f"{path}: the rows and columns of {name} are no numbers of blocks")
    rows, columns = (np.array(one, dtype=np.int64) for one in sides)
    return WeightBlocks(rows, columns)


def _is_assignment(side: Any) -> bool:
    return isinstance(side, list) and bool(side) and all(type(one) is int and 0 <= one < 1 << 16 for one in side)
