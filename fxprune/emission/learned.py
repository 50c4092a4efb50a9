"""Numbers that training found: they are in the weights file, as buffers, and not in the source.

    x * 4.3397   (a scale that no layer could take)   ->   x * self.scale

The graph keeps the number. A buffer holds it in the dtype that it is rounded to anyway, where it multiplies.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

import torch
from torch import fx

from fxprune.facts.shapes import tensor_meta
from fxprune.ir.nodes import PASSES
from fxprune.ops.call import Call

_ROUNDED = {torch.float32: torch.float32, torch.float64: torch.float64}


class Learned(NamedTuple):
    """The number at ``place`` of the arguments of a node, a buffer at ``path``."""

    path: str
    place: int
    value: torch.Tensor


def learned(nodes: Iterable[fx.Node], homes: Callable[[fx.Node], str], taken: Collection[str]) -> dict[str, Learned]:
    """Return the numbers that passes put into a graph, by the names of the nodes that multiply by them.

    Those of a value whose dtype is not known, or is a lower one, stay in the source: a buffer would round them.
    """
    found: dict[str, Learned] = {}
    used = set(taken)
    for node in nodes:
        place, dtype = _place(node), _dtype(node)
        if place is None or dtype is None or not node.meta.get(PASSES):
            continue
        prefix = f"{homes(node)}." if homes(node) else ""
        names = (f"{prefix}scale{number}" for number in ("", *range(2, len(used) + 3)))
        path = next(name for name in names if name not in used)
        used.add(path)
        found[node.name] = Learned(path, place, torch.tensor(node.args[place], dtype=dtype))
    return found


def _place(node: fx.Node) -> int | None:
    call = Call(node) if node.op == "call_function" else None
    if call is None or call.op is None or call.op.name != "mul" or node.kwargs or len(node.args) != 2:
        return None
    return next((place for place, one in enumerate(node.args) if isinstance(one, float)), None)


def _dtype(node: fx.Node) -> torch.dtype | None:
    meta = tensor_meta(node)
    return None if meta is None else _ROUNDED.get(meta.dtype)
