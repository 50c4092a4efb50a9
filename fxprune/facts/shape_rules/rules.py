"""What each op makes of shapes with unknown sizes: one rule a kind of op; what has no rule has a shape of its own."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from fxprune.facts.shape_rules import functions, moves
from fxprune.facts.shape_rules.cases import Case, Rule, Shape
from fxprune.facts.shape_rules.layers import of_module, widened
from fxprune.facts.shape_rules.numbers import known_size, known_sizes, of_python, of_tuples, reads_shape
from fxprune.facts.shape_rules.sizes import computed, is_size, product
from fxprune.ir.by_mode import chosen, is_by_mode
from fxprune.ir.module_tree import has_hooks
from fxprune.ir.node_targets import attribute
from fxprune.ir.nodes import called_module
from fxprune.ops.operators import ADDITIONS, PRODUCTS, SUBTRACTIONS

_LIKE_FIRST = {
    *(functional.relu, functional.relu6, functional.silu, functional.hardswish, functional.hardsigmoid),
    *(functional.gelu, functional.leaky_relu, functional.elu, functional.mish, functional.softplus, functional.tanh),
    *(functional.dropout, functional.dropout2d, functional.softmax, functional.sigmoid, functional.hardtanh),
    *(functional.batch_norm, functional.group_norm, functional.normalize, functional.prelu),
    *(torch.relu, torch.sigmoid, torch.tanh, torch.clamp, torch.abs, torch.exp, torch.softmax, torch.clone),
    *(torch.roll, torch.flip, torch.neg, torch.sqrt, torch.rsqrt, torch.square, operator.neg),
    *(torch.zeros_like, torch.ones_like, torch.rand_like, torch.randn_like),
    *("relu", "sigmoid", "tanh", "softmax", "clamp", "abs", "exp", "contiguous", "clone", "detach", "to", "float"),
    *("bernoulli", "floor", "ceil", "round", torch.floor, torch.bernoulli),
    *("half", "double", "bfloat16", "type", "type_as", "sqrt", "rsqrt", "square", "pow", "neg", "flip", "roll"),
}
_MAY_BROADCAST = {torch.clamp, "clamp", "pow", "bernoulli"}  # with tensors as their other arguments
_BROADCASTING = {
    *(*ADDITIONS, *SUBTRACTIONS, *PRODUCTS, operator.truediv, torch.div, "div"),
    *(operator.lt, operator.le, operator.gt, operator.ge, torch.maximum, torch.minimum),
}
_NEW = {torch.randn, torch.rand, torch.zeros, torch.ones, torch.empty}
# Of torchvision, which torch.fx does not look into: they return a value of the shape of their first argument.
_LIKE_FIRST_BY_NAME = {"stochastic_depth", "drop_block2d", "drop_block3d", "shifted_window_attention"}


def shape_of(node: fx.Node, case: Case) -> Any:
    """Return the shape of what ``node`` computes: a Shape; of no tensor, a Size or a list of such, None if unknown.

    Raises Refused if the op takes no such inputs.
    """
    if node.op == "placeholder":
        return case.fresh(node, case.ranks[node]) if node in case.ranks else case.own(node)
    if node.op == "output":
        return None
    if node.op == "get_attr":
        owner = node.graph.owning_module
        value = attribute(owner, str(node.target)) if owner is not None else None
        return Shape(None, 0, tuple(value.shape)) if isinstance(value, torch.Tensor) else None
    module = called_module(node)
    first = case.shapes.get(node.args[0]) if node.args and isinstance(node.args[0], fx.Node) else None
    if module is not None:
        found = of_module(node, module, first, case) if not has_hooks(module) else None
    else:
        found = _of_call(node, first, case)
    return case.own(node) if found is None else found


def _of_call(node: fx.Node, first: Any, case: Case) -> Any:
    if is_by_mode(node):
        return _of_either(node, case)
    if node.op == "call_function" and node.target in (operator.getitem, getattr, torch._assert, operator.eq):
        return of_python(node, first, case)
    if not isinstance(first, Shape):
        return _of_numbers(node, case)
    if reads_shape(node.args[0]):
        return None  # arithmetic of tuples
    if node.target in _LIKE_FIRST and not (node.target in _MAY_BROADCAST and len(node.all_input_nodes) > 1):
        return first
    name = getattr(node.target, "__name__", "")
    if name in _LIKE_FIRST_BY_NAME and str(getattr(node.target, "__module__", "")).startswith("torchvision."):
        return first
    rule = _RULES.get(node.target)
    return None if rule is None else rule(node, first, case)


def _of_either(node: fx.Node, case: Case) -> Any:
    """Return the shape that both choices have; None if they have not one."""
    found = [case.shapes.get(chosen(node, mode)) for mode in (True, False) if isinstance(chosen(node, mode), fx.Node)]
    told = [case.compared(one) if isinstance(one, Shape) else one for one in found]
    return found[1] if len(told) == 2 and told[0] == told[1] else None


def _of_numbers(node: fx.Node, case: Case) -> Any:
    if node.target in moves.JOINS:
        return moves.JOINS[node.target](node, case)
    if node.target in _NEW:
        given = node.args[0] if node.args and isinstance(node.args[0], (tuple, list)) else node.args
        told = [size for one in given if (size := known_size(one, case)) is not None and is_size(size)]
        return Shape(None, 0, tuple(told)) if len(told) == len(given) and "size" not in node.kwargs else None
    if node.target is torch.einsum:
        return functions.einsum(node, case)
    if node.target in _BROADCASTING and any(isinstance(case.shapes.get(one), Shape) for one in node.all_input_nodes):
        return widened(node, None, case)
    if node.target is operator.neg:
        only = known_size(node.args[0], case)
        return None if only is None else product((only, -1))
    if len(node.args) != 2 or node.op != "call_function":
        return None
    if node.target in (operator.add, operator.mul) and any(known_sizes(one, case) is not None for one in node.args):
        return of_tuples(node, case)
    first, second = (known_size(one, case) for one in node.args)
    name = getattr(node.target, "__name__", "")
    return None if first is None or second is None else computed(name, first, second)


_RULES: dict[Any, Rule] = {**dict.fromkeys(_BROADCASTING, widened), **functions.RULES, **moves.RULES}
