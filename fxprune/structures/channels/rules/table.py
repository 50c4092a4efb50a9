"""Which rule an op has: by its name, or else by its kind; an op without one is a barrier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fxprune.facts.shapes import META, metadata_in
from fxprune.gates.base import Gated
from fxprune.gates.channel_gate import ScaledAxis, ScaledColumns
from fxprune.gates.gate import ScaledLayer
from fxprune.ir.nodes import called_module
from fxprune.ops.call import Call
from fxprune.structures.channels.rules import elements, indexing, joining, movement, products, weights, windows
from fxprune.structures.channels.walk import Walk
from fxprune.structures.computed_weights import computed_weights

Rule = Callable[[Walk, Call], Any]
_BY_KIND: dict[str, Rule] = {
    **dict.fromkeys(("identity", "cast", "dropout"), elements.same),
    **dict.fromkeys(("elementwise", "arithmetic"), elements.arithmetic),  # the bounds of clamp may be tensors
    "axis": elements.mixed_along,
    "reduction": elements.reduced,
    **dict.fromkeys(("window", "adaptive pool", "resize"), elements.over_space),
    **dict.fromkeys(("conv", "transposed conv"), weights.conv),
    "linear": weights.linear,
    "pad": joining.pad,
}
_BY_NAME: dict[str, Rule] = {
    "prelu": weights.prelu,
    **dict.fromkeys(("batch_norm", "instance_norm"), weights.norm_of_channels),
    "group_norm": weights.group_norm,
    **dict.fromkeys(("layer_norm", "rms_norm"), weights.norm_of_last_axes),
    "embedding": weights.embedding,
    **dict.fromkeys(("max", "min"), elements.extremum),
    "glu": elements.glu,
    **dict.fromkeys(("flatten", "reshape", "unflatten"), movement.reshape),
    **dict.fromkeys(("squeeze", "unsqueeze", "squeeze_to", "unsqueeze_to"), movement.squeeze),
    "permute": movement.permute,
    "transpose": movement.transpose,
    "movedim": movement.movedim,
    "t": movement.transposed,
    "getattr": movement.attribute,
    **dict.fromkeys(("chunk", "split"), movement.chunk),
    "tensor_split": movement.tensor_split,
    "unbind": movement.unbind,
    "getitem": indexing.getitem,
    "narrow": movement.narrow,
    "expand": movement.expand,
    "expand_as": movement.expand_as,
    "select": movement.select,
    **dict.fromkeys(("repeat", "tile"), movement.repeat),
    "repeat_interleave": movement.repeat_interleave,
    "flip": movement.flip,
    "roll": movement.roll,
    "pixel_shuffle": windows.pixel_shuffle,
    "pixel_unshuffle": windows.pixel_unshuffle,
    "channel_shuffle": movement.channel_shuffle,
    "index_select": indexing.index_select,
    "gather": indexing.gather,
    "grid_sample": indexing.grid_sample,
    "unfold": windows.unfold,
    "im2col": windows.windows,
    "col2im": windows.overlapped,
    "cat": joining.cat,
    "stack": joining.stack,
    **dict.fromkeys(("zeros", "ones", "full", "zeros_like", "ones_like", "full_like"), elements.made),
    **dict.fromkeys(("new_tensor", "new_full"), elements.made_like),
    "normalize": elements.mixed_along,
    **dict.fromkeys(("matmul", "bmm", "mm", "mv"), products.matmul),
    **dict.fromkeys(("addmm", "addmv", "baddbmm", "addbmm"), products.added),
    "einsum": products.einsum,
    "scaled_dot_product_attention": products.attention,
}


def rule(walk: Walk, call: Call) -> Any:
    """Return what ``call`` makes of the labels that it reads."""
    if isinstance(call.module, ScaledColumns):
        call = Call(call.node, call.module.layer)
    elif isinstance(call.module, ScaledAxis):
        return walk.value(call.node.args[0])
    elif isinstance(call.module, Gated) and (walk.gated or _rests(call.module)):
        return weights.gated(walk, call)
    op = call.exact
    found = None if op is None else _BY_NAME.get(op.name) or _BY_KIND.get(op.kind)
    if found is None:
        return walk.barrier(call.node, _why(call))
    if call.module is not None and _extra(call):
        return walk.barrier(call.node, "is called with more than its input")
    if call.kind != "new" and not any(metadata_in(one.meta.get(META)) for one in call.node.all_input_nodes):
        return walk.bare(call.node)
    return found(walk, call)


def _rests(gate: Gated) -> bool:
    """Say whether a gate computes what it gates alone, whatever the size of its weights: these may lose channels."""
    return isinstance(gate, ScaledLayer) and gate.resting


def _extra(call: Call) -> bool:
    """Say whether a layer is called with what its row does not know: an ``output_size``; scales do not count."""
    given = call.node.args[:1] if isinstance(called_module(call.node), ScaledColumns) else call.node.args
    return len(given) + len(call.node.kwargs) > call.op.inputs  # type: ignore[union-attr]


def _why(call: Call) -> str:
    """Return why a call is a barrier, and what would make it none."""
    node = call.node
    if call.module is None:
        called = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    else:
        called = type(call.module).__name__
    if call.op is None:
        return (
            f"no row of the table of ops says what {called} does with channels: add Op({called!r}, 'elementwise', "
            "'input;', ...), or of the kind that it is, by the entry point fxprune.ops"
        )
    if call.module is not None and (names := computed_weights(call.module)):
        return f"its {' and '.join(names)} is computed in forward: FreezeWeights makes it plain"
    if call.exact is None:
        return f"{called} is called in a way that its row does not know, or has hooks"
    return f"{called} has no rule for channels"
