"""How to build a layer again: its class in torch.nn and the arguments of its constructor."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from fxprune.emission.expressions import literal
from fxprune.errors import EmitError
from fxprune.gates.base import Gated
from fxprune.gates.channel_attention import ChannelAttention
from fxprune.ir.applied import Applied
from fxprune.ir.module_tree import has_hooks, is_opaque

_PER_AXIS = {"kernel_size", "stride", "padding", "dilation", "output_size"}
_PLACEMENT = {"self", "device", "dtype"}
_OLD_SPELLINGS = {"size_average", "reduce", "min_value", "max_value"}  # torch.nn translates these and forgets them
_REPEATED = ("num_layers", "num_encoder_layers", "num_decoder_layers")
_MOST_REPEATED = 1000  # a layer makes each of them in Python
_PLAIN = (bool, int, float, str)
_MISSING = object()


@dataclass(frozen=True)
class LayerSpec:
    """A class of torch.nn by name, its arguments (those that differ from the defaults), and what comes after.

    ``positional`` names the arguments without a default, ``frozen`` the parameters that take no gradient.
    """

    kind: str
    arguments: dict[str, Any]
    positional: tuple[str, ...]
    dtype: str | None = None
    frozen: tuple[str, ...] = ()
    all_frozen: bool = False


def layer_spec(path: str, module: nn.Module) -> LayerSpec:
    """Return how to build ``module``; raises EmitError, naming ``path``, if torch.nn alone cannot."""
    kind = type(module)
    _require_plain(path, module)
    arguments: dict[str, Any] = {}
    positional: list[str] = []
    for parameter in _constructor(kind):
        required = parameter.default is parameter.empty
        value = _attribute(module, parameter.name)
        if value is _MISSING and parameter.name in _OLD_SPELLINGS:
            continue
        if value is _MISSING or isinstance(value, (torch.Tensor, nn.Module)):
            raise EmitError(
                f"{path}: nn.{kind.__name__} does not keep its argument {parameter.name}, so that it cannot be built "
                "again; use another layer, or torch.export the graph"
            )
        if required:
            positional.append(parameter.name)
        if parameter.name == "stride" and parameter.default is None and value == arguments.get("kernel_size"):
            continue  # what a pool takes without it
        if required or (value is not parameter.default and value != parameter.default):
            arguments[parameter.name] = value
    parameters = dict(module.named_parameters())
    frozen = tuple(name for name, parameter in parameters.items() if not parameter.requires_grad)
    return LayerSpec(
        kind.__name__,
        arguments,
        tuple(positional),
        _dtype_of(path, module),
        frozen,
        bool(frozen) and len(frozen) == len(parameters),
    )


def _require_plain(path: str, module: nn.Module) -> None:
    """Raise EmitError for a module that is more than an instance of a class that torch.nn exports."""
    kind = type(module)
    own = f"{kind.__module__}.{kind.__name__}"
    if isinstance(module, Gated):
        advice = f"apply passes.{module.fused_by} before emitting, or give norms='fold' or 'keep'"
        raise EmitError(f"{path} is still a {kind.__name__}; {advice}")
    if isinstance(module, ChannelAttention):
        raise EmitError(
            f"{path} is a gate of attention, which only measures; choose_widths of fxprune.pruning.ucp.widths says "
            "what is left of the network without it"
        )
    if is_opaque(module):
        raise EmitError(
            f"{path} is an opaque call of a {own}, whose code could not be traced, so that source cannot hold it; "
            "torch.save(fxprune.strip(graph_module), FILE) keeps it, or make that module traceable"
        )
    if isinstance(module, Applied):
        raise EmitError(
            f"{path} applies the autograd.Function {module.function.__name__}, which source cannot hold; "
            "torch.save(fxprune.strip(graph_module), FILE) keeps it, or write it with functions of torch"
        )
    if getattr(nn, kind.__name__, None) is not kind:
        raise EmitError(f"{path} is a {own}, which plain torch.nn cannot rebuild; torch.export the graph instead")
    if any(has_hooks(part) for part in module.modules()):
        raise EmitError(f"{path} has hooks, which source cannot carry; remove them from the model before tracing it")


def _constructor(kind: type[nn.Module]) -> list[inspect.Parameter]:
    """Return the arguments that rebuild a layer of ``kind``."""
    parameters = list(inspect.signature(kind.__init__).parameters.values())
    if issubclass(kind, nn.RNNBase):  # its classes take *args, and pass their own kind on as the first
        parameters = [p for p in inspect.signature(nn.RNNBase.__init__).parameters.values() if p.name != "mode"]
        if issubclass(kind, nn.RNN):
            parameters.append(inspect.Parameter("nonlinearity", inspect.Parameter.KEYWORD_ONLY, default="tanh"))
        if not issubclass(kind, nn.LSTM):
            parameters = [p for p in parameters if p.name != "proj_size"]
    return [
        p
        for p in parameters
        if not (p.name in _PLACEMENT or p.name.startswith("_") or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
    ]


@lru_cache(maxsize=1 << 8)
def defaults_of(kind: str) -> dict[str, str]:
    """Return the arguments of a layer of torch.nn that have plain defaults, with these as source, in order."""
    known = {p.name: p.default for p in _constructor(getattr(nn, kind)) if p.name not in _OLD_SPELLINGS}
    return {name: literal(value) for name, value in known.items() if value is None or type(value) in _PLAIN}


def _attribute(module: nn.Module, name: str) -> Any:
    if isinstance(module, nn.MultiheadAttention):
        derived = {"bias": module.in_proj_bias is not None, "add_bias_kv": module.bias_k is not None}
        if name in derived:
            return derived[name]
    value = getattr(module, name, _MISSING)
    if name in module._parameters:
        return value is not None  # a flag that became a tensor or its absence, as bias=True did
    if name in _PER_AXIS and isinstance(value, tuple) and value and all(v == value[0] for v in value):
        return value[0] if isinstance(value[0], int) else value
    return value


def _dtype_of(path: str, module: nn.Module) -> str | None:
    tensors = (*module.parameters(), *module.buffers())
    dtypes = {t.dtype for t in tensors if t.is_floating_point() or t.is_complex()}
    if len(dtypes) > 1:
        raise EmitError(f"{path} holds tensors of {' and '.join(sorted(map(str, dtypes)))}; give it one dtype")
    return None if dtypes <= {torch.float32} else str(dtypes.pop())


def build_layer(spec: LayerSpec) -> nn.Module:
    """Build the layer that ``spec`` describes; only classes that torch.nn exports are ever called."""
    kind = getattr(nn, spec.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise EmitError(f"torch.nn has no layer {spec.kind!r}")
    repeated = [name for name in _REPEATED if spec.arguments.get(name, 0) > _MOST_REPEATED]
    if repeated:
        raise EmitError(f"nn.{spec.kind} has {repeated[0]} over {_MOST_REPEATED}")
    module = kind(**spec.arguments)
    if spec.dtype is not None:
        module.to(getattr(torch, spec.dtype.removeprefix("torch.")))
    for name in spec.frozen:
        module.get_parameter(name).requires_grad_(False)
    return module
