"""Autocast in graphs: torch's own pair of functions for graphs stands for ``with torch.autocast(...):``.

mode = ENTER_AUTOCAST("cpu", torch.bfloat16, True, None)
...
EXIT_AUTOCAST(mode)
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx

ENTER_AUTOCAST: Any = torch.amp.autocast_mode._enter_autocast
EXIT_AUTOCAST: Any = torch.amp.autocast_mode._exit_autocast
_DEVICES = ("cpu", "cuda")


def autocast_state() -> Hashable:
    """Return what autocast does now, as a key; None where it does nothing."""
    if not torch._C._is_any_autocast_enabled():
        return None
    return tuple((torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in _DEVICES)


@contextmanager
def autocast_kept() -> Iterator[None]:
    """Give autocast back the state that it had, also after an error between the two functions of the pair.

    Weights that were cast inside are forgotten: they may be fake.
    """
    before = [(d, torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in _DEVICES]
    cached, depth = torch.is_autocast_cache_enabled(), _depth()
    try:
        yield
    finally:
        while _depth() > depth:
            torch.autocast_decrement_nesting()
        for device, enabled, dtype in before:
            torch.set_autocast_enabled(device, enabled)
            torch.set_autocast_dtype(device, dtype)
        torch.set_autocast_cache_enabled(cached)
        torch.clear_autocast_cache()


def _depth() -> int:
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting()


def under_autocast(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes of ``graph`` that stand inside a pair."""
    found: set[fx.Node] = set()
    if not graph.find_nodes(op="call_function", target=ENTER_AUTOCAST, sort=False):
        return found
    depth = 0
    for node in graph.nodes:
        depth += (node.target is ENTER_AUTOCAST) - (node.target is EXIT_AUTOCAST)
        if depth:
            found.add(node)
    return found
