"""How to build a layer again: its class in torch.nn and the arguments of its constructor."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fxprune.errors import EmitError
from fxprune.resconv import ResConv

_PER_AXIS = {"kernel_size", "stride", "padding", "dilation", "output_size"}
_PLACEMENT = {"self", "device", "dtype"}


@dataclass(frozen=True)
class LayerSpec:
    """A class of torch.nn by name, its arguments (those that differ from the defaults), and what comes after."""

    kind: str
    arguments: dict[str, Any]
    positional: tuple[str, ...]
    dtype: str | None = None
    frozen: bool = False


def layer_spec(path: str, module: nn.Module) -> LayerSpec:
    """Return how to build ``module``; raises EmitError, naming ``path``, if torch.nn alone cannot."""
    kind = type(module)
    if isinstance(module, ResConv):
        raise EmitError(f"{path} is still a ResConv; apply passes.FuseResConv before emitting")
    if getattr(nn, kind.__name__, None) is not kind:
        raise EmitError(
            f"{path} is a {kind.__module__}.{kind.__name__}, which plain torch.nn cannot rebuild; "
            "torch.export the graph instead"
        )
    parameters = list(inspect.signature(kind.__init__).parameters.values())
    arguments: dict[str, Any] = {}
    positional: list[str] = []
    for parameter in parameters:
        if parameter.name in _PLACEMENT or parameter.name.startswith("_"):
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        required = parameter.default is parameter.empty
        value = _attribute(module, parameter.name)
        if value is _MISSING:
            if required:
                raise EmitError(f"{path}: cannot find out argument {parameter.name} of {kind.__name__}")
            continue
        if required:
            positional.append(parameter.name)
        if required or value != parameter.default:
            arguments[parameter.name] = value
    floats = {t.dtype for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()}
    dtype = str(floats.pop()) if len(floats) == 1 else None
    frozen = [not p.requires_grad for p in module.parameters()]
    return LayerSpec(
        kind.__name__,
        arguments,
        tuple(positional),
        None if dtype in (None, "torch.float32") else dtype,
        bool(frozen) and all(frozen),
    )


_MISSING = object()


def _attribute(module: nn.Module, name: str) -> Any:
    if isinstance(module, nn.MultiheadAttention):
        derived = {"bias": module.in_proj_bias is not None, "add_bias_kv": module.bias_k is not None}
        if name in derived:
            return derived[name]
    value = getattr(module, name, _MISSING)
    if value is None or isinstance(value, torch.Tensor):
        # a flag that became a tensor or its absence, as bias=True did; a None that was given stays None
        return value is not None if name in module._parameters else value
    if name in _PER_AXIS and isinstance(value, tuple) and value and len(set(value)) == 1:
        return value[0]
    return value


def build_layer(spec: LayerSpec) -> nn.Module:
    """Build the layer that ``spec`` describes; only classes that torch.nn exports are ever called."""
    kind = getattr(nn, spec.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise EmitError(f"torch.nn has no layer {spec.kind!r}")
    module = kind(**spec.arguments)
    if spec.dtype is not None:
        module.to(getattr(torch, spec.dtype.removeprefix("torch.")))
    if spec.frozen:
        module.requires_grad_(False)
    return module
