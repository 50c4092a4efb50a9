"""One view of every call of an nn.MultiheadAttention of which only the output is read."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from fxprune.facts.module_uses import CallSites
from fxprune.facts.own_layers import own_module
from fxprune.facts.shapes import META
from fxprune.ir.nodes import called_module

_PARAMETERS = (
    *("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask", "average_attn_weights", "is_causal"),
)
_INPUTS, _MASKS = ("query", "key", "value"), ("attn_mask", "key_padding_mask")
_LINEAR = (nn.Linear, NonDynamicallyQuantizableLinear)


class AttentionCall(NamedTuple):
    """A call of an nn.MultiheadAttention.

    Attributes:
        reads: the nodes that take its output of what it returns, a pair.
        others: those that read nothing of it but how many it returns, or take the weights and are not read.
        masks: ``attn_mask`` and ``key_padding_mask``, those that are used.
        is_causal: whether each query sees the keys up to its own place alone; there are no masks then.
    """

    module: nn.MultiheadAttention
    reads: tuple[fx.Node, ...]
    others: tuple[fx.Node, ...]
    masks: tuple[fx.Node | None, fx.Node | None]
    is_causal: bool

    @property
    def masks_are_bool(self) -> bool:
        """Whether the masks say True where a key is not seen; else they are added."""
        return any(one is not None and _dtype(one) is torch.bool for one in self.masks)


def attention_call(node: fx.Node, sites: CallSites) -> AttentionCall | str | None:
    """Return ``node`` as an AttentionCall, or why it is none; None if it calls no nn.MultiheadAttention."""
    module = called_module(node)
    if not isinstance(module, nn.MultiheadAttention):
        return None
    given = attention_arguments(node)
    obstacle = _module_obstacle(module, node, sites) or _input_obstacle(given)
    if obstacle is not None:
        return obstacle
    needs_mask = given.get("need_weights", True) or given.get("key_padding_mask") is not None
    is_causal = bool(given.get("is_causal", False)) and not needs_mask
    masks = tuple(None if is_causal else given.get(name) for name in _MASKS)
    readers = _readers(node)
    if isinstance(readers, str):
        return readers
    return AttentionCall(module, *readers, masks, is_causal)  # type: ignore[arg-type]


def attention_arguments(node: fx.Node) -> dict[str, Any]:
    """Return what a call of an nn.MultiheadAttention is given, by name."""
    return {**dict(zip(_PARAMETERS, node.args, strict=False)), **node.kwargs}


def _module_obstacle(module: nn.MultiheadAttention, node: fx.Node, sites: CallSites) -> str | None:
    obstacle = own_module(module, (nn.MultiheadAttention,), sites)
    if obstacle is not None:
        return obstacle
    if module.bias_k is not None or module.bias_v is not None or module.add_zero_attn:
        return "it adds a key of its own (add_bias_kv or add_zero_attn)"
    if type(module.out_proj) not in _LINEAR or "weight" not in module.out_proj._parameters:
        return "its out_proj is no plain linear layer; apply freeze-weights first, if it computes its weight"
    owner = node.graph.owning_module
    if module.dropout and owner is not None and module.training != owner.training:
        return "its dropout does not follow the train flag of the model; call .train() or .eval() on the graph"
    return None


def _input_obstacle(given: dict[str, Any]) -> str | None:
    if not all(_rank(given.get(name)) == 3 for name in _INPUTS):
        return "its inputs have no batch axis, or no known shape"
    flags = (given.get("need_weights", True), given.get("is_causal", False))
    if not all(isinstance(flag, bool) for flag in flags):
        return "need_weights or is_causal is computed in forward"
    masks = [one for one in map(given.get, _MASKS) if one is not None]
    if any(_rank(one) != 2 for one in masks):
        return "it has a mask for each head of each sample"
    if len({_dtype(one) is torch.bool for one in masks}) > 1:
        return "one of its masks is of truth values, the other one is added"
    return None


def _readers(node: fx.Node) -> tuple[tuple[fx.Node, ...], tuple[fx.Node, ...]] | str:
    """Return who reads its output, and who reads nothing of it; or what is in the way."""
    reads: list[fx.Node] = []
    others: list[fx.Node] = []
    for user in node.users:
        if user.target is operator.getitem and user.args[1] in (0, -2):
            reads.append(user)
        elif user.target is operator.getitem and not user.users:
            others.append(user)
        elif user.target is len and (checks := list(_checks_of(user))):
            others += checks
        elif user.target is operator.getitem:
            return "its attention weights are read"
        else:
            return f"{user.name} reads all that it returns"
    return tuple(reads), tuple(others)


def _checks_of(length: fx.Node) -> Iterator[fx.Node]:
    """Yield ``length``, a call of len, and what asserts that it is what it is; nothing if anything else reads it."""
    equal = list(length.users)
    checks = [user for one in equal for user in one.users]
    if all(one.target is operator.eq for one in equal) and all(one.target is torch._assert for one in checks):
        yield from (length, *equal, *checks)


def _rank(value: Any) -> int | None:
    shape = getattr(value.meta.get(META), "shape", None) if isinstance(value, fx.Node) else None
    return None if shape is None else len(shape)


def _dtype(value: fx.Node) -> Any:
    return getattr(value.meta.get(META), "dtype", None)
