"""How many parts a split makes whose sizes are written out: no input changes that."""

from __future__ import annotations

from torch import fx

from fxprune.ops.call import Call


def parts_written(node: fx.Node) -> int | None:
    """Return how many parts ``node`` splits something into by sizes that are written out; None if it does not."""
    call = Call(node)
    if call.op is None or call.op.name != "split":
        return None
    sizes = call.argument(call.op.parameters[1].name)
    return len(sizes) if isinstance(sizes, (tuple, list)) else None
