"""Layers whose weights are computed from other parameters: made from a graph, and made plain again.

    F.conv2d(x, standardize(w))     ->   nn.Conv2d, parametrized by standardize       (trains w)
    nn.Conv2d, parametrized by f    ->   nn.Conv2d with weight f(w)                   (the same in eval mode)
    standardize(w)                  ->   a parameter                                  (the same in eval mode)

The first two use ``torch.nn.utils.parametrize``, so that to everything else such a conv is an nn.Conv with a
``weight``.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import fx, nn
from torch.nn.utils import parametrize
from torch.nn.utils.weight_norm import WeightNorm

from fxprune.facts.constants import Constants
from fxprune.facts.conv_calls import ConvCall
from fxprune.facts.own_layers import changes_by_call
from fxprune.gates.base import ungated
from fxprune.gates.gate import ScaledLayer
from fxprune.gates.resconv import WEIGHT_HOOKS
from fxprune.ir.copies import copy_module
from fxprune.ir.lazy_graph_module import LazyGraphModule
from fxprune.ir.module_tree import has_hooks, is_parametrized
from fxprune.ir.node_targets import attribute
from fxprune.ops.layer_classes import TRANSPOSED_CLASSES, WEIGHTED_CLASSES, Conv
from fxprune.weights.exact import in_float64, keeping_exact, make_parameter, rounded

_LAYERS = (*WEIGHTED_CLASSES, *TRANSPOSED_CLASSES)
_Layer = TypeVar("_Layer", bound=nn.Module)


def trainable_conv(call: ConvCall, constants: Constants) -> Conv:
    """Return the nn.Conv that computes what ``call`` does from its input, and trains the same parameters."""
    for name, node in call.computed.items():
        outlined, original = _outline(node, constants)
        setattr(call.module, name, original)
        parametrize.register_parametrization(call.module, name, outlined, unsafe=True)  # f may change the shape
    return call.module


def _outline(node: fx.Node, constants: Constants) -> tuple[fx.GraphModule, nn.Parameter]:
    """Return what computes ``node`` as a module, and the parameter that it takes as its input (the first one)."""
    owner = node.graph.owning_module
    assert owner is not None
    values = {leaf: attribute(owner, str(leaf.target)) for leaf in constants.leaves(node)}
    original = next(value for value in values.values() if isinstance(value, nn.Parameter))
    root, graph = nn.Module(), fx.Graph()
    source = graph.placeholder("original")
    copies: dict[fx.Node, fx.Node] = {}
    names: dict[int, str] = {}
    for old in constants.chain(node):
        value = values.get(old)
        if value is original:
            copies[old] = source
        elif value is not None:
            if id(value) not in names:
                names[id(value)] = old.name
                is_parameter = isinstance(value, nn.Parameter)
                (root.register_parameter if is_parameter else root.register_buffer)(old.name, value)
            copies[old] = graph.get_attr(names[id(value)])
        else:
            copies[old] = graph.node_copy(old, copies.__getitem__)
            if old.op == "call_module":
                root.add_module(old.name, owner.get_submodule(str(old.target)))
                copies[old].target = old.name
    graph.output(copies[node])
    return LazyGraphModule(root, graph), original


def computed_weights(module: nn.Module) -> list[str]:
    """Return the names of the tensors of ``module`` itself that it computes before each forward."""
    hooks = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, WEIGHT_HOOKS)]
    parametrized = list(module.parametrizations) if is_parametrized(module) else []  # type: ignore[arg-type]
    return [*parametrized, *(hook.name for hook in hooks)]


def frozen_layer(module: nn.Module) -> nn.Module | str:
    """Return what computes the same as ``module``, a layer or a gate around one, with plain weights; or why not."""
    layer = ungated(module)
    if changes_by_call(layer):
        return f"its {' and '.join(computed_weights(layer))} is another one in every call"
    kind = parametrize.type_before_parametrizations(layer)
    if kind not in _LAYERS:
        return f"it is a {kind.__name__}"
    frozen = plain_layer(layer)
    if has_hooks(frozen):
        return "it has other hooks too"
    return module.with_wrapped(frozen) if isinstance(module, ScaledLayer) else frozen


@keeping_exact
@torch.no_grad()
def plain_layer(module: _Layer) -> _Layer:
    """Return a copy of ``module`` that holds the weights which ``module`` computes in eval mode.

    The parameters that are not computed are shared with ``module``, which is not changed.
    """
    names = computed_weights(module)
    kind: Any = parametrize.type_before_parametrizations(module)
    plain = kind.__new__(kind)
    plain.__dict__ = {name: value for name, value in vars(module).items() if name not in names}
    for table in ("_parameters", "_buffers", "_modules", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"):
        plain.__dict__[table] = type(getattr(module, table))(getattr(module, table))
    for table in ("_state_dict_hooks", "_load_state_dict_pre_hooks"):
        plain.__dict__[table] = type(getattr(module, table))()  # those of spectral_norm
    plain._modules.pop("parametrizations", None)
    native, wide = _evaluated(copy_module(module), names), _evaluated(in_float64(module), names)
    rest = dict(plain._parameters)
    plain._parameters.clear()
    for name in names:
        sources = _take_sources(module, plain, rest, name)
        trains = any(p.requires_grad for p in sources)
        plain._parameters[name] = make_parameter(wide[name], native[name], trains)
    plain._parameters.update(rest)
    return plain  # type: ignore[no-any-return]


def _evaluated(module: nn.Module, names: list[str]) -> dict[str, torch.Tensor]:
    module.eval()
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WEIGHT_HOOKS):
            hook(module, ())
    return {name: getattr(module, name).detach() for name in names}


def _take_sources(module: nn.Module, plain: nn.Module, rest: dict[str, Any], name: str) -> list[nn.Parameter]:
    """Return what ``name`` is computed from, and take an old-style hook and its tensors away from ``plain``."""
    for key, hook in module._forward_pre_hooks.items():
        if isinstance(hook, WEIGHT_HOOKS) and hook.name == name:
            del plain._forward_pre_hooks[key]
            tensors = ("_g", "_v") if isinstance(hook, WeightNorm) else ("_orig",)
            for suffix in ("_u", "_v"):
                plain._buffers.pop(name + suffix, None)
            return [rest.pop(name + suffix) for suffix in tensors]
    return list(module.parametrizations[name].parameters())  # type: ignore[index,union-attr]


def frozen_value(node: fx.Node, constants: Constants) -> torch.Tensor:
    """Return the value of ``node``, a constant: a parameter, which trains if one that it is computed from does.

    Of what is computed from buffers alone, or holds no floating-point numbers, a buffer.
    """
    owner = node.graph.owning_module
    assert owner is not None
    tensors = [attribute(owner, str(leaf.target)) for leaf in constants.leaves(node)]
    if constants.value(node).is_floating_point() and any(isinstance(tensor, nn.Parameter) for tensor in tensors):
        return _parameter(constants, node, any(tensor.requires_grad for tensor in tensors))
    return _buffer(constants, node)


@keeping_exact
def _parameter(constants: Constants, node: fx.Node, trains: bool) -> nn.Parameter:
    return make_parameter(constants.wide_value(node), constants.value(node), trains)


@keeping_exact
def _buffer(constants: Constants, node: fx.Node) -> torch.Tensor:
    return rounded(constants.wide_value(node), constants.value(node))
