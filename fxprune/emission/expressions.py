"""The text of constants, arguments and calls in emitted source."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from fxprune.emission.calls import Constant, marked, quoted, wrapped
from fxprune.emission.defaults import parameters, without_defaults
from fxprune.emission.learned import Learned
from fxprune.emission.records import Record, record_of
from fxprune.emission.variables import Variables
from fxprune.emission.vocabulary import name_of, refused_attribute, refused_method
from fxprune.errors import EmitError
from fxprune.ir.node_targets import is_identifier
from fxprune.ir.nodes import place
from fxprune.ir.written_calls import Written
from fxprune.ops.call import Call
from fxprune.ops.operators import INFIX, plain_number

_COLUMN = 30  # about where the arguments of a call begin
_KINDS: dict[Any, str] = {(tuple, list): "shape", bool: "flag", int: "size", str: "text"}
_DEFAULTS = {"dtype": None, "enabled": True, "cache_enabled": None}  # of torch.autocast


class Expressions:
    """Writes what the nodes of a block compute; gathers what that needs: imports, records, names.

    Nodes that overwrite others (``names.overwriting``) call functions with ``inplace=True``. ``lists`` are the names
    of lists of values. The module at ``path`` is self. Of numbers and texts only their places stand in what it
    writes, see :func:`fxprune.emission.calls.marked`; they are in ``constants``.
    """

    def __init__(
        self, names: Variables, path: str = "", scales: Mapping[str, Learned] = MappingProxyType({})
    ) -> None:
        self.names = names
        self.lists: dict[tuple[fx.Node, ...], str] = {}
        self.constants: list[Constant] = []
        self._path = path
        self._scales = scales
        self.imports: set[str] = set()
        self.needed = {"torch", "float", "slice", "getattr"}
        self.records: dict[str, Record] = {}

    def node(self, node: fx.Node) -> str:
        """Return the expression that computes ``node``; raises EmitError, naming it, if source cannot say it."""
        try:
            return self._node(node)
        except EmitError as error:
            raise EmitError(f"{place(node)}: {error}") from error

    def _node(self, node: fx.Node) -> str:
        given, named = node.args, dict(node.kwargs)
        if node.op == "call_function":
            given, named = without_defaults(node.target, given, named)
            if node in self.names.overwriting and getattr(node.target, "__module__", "") == functional.__name__:
                named["inplace"] = True
        arguments = self._arguments(node, given)
        keywords = [f"{name}={self._argument(value, name)}" for name, value in named.items()]
        call = _in_brackets([*arguments, *keywords])
        if node.op == "call_module":
            return self.within(str(node.target)) + call
        if node.op == "call_method":
            if refused := refused_method(str(node.target), node.args):
                raise EmitError(f"it calls the method {node.target}, {refused}; it cannot be emitted")
            return f"{arguments[0]}.{node.target}{_in_brackets([*arguments[1:], *keywords])}"
        if node.target in INFIX and len(arguments) == 2:
            arguments = [f"({text})" if text.startswith("-") else text for text in arguments]  # of numbers
            return f"{arguments[0]} {INFIX[node.target]} {arguments[1]}"
        if node.target is operator.neg:
            return f"-{arguments[0]}"
        if node.target is operator.setitem and not node.users:
            return f"{arguments[0]}[{self._index(node.args[1])}] = {arguments[2]}"
        if node.target is operator.getitem:
            return f"{arguments[0]}[{self._index(node.args[1])}]"
        if node.target is getattr:
            if refused := refused_attribute(node.args[1]):
                raise EmitError(f"it reads the attribute {node.args[1]}, {refused}; it cannot be emitted")
            return f"{arguments[0]}.{node.args[1]}"
        if isinstance(node.target, Written):
            self.needed.add("_written")
            function = self._function(node.target.function)
            return f"_written({', '.join([function, str(node.target.position), *arguments])})"
        return self._function(node.target) + call

    def within(self, target: str) -> str:
        """Return the expression for a module inside this one."""
        return access(target[len(self._path) + 1 :] if self._path else target)

    def within_tensor(self, target: str) -> str:
        """Return the expression for a parameter or buffer inside this module."""
        return reach_tensor(target[len(self._path) + 1 :] if self._path else target)

    def _arguments(self, node: fx.Node, given: tuple[Any, ...]) -> list[str]:
        scale = self._scales.get(node.name)
        if scale is not None:
            place = scale.place
            return [self.within_tensor(scale.path) if at == place else self.value(v) for at, v in enumerate(given)]
        if node.target is getattr:
            return [self.value(given[0])]
        if node.target in (operator.getitem, operator.setitem):
            return [self.value(given[0]), "", *map(self._inner, given[2:])]
        names = _names_of(node)
        return [self._argument(value, names.get(at, "")) for at, value in enumerate(given)]

    def _argument(self, value: Any, name: str) -> str:
        """Return the place of a constant, or the source of anything else, negative numbers included."""
        if isinstance(value, (float, int)) and not isinstance(value, bool) and value < 0:
            return self.value(value)
        if isinstance(value, (tuple, list)) and len(value) == 1 and type(value[0]) is int and value[0] > 0:
            return (
                f"({self._argument(value[0], name)},)"
                if isinstance(value, tuple)
                else f"[{self._argument(value[0], name)}]"
            )
        try:
            text = literal(value)
        except EmitError:
            return self.value(value)
        kind = next((kind for kind, said in _KINDS.items() if isinstance(value, kind)), None)
        self.constants.append(Constant(text, name or _KINDS.get(kind, "value")))
        return marked(len(self.constants) - 1)

    def autocast(self, node: fx.Node) -> str:
        """Return the expression of the context manager that ``node`` enters; what has its default is left out."""
        self.imports.add("import torch")
        names = ("device_type", "dtype", "enabled", "cache_enabled")
        given = dict(zip(names, node.args, strict=False))
        named = [f"{name}={self.value(given[name])}" for name in names[1:] if given[name] is not _DEFAULTS[name]]
        return f"torch.autocast({', '.join([self.value(given['device_type']), *named])})"

    def _function(self, function: Any) -> str:
        """Return what source calls ``function``, and note the import that it takes."""
        name = name_of(function)
        if name is None:
            if isinstance(function, type):
                return self._record(function)
            own = f"{getattr(function, '__module__', '')}.{getattr(function, '__name__', repr(function))}"
            raise EmitError(f"it calls {own}, which is no function of torch that only computes; it cannot be emitted")
        self.needed.add(name.partition(".")[0])
        home = name.rpartition(".")[0]
        if home == "F":
            self.imports.add("from torch.nn import functional as F")
        elif home:
            self.imports.add("import torch" if name.startswith("torch.") else f"import {home}")
        return name

    def _record(self, kind: type[Any]) -> str:
        record = record_of(kind)
        if record is None:
            raise EmitError(
                f"it makes a {kind.__module__}.{kind.__qualname__}, which source without that package cannot; "
                "return a dict, a tuple, a named tuple or a plain dataclass"
            )
        if self.records.setdefault(record.name, record) != record:
            raise EmitError(f"two classes of the model are called {record.name}; rename one")
        self.needed.add(record.name)
        return record.name

    def value(self, value: Any) -> str:
        """Return the source of an argument: of nodes their names, of containers their items."""
        if isinstance(value, fx.Node):
            return self.names.of(value)
        if isinstance(value, slice):
            return f"slice({', '.join(self.value(p) for p in (value.start, value.stop, value.step))})"
        if isinstance(value, tuple) and not isinstance(value, torch.Size):
            inner = [self._inner(v) for v in value]
            if hasattr(value, "_fields"):
                return f"{self._record(type(value))}({', '.join(inner)})"
            return f"({inner[0]},)" if len(inner) == 1 else f"({', '.join(inner)})"
        if isinstance(value, list):
            known = self.lists.get(tuple(value)) if self.lists else None
            return known or f"[{', '.join(self._inner(v) for v in value)}]"
        if isinstance(value, dict):
            return f"{{{', '.join(f'{literal(k)}: {self._inner(v)}' for k, v in value.items())}}}"
        return literal(value)

    def _index(self, index: Any) -> str:
        if isinstance(index, tuple) and index:
            return ", ".join(self._index(part) for part in index) + ("," if len(index) == 1 else "")
        if isinstance(index, slice):
            start, stop, step = ("" if p is None else self._inner(p) for p in (index.start, index.stop, index.step))
            return f"{start}:{stop}" + (f":{step}" if step else "")
        return self._inner(index)

    def _inner(self, value: Any) -> str:
        """Return the source of a part of an argument."""
        return self._argument(value, "") if type(value) in (int, float, str) else self.value(value)


def _in_brackets(arguments: Sequence[str]) -> str:
    return "\n".join(wrapped("(", arguments, ")", _COLUMN))


def _names_of(node: fx.Node) -> dict[int, str]:
    """Return what the arguments of ``node`` are called, by their places, as far as that is known."""
    if node.op == "call_module":
        return {}
    op = Call(node).op
    if op is not None:
        return {place: name for name, place in op.places.items()}
    return {place: one.name for place, one in enumerate(parameters(node.target))} if callable(node.target) else {}


def literal(value: Any) -> str:
    """Return the source of a constant; raises EmitError for what has none."""
    value = plain_number(value)
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if value is Ellipsis:
        return "..."
    if isinstance(value, str):
        return quoted(value)
    if value is None or type(value) in (bool, int, float, complex, range):
        return repr(value)
    if isinstance(value, (torch.dtype, torch.memory_format, torch.layout)):
        return str(value)
    if isinstance(value, torch.device):
        return f'torch.device("{value}")'
    if isinstance(value, torch.Size):
        return f"torch.Size({list(value)!r})"
    if isinstance(value, (tuple, list)):
        inner = ", ".join(literal(v) for v in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner},)" if len(value) == 1 else f"({inner})"
    raise EmitError(f"the constant {value!r} of type {type(value).__name__} cannot be written as source")


def is_name(atom: str) -> bool:
    """Say whether ``atom`` can follow a dot in source."""
    is_private = atom.startswith("__") and not atom.endswith("__")  # which Python takes for one of the class Model
    return is_identifier(atom) and not is_private


def access(target: str) -> str:
    """Return the expression for a dotted path of modules below ``self``."""
    text = "self"
    for depth, atom in enumerate(target.split(".") if target else []):
        if is_name(atom):
            text += f".{atom}"
        else:
            text = f"getattr(self, {literal(atom)})" if depth == 0 else f"{text}[{literal(atom)}]"
    return text


def reach(path: str) -> str:
    """Return the expression for a dotted path of modules below ``self``, whatever kind of module holds each."""
    return access(path) if all(map(is_name, path.split("."))) or not path else f"self.get_submodule({literal(path)})"


def reach_tensor(target: str) -> str:
    """Return the expression for a parameter or buffer below ``self``."""
    owner, _, name = target.rpartition(".")
    return f"{reach(owner)}.{name}" if is_name(name) else f"getattr({reach(owner)}, {literal(name)})"
