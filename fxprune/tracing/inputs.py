"""How a model is called: example inputs bound to the arguments of its forward."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from fxprune.errors import TraceError
from fxprune.ir.node_targets import is_identifier


@dataclass(frozen=True)
class Argument:
    """One argument that the example gives: its name in the graph, its value, and its keyword if it is one."""

    name: str
    value: Any
    keyword: str | None = None


@dataclass(frozen=True)
class Call:
    """A call of forward. Arguments past it take their defaults."""

    arguments: tuple[Argument, ...]

    @property
    def values(self) -> tuple[Any, ...]:
        """The values in the order of the graph's inputs."""
        return tuple(argument.value for argument in self.arguments)

    def arrange(self, values: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return other values for the same arguments as the (args, kwargs) that forward takes."""
        pairs = list(zip(self.arguments, values, strict=True))
        positional = tuple(value for argument, value in pairs if argument.keyword is None)
        return positional, {argument.keyword: value for argument, value in pairs if argument.keyword is not None}


def bind(model: nn.Module, inputs: tuple[Any, ...], keywords: Mapping[str, Any]) -> Call:
    """Match inputs to the arguments of ``model.forward``; raises TraceError if they do not fit."""
    signature = inspect.signature(model.forward)
    try:
        bound = signature.bind(*inputs, **keywords)
    except TypeError as error:
        wanted = ", ".join(str(p) if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) else p.name
                           for p in signature.parameters.values())  # fmt: skip
        raise TraceError(
            f"{type(model).__name__}.forward takes ({wanted}), but {len(inputs) + len(keywords)} example inputs were "
            f"given ({error}); pass a tuple with one entry an input"
        ) from error
    arguments: list[Argument] = []
    skipped = False
    for name, parameter in signature.parameters.items():
        if name not in bound.arguments:
            skipped = True
            continue
        value = bound.arguments[name]
        if parameter.kind is parameter.VAR_POSITIONAL:
            arguments += [Argument(f"{name}_{index}", item) for index, item in enumerate(value)]
        elif parameter.kind is parameter.VAR_KEYWORD:
            arguments += [Argument(key, item, key) for key, item in value.items()]
        else:
            by_keyword = skipped or parameter.kind is parameter.KEYWORD_ONLY
            arguments.append(Argument(name, value, name if by_keyword else None))
    for argument in arguments:
        if not is_identifier(argument.name) or argument.name == "self":
            raise TraceError(
                f"{type(model).__name__}.forward is given an input {argument.name!r}; give it another name"
            )
    return Call(tuple(arguments))


def call_of_graph(graph_module: fx.GraphModule, call: Call) -> Call:
    """Return ``call`` in the order of the inputs of a graph, all by position, as graphs are run."""
    given = {argument.name: argument.value for argument in call.arguments}
    names = [str(node.target).lstrip("*") for node in graph_module.graph.nodes if node.op == "placeholder"]
    return Call(tuple(Argument(name, given[name]) for name in names if name in given))
