"""What changed between a node and what it became."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import torch
from torch import fx, nn

from fxprune.diffing.entries import WHAT, NodeInfo, What
from fxprune.facts.shapes import tensor_meta
from fxprune.gates.gate import ScaledLayer
from fxprune.ir.module_tree import opaque_children
from fxprune.ir.node_targets import attribute
from fxprune.ir.nodes import called_module

Batch = int | Fraction


def compare(
    old: tuple[fx.Node, NodeInfo],
    new: tuple[fx.Node, NodeInfo],
    *,
    batches: tuple[Batch, Batch],
    same_inputs: bool,
) -> tuple[What, ...]:
    """Return what changed between two nodes and what they are told to be, in the order of ``WHAT``.

    Tensors are equal if they are the same object, or else if all their values are, wherever they lie; those without
    data (on "meta") if their shapes are. Shapes are equal if they are per sample of ``batches``, the batch sizes.
    """
    (a, before), (b, after) = old, new
    found: set[What] = set()
    if before.op != after.op or _callee(a) != _callee(b):
        found.add("op")
    elif _arguments(a) != _arguments(b):
        found.add("options")
    if not _same_shape(before.shape, after.shape, batches) or _dtype(a) != _dtype(b):
        found.add("shape")
    if not same_inputs:
        found.add("input")
    if before.scale != after.scale:
        found.add("scale")
    first, second = called_module(a), called_module(b)
    if a.op == b.op == "get_attr":
        found.update(_difference(_attribute(a), _attribute(b), "value"))
    elif first is not None and second is not None and first is not second:
        found.update(_compare_modules(first, second))
    return tuple(what for what in WHAT if what in found)


def _same_shape(before: tuple[int, ...] | None, after: tuple[int, ...] | None, batches: tuple[Batch, Batch]) -> bool:
    if before is None or after is None or len(before) != len(after):
        return before == after
    return all(a == b or a * batches[1] == b * batches[0] for a, b in zip(before, after, strict=True))


def _callee(node: fx.Node) -> Any:
    """Return what tells calls apart; classes and functions by name, as those of read graphs are made anew."""
    module = called_module(node)
    target: Any = type(module) if module is not None else node.target
    if node.op == "call_method":
        return node.op, target
    if module is None and node.op != "call_function":
        return node.op
    return node.op, getattr(target, "__module__", None), getattr(target, "__qualname__", str(target))


def _arguments(node: fx.Node) -> str:
    return str(fx.map_arg((node.args, node.kwargs), lambda _: "%"))


def _dtype(node: fx.Node) -> torch.dtype | None:
    meta = tensor_meta(node)
    return meta and meta.dtype


def _attribute(node: fx.Node) -> Any:
    assert node.graph.owning_module is not None
    return attribute(node.graph.owning_module, str(node.target))


def _compare_modules(a: nn.Module, b: nn.Module) -> Iterator[What]:
    alike = type(a).__qualname__ == type(b).__qualname__
    if alike and _options(a) != _options(b):
        yield "options"
    first, second = _tensors(a), _tensors(b)
    if not alike:  # of a conv and a ResConv the conv's own tensors can be compared
        first, second = ({k: v for k, v in own.items() if v[1] in ("kernel", "bias")} for own in (first, second))
    for name in {**first, **second}:
        one, what = first.get(name, (None, None))
        other, other_what = second.get(name, (None, None))
        kind = what or other_what
        assert kind is not None
        yield from _difference(one, other, kind)


def _options(module: nn.Module) -> list[str]:
    """Return how the layers in ``module`` were built; whether they have a bias is told by the bias."""
    return [
        re.sub(r"(, )?bias=(True|False)", "", part.extra_repr())
        for part in opaque_children(module)
        if not isinstance(part, ScaledLayer)
    ]


def _tensors(module: nn.Module) -> dict[str, tuple[torch.Tensor, What]]:
    """Return the tensors of ``module`` with what each is; those of a gate's conv under the names of a conv."""
    found: dict[str, tuple[torch.Tensor, What]] = {}
    wrapped = f"{module.wraps}." if isinstance(module, ScaledLayer) and module.wraps else ""
    inside = {id(part) for part in opaque_children(module)}  # what lies in regions is compared node by node
    for path, part in module.named_modules(remove_duplicate=False):
        if id(part) not in inside:
            continue
        for name, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is not None:
                full = f"{path}.{name}" if path else name
                role: What = "scale" if isinstance(part, ScaledLayer) else _role(full, wrapped)
                found[full.removeprefix(wrapped)] = (tensor, role)
    return found


def _role(name: str, wrapped: str) -> What:
    if not name.startswith(wrapped):  # the norm behind a gate's conv
        return "value"
    if "bias" in name.rpartition(".")[2]:
        return "bias"
    return "kernel" if "weight" in name else "value"


def _difference(a: Any, b: Any, what: What) -> Iterator[What]:
    if a is b:
        return
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor) or a != b:
            yield what
        return
    if a.dtype != b.dtype:
        yield "options"
    if not _equal(a.detach(), b.detach()):
        yield what


@torch.no_grad()
def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape or a.is_quantized != b.is_quantized:
        return False
    if a.is_meta or b.is_meta:
        return True
    if a.dtype != b.dtype and not a.is_quantized:
        common = torch.promote_types(a.dtype, b.dtype)
        a, b = a.to(common), b.to(common)
    return a.dtype == b.dtype and torch.equal(a.to(b.device), b)
