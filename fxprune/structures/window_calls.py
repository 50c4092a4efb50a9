"""One view of every call of torchvision's attention in windows (Swin, arXiv 2103.14030; V2, arXiv 2111.09883)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import fx, nn

from fxprune.facts.module_uses import CallSites
from fxprune.facts.shapes import META
from fxprune.ir.node_targets import attribute
from fxprune.ir.nodes import only_user
from fxprune.ops.call import Call

HOME = "torchvision.models.swin_transformer"
_WEIGHTS = ("qkv_weight", "qkv_bias", "proj_weight", "proj_bias")


class WindowCall(NamedTuple):
    """A call of ``shifted_window_attention``, on images of (batch, height, width, channels).

    Attributes:
        window, shift: its height and width, and by how much windows are shifted.
        weights: the parameters by the names of the function's arguments; those that are none are left out.
        dropouts: of the attention and of the output; 0 where they are never active.
    """

    window: tuple[int, int]
    shift: tuple[int, int]
    heads: int
    weights: dict[str, nn.Parameter]
    dropouts: tuple[float, float]

    @property
    def is_shifted(self) -> bool:
        """Whether windows are shifted, where there is more than one of them."""
        return any(self.shift)


def window_call(node: fx.Node, sites: CallSites) -> WindowCall | str | None:
    """Return ``node`` as a WindowCall, or why it is none; None if it calls no attention in windows."""
    call = Call(node)
    if node.op != "call_function" or call.op is None or call.op.name != "shifted_window_attention":
        return None
    if call.exact is None or getattr(node.target, "__module__", "") != HOME:
        return "its windows are over time too, and shrink to short clips: those of images alone are written out"
    weights = _weights(call, sites)
    if isinstance(weights, str):
        return weights
    window, shift = (_pair(call.argument(name)) for name in ("window_size", "shift_size"))
    heads = call.argument("num_heads")
    dropouts = tuple(call.argument(name) for name in ("attention_dropout", "dropout"))
    meta = call.operand(0).meta.get(META)
    if window is None or shift is None or type(heads) is not int or not all(type(one) is float for one in dropouts):
        return "its windows, heads or dropout are computed in forward"
    if not isinstance(call.argument("relative_position_bias"), fx.Node) or len(getattr(meta, "shape", ())) != 4:
        return "what it reads has no known shape"
    active = call.argument("training") is not False
    return WindowCall(window, shift, heads, weights, dropouts if active else (0.0, 0.0))


def _weights(call: Call, sites: CallSites) -> dict[str, nn.Parameter] | str:
    owner: Any = call.node.graph.owning_module
    found: dict[str, nn.Parameter] = {}
    for name in _WEIGHTS:
        read = call.argument(name)
        if read is None:
            continue
        tensor = attribute(owner, str(read.target)) if isinstance(read, fx.Node) and read.op == "get_attr" else None
        if not isinstance(tensor, nn.Parameter):
            return f"its {name} is no parameter"
        if sites.reads(tensor) != 1 or only_user(read) is not call.node:
            return f"its {name} is read by others too"
        found[name] = tensor
    return found


def _pair(value: Any) -> tuple[int, int] | None:
    is_pair = isinstance(value, (list, tuple)) and list(map(type, value)) == [int, int]
    return (value[0], value[1]) if is_pair else None


def bias_table(node: fx.Node) -> tuple[fx.Node, fx.Node, int] | None:
    """Return table, index and tokens of a window, if ``node`` looks up the biases of relative positions."""
    home, name = getattr(node.target, "__module__", ""), getattr(node.target, "__name__", "")
    if node.op != "call_function" or (home, name) != (HOME, "_get_relative_position_bias"):
        return None
    table, index, window = node.args if len(node.args) == 3 else (None, None, None)
    pair = _pair(window)
    if pair is None or not isinstance(table, fx.Node) or not isinstance(index, fx.Node):
        return None
    meta = index.meta.get(META)
    is_index = getattr(meta, "dtype", None) in (torch.int64, torch.int32)
    return (table, index, pair[0] * pair[1]) if is_index else None
