"""One call of an op, however a graph spells it: a layer, a function or a method, arguments by position or by name.

call = Call(node)
if call.op is not None and call.op.kind == "conv":
    call.argument("dilation")  # of an nn.Conv2d, of F.conv2d(x, w, None, 1, 0, 2), of F.conv2d(x, w, dilation=2)
"""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from fxprune.ir.module_tree import has_hooks
from fxprune.ir.nodes import called_module
from fxprune.ops.op import Between, Op
from fxprune.ops.table import row_of_layer, row_of_target

_CALLS = ("call_function", "call_method")
_ALIASES = {"dim": "axis", "keepdim": "keepdims", "input": "x", "other": "x2"}  # NumPy's, which torch takes too
_NAMES = frozenset(_ALIASES.values())
_NO_OUT = ("out", None)  # what torch's functions tell each other


class Call:
    """What ``node`` calls: ``op`` is its row (None if there is none), ``module`` the layer, if it calls one.

    With a ``module`` it is the call of that layer, a part of what ``node`` calls, in its place.
    """

    __slots__ = ("module", "node", "op")

    def __init__(self, node: fx.Node, module: nn.Module | None = None) -> None:
        op = node.op
        if module is None and op == "call_module":
            module = called_module(node)
        self.node = node
        self.module: Any = module
        self.op: Op | None = None
        if module is not None:
            self.op = row_of_layer(type(module))
        elif op in _CALLS:
            self.op = row_of_target(node.target)

    @property
    def kind(self) -> str:
        """What it is like, see :data:`fxprune.ops.op.Kind`; "" if it has no row."""
        return "" if self.op is None else self.op.kind

    @property
    def exact(self) -> Op | None:
        """The row, if this computes what the row says, and nothing else; None if anything is unusual.

        A layer is of no other class and has no hooks; a function is given nothing that the row does not know.
        """
        op = self.op
        if op is None:
            return None
        if self.module is not None:
            return op if type(self.module) in op.layers and not has_hooks(self.module) else None
        return op if self._is_known(op) else None

    @property
    def claims(self) -> Op | None:
        """The row, if this is :attr:`exact`, and the arguments are those for which the row claims what it does."""
        op = self.exact
        if op is None or not op.where:
            return op
        return op if all(_is_among(self.argument(name), values) for name, values in op.where.items()) else None

    def _is_known(self, op: Op) -> bool:
        """Say whether the row knows all the arguments that are given."""
        node = self.node
        if len(node.args) > op.most:
            return False
        return all(
            name in op.places or name in _NAMES or (name, value) == _NO_OUT for name, value in node.kwargs.items()
        )

    def argument(self, name: str) -> Any:
        """Return an argument by the name that the row gives it: a node, a value, or what is taken without it.

        None if it has no such parameter, or if it must be given and is not.
        """
        op, node = self.op, self.node
        if op is None or name not in op.places:
            return None
        place = op.places[name]
        parameter = op.parameters[place]
        if self.module is not None and place >= op.inputs:
            return getattr(self.module, name, parameter.default)
        if name in node.kwargs:
            return node.kwargs[name]
        if parameter.variadic:
            rest = node.args[place:]
            return rest[0] if len(rest) == 1 and isinstance(rest[0], (tuple, list, fx.Node)) else rest
        if place < len(node.args) and not parameter.named:
            return node.args[place]
        return node.kwargs.get(_ALIASES.get(name, name), parameter.default)

    @property
    def input(self) -> fx.Node | None:
        """The first value that it is called on, whether it has a row or not; None if that is none of the graph."""
        args = self.node.args
        if args:
            value = args[0]
        elif self.op is not None:
            value = self.argument(self.op.parameters[0].name) if self.op.parameters else None
        else:
            value = self.node.kwargs.get("input")
        return value if isinstance(value, fx.Node) else None

    def operand(self, place: int) -> fx.Node:
        """Return the value that is given for a parameter, by its place in the row; it must be one of the graph."""
        assert self.op is not None
        value = self.argument(self.op.parameters[place].name)
        assert isinstance(value, fx.Node), f"argument {place} of {self.node.name} is no node"
        return value

    def numbers(self, name: str) -> tuple[int, ...] | None:
        """Return the whole numbers that an argument is, one for each axis of a window; None if it is not known."""
        assert self.op is not None
        axes = self.op.axes
        kept = None if self.module is None else self.module.__dict__.get(name)
        if type(kept) is tuple and len(kept) == axes and None not in kept:
            return kept  # as torch's own layers keep them
        value = self.argument(name)
        numbers = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        if len(numbers) == 1:
            numbers *= axes
        return numbers if len(numbers) == axes and set(map(type, numbers)) == {int} else None


def _is_among(value: Any, allowed: tuple[Any, ...] | Between) -> bool:
    """Say whether an argument, or each of those for several axes, is one of those ``allowed``."""
    if isinstance(value, fx.Node):
        return False
    if isinstance(value, (tuple, list)):
        return bool(value) and all(_is_among(one, allowed) for one in value)
    return value in allowed


def claims_of(node: fx.Node) -> Op | None:
    """Return the row of what ``node`` calls, if all that it claims of values holds there, see :attr:`Call.claims`."""
    return Call(node).claims


def is_a(node: Any, *names: str) -> bool:
    """Say whether ``node`` calls one of the ops of these names, in whatever spelling."""
    if not isinstance(node, fx.Node):
        return False
    op = Call(node).op
    return op is not None and op.name in names


def is_conv(node: fx.Node) -> bool:
    """Say whether ``node`` is a convolution of any kind, transposed ones included."""
    return Call(node).kind in ("conv", "transposed conv")


def operands(node: fx.Node, *names: str) -> tuple[Any, Any] | None:
    """Return the two operands of ``node``, if it calls an op of these names on two values and does nothing else."""
    row = row_of_target(node.target) if node.op in _CALLS else None
    if row is None or row.name not in names:
        return None
    if len(node.args) == 2 and not node.kwargs:
        return node.args  # as nearly all are written, and then all claims hold
    call = Call(node)
    if call.claims is None:
        return None
    first, second = (call.argument(one.name) for one in row.parameters[:2])
    return (first, second) if first is not None and second is not None else None
