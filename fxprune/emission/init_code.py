"""The constructor of an emitted class: every layer, parameter and buffer under its name in the state dict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from fxprune.emission.calls import Call, Constant, Item, Statement
from fxprune.emission.expressions import access, is_name, literal, reach, reach_tensor
from fxprune.emission.layer_spec import LayerSpec, defaults_of
from fxprune.emission.state_layout import StateLayout, TensorSpec

NAMED_CONTAINER = "_Layers"
_ONE_FOR_ALL = ("normalized_shape",)  # layers take a number for a tuple of it


def statements(parts: dict[str, Call], tensors: dict[str, TensorSpec]) -> list[Statement]:
    """Return what makes layers and blocks, given what makes each, and tensors, all by path in the class."""
    tree: dict[str, Any] = {}
    for path, part in parts.items():
        *parents, name = path.split(".")
        _branch(tree, parents)[name] = part
    made = []
    for target, tensor in tensors.items():
        owner = target.rpartition(".")[0]
        _branch(tree, owner.split(".") if owner else [])
        made.append(_tensor(target, tensor))
    found = []
    for name, content in tree.items():
        call = _call(content)
        before, after = (f"self.{name} = ", "") if is_name(name) else (f"self.add_module({literal(name)}, ", ")")
        found.append(Statement(before, call, after))
    return found + made


def closing_lines(layout: StateLayout) -> list[str]:
    """Return the statements of the whole network's class that come last: what is frozen, what is the same."""
    frozen = [
        f"{reach_tensor(f'{path}.{name}')}.requires_grad_(False)"
        for path, spec in layout.layers.items()
        for name in spec.frozen
        if not spec.all_frozen
    ]
    return frozen + [_tie(name, known, known in layout.layers) for name, known in layout.ties.items()]


def layer_call(spec: LayerSpec) -> Call:
    """Return what makes a layer; arguments that have their defaults are there too, and left out where they have."""
    known = defaults_of(spec.kind)
    given = {
        name: literal(_short(value) if name in _ONE_FOR_ALL else value) for name, value in spec.arguments.items()
    }
    items = (
        Item(name, Constant(given.get(name, known.get(name, "")), name), name in spec.positional, known.get(name))
        for name in dict.fromkeys((*known, *given))
        if name in given or name in known
    )
    tail = f".to({spec.dtype})" if spec.dtype is not None else ""
    ordered = sorted(items, key=lambda item: not item.positional)
    return Call(f"nn.{spec.kind}", tuple(ordered), tail + ".requires_grad_(False)" * spec.all_frozen)


def _short(value: Any) -> Any:
    return value[0] if isinstance(value, (tuple, list)) and len(value) == 1 else value


def sequential(parts: dict[str, Call], stateful: set[str]) -> Call:
    """Return an nn.Sequential of ``parts``; those that are ``stateful`` keep their names."""
    form = "parts" if is_placed(list(parts), stateful) else "named"
    return Call("nn.Sequential", tuple(Item(name, part, True) for name, part in parts.items()), form=form)


def is_placed(names: Sequence[str], stateful: set[str]) -> bool:
    """Say whether an nn.Sequential itself gives parts their names, those that are stateful at least."""
    placed = all(name == str(place) for place, name in enumerate(names) if name in stateful)
    return placed and all(name.isdecimal() for name in names)


def _branch(tree: dict[str, Any], atoms: list[str]) -> dict[str, Any]:
    for atom in atoms:
        tree = tree.setdefault(atom, {})
    return tree


def _call(content: Any) -> Call:
    """Return what makes a layer, a block or a container of such."""
    if isinstance(content, Call):
        return content
    if not content:
        return Call("nn.Module")
    kind = NAMED_CONTAINER if any(hasattr(nn.ModuleDict, name) for name in content) else "nn.ModuleDict"
    return Call(kind, tuple(Item(name, _call(part), True) for name, part in content.items()), form="dict")


def _tensor(target: str, tensor: TensorSpec) -> Statement:
    owner, _, name = target.rpartition(".")
    items = [Item(str(axis), Constant(str(size), "channels"), True) for axis, size in enumerate(tensor.shape)]
    items = items or [Item("size", Constant("()", "shape"), True)]
    if tensor.dtype != "torch.float32":
        items.append(Item("dtype", Constant(tensor.dtype, "dtype")))
    empty = Call("torch.empty", tuple(items))
    if not tensor.parameter:
        return Statement(f"{access(owner)}.register_buffer({literal(name)}, ", empty, ")")
    trained = () if tensor.trainable else (Item("requires_grad", Constant("False", "requires_grad")),)
    value = Call("nn.Parameter", (Item("data", empty, True), *trained))
    if is_name(name):
        return Statement(f"{access(owner)}.{name} = ", value)
    return Statement(f"{access(owner)}.register_parameter({literal(name)}, ", value, ")")


def _tie(name: str, known: str, is_module: bool) -> str:
    """Return the statement that makes ``name`` the same object as ``known``."""
    owner, _, last = name.rpartition(".")
    if is_module:
        return f"{reach(owner)}.add_module({literal(last)}, {reach(known)})"
    same = reach_tensor(known)
    if is_name(last):
        return f"{reach(owner)}.{last} = {same}"
    return f"setattr({reach(owner)}, {literal(last)}, {same})"
