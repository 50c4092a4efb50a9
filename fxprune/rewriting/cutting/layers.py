"""Layers that count their channels, with what is left of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from fxprune.gates.base import Gated
from fxprune.ir.nodes import input_at
from fxprune.ops.call import Call
from fxprune.rewriting.cutting.argument_rules import groups_left
from fxprune.rewriting.cutting.kept import Kept
from fxprune.weights.slicing import with_tensors


def narrower(call: Call, kept: Kept, tensors: Mapping[int, torch.Tensor]) -> nn.Module | None:
    """Return the layer of ``call`` with what is left of its ``tensors``, by identity; None if it stays as it is."""
    layer = call.module
    own = {**layer._parameters, **layer._buffers}
    new = {name: tensors[id(one)] for name, one in own.items() if id(one) in tensors}
    left = counts(call, kept, new)
    if not new and all(getattr(layer, name) == count for name, count in left.items()):
        return None
    return with_tensors(layer, new, **left)


def narrower_at_rest(node: fx.Node, gate: Any, kept: Kept, tensors: Mapping[int, torch.Tensor]) -> Gated | None:
    """Return what is left of a gate of a conv and its norm, called at ``node``; None if it stays as it is."""
    walk, axis = kept.walk, 1
    x, y = (walk.value(one) for one in (input_at(node), node))
    conv = narrower(Call(node, gate.conv), kept, tensors)
    norm = gate.norm and _narrower_norm(gate.norm, kept.shape(y)[axis], tensors)
    if conv is None and norm is gate.norm:
        return None
    classes = [[walk.labels.classes[one].tolist() for one in walk.along(v, axis)] for v in (x, y)]
    left: Gated = gate.narrowed(conv or gate.conv, norm, same_channels=classes[0] == classes[1])
    return left


def _narrower_norm(norm: nn.Module, width: int, tensors: Mapping[int, torch.Tensor]) -> nn.Module:
    own = {**norm._parameters, **norm._buffers}
    new = {name: tensors[id(one)] for name, one in own.items() if id(one) in tensors}
    return with_tensors(norm, new, num_features=width) if new else norm


def counts(call: Call, kept: Kept, new: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return the attributes that count channels, as they are then."""
    layer, kind, name = call.module, call.kind, call.op.name if call.op is not None else ""
    x = kept.walk.value(call.input)
    weight = new.get("weight", getattr(layer, "weight", None))
    if kind in ("conv", "transposed conv"):
        assert call.op is not None
        groups = groups_left(kept.along(x, len(x.shape) - 1 - call.op.axes), layer.groups)
        first, second = (weight.shape[0], weight.shape[1] * groups)  # type: ignore[union-attr]
        ins, outs = (first, second) if kind == "transposed conv" else (second, first)
        return {"in_channels": ins, "out_channels": outs, "groups": groups}
    if kind == "linear":
        return {"in_features": weight.shape[1], "out_features": weight.shape[0]}  # type: ignore[union-attr]
    if name in ("batch_norm", "instance_norm"):
        return {"num_features": kept.shape(x)[1]}
    if name == "group_norm":
        return {"num_channels": kept.shape(x)[1], "num_groups": groups_left(kept.along(x, 1), layer.num_groups)}
    if name in ("layer_norm", "rms_norm"):
        count = len(layer.normalized_shape)
        return {"normalized_shape": kept.shape(x)[len(x.shape) - count :]}
    if name == "channel_shuffle" and call.node in kept.walk.hidden:
        return {"groups": kept.shape(kept.walk.hidden[call.node])[1]}
    if name == "unflatten":
        axis = layer.dim % len(x.shape)
        after = kept.shape(kept.walk.value(call.node))[axis:]
        sizes = tuple(layer.unflattened_size)
        return {"unflattened_size": tuple(a if a == -1 else b for a, b in zip(sizes, after, strict=False))}
    if name == "prelu" and layer.num_parameters > 1:
        return {"num_parameters": kept.shape(x)[1]}
    if name == "embedding":
        return {"embedding_dim": weight.shape[1]}  # type: ignore[union-attr]
    return {}
