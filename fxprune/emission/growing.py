"""Blocks in which each part reads the values of all before it, as those of a DenseNet do: a list that grows.

features = [x]
for layer in self.children():
    features.append(layer(features))
return torch.cat(features, 1)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import fx

from fxprune.emission.blocks import Block, inputs_of, owner
from fxprune.emission.calls import Call, Constant, Item, Statement, call_text, sequence

_FEWEST = 3
_NUMBERED = re.compile(r"([A-Za-z_]*)(0|[1-9][0-9]*)")


class Growing(NamedTuple):
    """The parts, the values that the list begins with, those that it ends with, and what runs then."""

    parts: list[Block]
    first: tuple[fx.Node, ...]
    whole: tuple[fx.Node, ...]
    rest: list[fx.Node | Block]


def growing(block: Block, held: Sequence[str]) -> Growing | None:
    """Return how the list of a block grows; None if it has none, or holds anything but the parts that make it."""
    parts: list[Block] = []
    whole: tuple[fx.Node, ...] = ()
    for item in block.items:
        fits = (
            isinstance(item, Block) and item.takes_list and owner(item.path) == block.path and len(item.outputs) == 1
        )
        if not fits or not isinstance(item, Block) or (parts and item.inputs != whole):
            break
        parts.append(item)
        whole = (*item.inputs, *item.outputs)
    rest = block.items[len(parts) :]
    if len(parts) < _FEWEST or [part.path for part in parts] != list(held):
        return None
    if any(isinstance(item, fx.Node) and item.op == "call_module" for item in rest):
        return None  # of a layer that is tied to another, and then a child too
    made = {part.outputs[0] for part in parts}
    if made & set(block.outputs) or not all(
        _reads_whole(item, whole) or made.isdisjoint(inputs_of(item)) for item in rest
    ):
        return None
    return Growing(parts, parts[0].inputs, whole, rest)


def _reads_whole(item: fx.Node | Block, whole: tuple[fx.Node, ...]) -> bool:
    if isinstance(item, Block):
        return item.takes_list and item.inputs == whole
    lists = [one for one in item.args if isinstance(one, list)]
    return [tuple(one) for one in lists] == [whole] and not set(whole) & {
        one for one in item.args if isinstance(one, fx.Node)
    }


def loop_of(names: Sequence[str], calls: Sequence[Call]) -> Statement | None:
    """Return the loop that makes parts of one class, numbered names in a row; None if that does not say them all."""
    numbered = [_NUMBERED.fullmatch(name) for name in names]
    prefixes = {found[1] if found else None for found in numbered}
    numbers = [int(found[2]) for found in numbered if found]
    if len(prefixes) > 1 or numbers != list(range(numbers[0], numbers[0] + len(names))) if numbers else True:
        return None
    columns = _columns(calls)
    differing = None if columns is None else [place for place, texts in columns.items() if len(set(texts)) > 1]
    if columns is None or differing is None or len(differing) > 1:
        return None
    first = Item("start", Constant(str(numbers[0]), "start"), True, "0")
    if not differing:
        counted = Item("count", Constant(f"range({len(names)})", "count"), True)
        return _loop("_", Call("enumerate", (counted, first)), prefixes.pop(), call_text(calls[0], {}))
    item = calls[0].items[differing[0]]
    assert isinstance(item.value, Constant)
    text = call_text(calls[0], {item.value: item.name})
    each = Item(
        "sizes", Constant(sequence(columns[differing[0]]), "sizes" if item.positional else f"{item.name}s"), True
    )
    return _loop(item.name, Call("enumerate", (each, first)), prefixes.pop(), text)


def _loop(name: str, call: Call, prefix: str | None, text: str) -> Statement:
    return Statement(f"for i, {name} in ", call, f':\n    self.add_module(f"{prefix}{{i}}", {text})')


def _columns(calls: Sequence[Call]) -> Mapping[int, list[str]] | None:
    """Return the arguments of calls of one class, by their places; None if they are not of one."""
    if len({(call.head, call.form, call.tail) for call in calls}) > 1 or calls[0].form != "arguments":
        return None
    if any(isinstance(item.value, Call) for call in calls for item in call.items):
        return None
    rows = [[item.value.text for item in call.items if isinstance(item.value, Constant)] for call in calls]
    return {place: list(texts) for place, texts in enumerate(zip(*rows, strict=True))}
