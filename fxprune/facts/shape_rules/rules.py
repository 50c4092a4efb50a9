"""What each op makes of shapes with unknown sizes: a rule a kind of op, by the table; else a shape of its own."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from fxprune.facts.shape_rules import elements, moves, products, windows
from fxprune.facts.shape_rules.cases import Case, Rule, Shape
from fxprune.facts.shape_rules.numbers import known_size, known_sizes, of_python, of_tuples, reads_shape
from fxprune.facts.shape_rules.sizes import computed, product
from fxprune.gates.gate import ScaledLayer
from fxprune.ir.applied import Applied
from fxprune.ir.by_mode import chosen, is_by_mode
from fxprune.ir.module_tree import has_hooks
from fxprune.ir.node_targets import attribute
from fxprune.ops.call import Call
from fxprune.ops.op import Op

_RULES: dict[str, Rule] = {  # by the shape that a row names, or else by its kind
    **dict.fromkeys(("same", "elementwise", "identity", "cast", "dropout", "axis"), elements.same),
    **{"arithmetic": elements.widened, "norm": elements.norm, "reduction": elements.reduced, "new": elements.new},
    **{"conv": windows.conv, "transposed conv": windows.transposed, "window": windows.pooled},
    **{"adaptive pool": windows.adaptive, "resize": windows.resized, "pad": windows.padded},
    **{"linear": products.linear, "matmul": products.matmul, "einsum": products.einsum},
    **{"attention": products.attention, "heads": products.heads},
    **moves.RULES,
}
_OF_NO_TENSOR = ("new", "join", "product")  # kinds whose first argument is none
_BY_ATTRIBUTES = ("conv", "transposed conv")  # layers whose weights may be computed: a parametrized one is a subclass


Step = Callable[[Case], Any]
_UNKNOWN: Step = lambda case: None  # noqa: E731


def step_of(node: fx.Node) -> Step:
    """Return what works out the shape of ``node`` in a case: a Shape; of no tensor, a Size or a list of such.

    It returns None where that is not known, and raises Refused if the op takes no such inputs.
    """
    if node.op == "placeholder":
        return lambda case: case.fresh(node, case.ranks[node]) if node in case.ranks else None
    if node.op == "output":
        return _UNKNOWN
    if node.op == "get_attr":
        owner = node.graph.owning_module
        value = attribute(owner, str(node.target)) if owner is not None else None
        shape = Shape(None, 0, tuple(value.shape)) if isinstance(value, torch.Tensor) else None
        return lambda case: shape
    if is_by_mode(node):
        return lambda case: _of_either(node, case)
    call = Call(node)
    if call.op is None and call.module is not None:
        return _step_of_module(node, call.module)
    if call.module is not None:
        return _step_of_layer(call)
    source, op = call.input, call.exact
    return lambda case: _of_call(call, op, case.shapes.get(source), case)  # type: ignore[arg-type]


def _step_of_layer(call: Call) -> Step:
    source: Any = call.input
    rule = _rule_of_layer(call)
    if rule is None:
        return _UNKNOWN
    return lambda case: rule(call, first, case) if isinstance(first := case.shapes.get(source), Shape) else None


def _rule_of_layer(call: Call) -> Rule | None:
    """Return the rule of a layer of torch's; None if there is none, or it may do something else too."""
    by_attributes = call.kind in _BY_ATTRIBUTES and not has_hooks(call.module)
    op = call.op if by_attributes else call.exact
    return None if op is None else _RULES.get(op.shape or op.kind)


def _step_of_module(node: fx.Node, module: nn.Module) -> Step:
    """Return likewise for modules that are none of torch's: gates, which have the shape of what they gate."""
    source: Any = node.args[0] if node.args else None
    if has_hooks(module):
        return _UNKNOWN
    if isinstance(module, Applied):
        return (lambda case: case.shapes.get(source)) if module.keeps_shape else _UNKNOWN
    if not isinstance(module, ScaledLayer):
        return _UNKNOWN
    if module.operands > 1:
        return lambda case: elements.broadcast(node, list(node.args[:2]), case)
    parts = [Call(node, part) for part in module.children()]
    rules = [(_rule_of_layer(part), part) for part in parts]

    def step(case: Case) -> Any:
        shape = case.shapes.get(source)
        for rule, part in rules:
            shape = rule(part, shape, case) if rule is not None and isinstance(shape, Shape) else None
        return shape

    return step


def _by_rule(op: Op, call: Call, first: Any, case: Case) -> Any:
    rule = _RULES.get(op.shape or op.kind)
    return None if rule is None else rule(call, first, case)


def _of_call(call: Call, op: Op | None, first: Any, case: Case) -> Any:
    node = call.node
    if (op is not None and op.shape == "python") or (node.target is operator.eq and node.op == "call_function"):
        return of_python(node, first, case)
    if not isinstance(first, Shape):
        return _of_numbers(op, call, first, case)
    if reads_shape(call.input):
        return None  # arithmetic of tuples
    return None if op is None else _by_rule(op, call, first, case)


def _of_either(node: fx.Node, case: Case) -> Any:
    """Return the shape that both choices have; None if they have not one."""
    found = [case.shapes.get(chosen(node, mode)) for mode in (True, False) if isinstance(chosen(node, mode), fx.Node)]
    told = [case.compared(one) if isinstance(one, Shape) else one for one in found]
    return found[1] if len(told) == 2 and told[0] == told[1] else None


def _of_numbers(op: Op | None, call: Call, first: Any, case: Case) -> Any:
    """Return what is computed from no tensor at first: numbers, tuples, or a tensor that is made of them."""
    node = call.node
    if op is not None and op.kind in _OF_NO_TENSOR:
        return _by_rule(op, call, None, case)
    reads_tensor = any(isinstance(case.shapes.get(one), Shape) for one in node.all_input_nodes)
    if op is not None and op.kind == "arithmetic" and reads_tensor:
        return _by_rule(op, call, first, case)
    if node.target is operator.neg:
        only = known_size(node.args[0], case)
        return None if only is None else product((only, -1))
    if len(node.args) != 2 or node.op != "call_function":
        return None
    if node.target in (operator.add, operator.mul) and any(known_sizes(one, case) is not None for one in node.args):
        return of_tuples(node, case)
    left, right = (known_size(one, case) for one in node.args)
    name = getattr(node.target, "__name__", "")
    return None if left is None or right is None else computed(name, left, right)
