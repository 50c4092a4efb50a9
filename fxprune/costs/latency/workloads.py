"""What one op computes, by numbers, and the graph of that op alone that is timed at any widths.

conv 3x3, stride 2, on 1 x c0 x 56 x 56 to c1 channels   ->   timed at c0, c1 = (64, 128), (32, 128), (32, 64), ...

A family is all but the widths: ops of one family share what was measured of any of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import TensorMetadata
from torch.nn import functional

from fxprune.costs.latency.conditions import Conditions
from fxprune.costs.latency.layouts import lay_out

Widths = tuple[int, ...]
Alone = tuple[fx.GraphModule, tuple[Any, ...]]
"""A graph of one op, and what it is called with."""
Call = Callable[[list[fx.Node]], tuple[str, Any, Any, Any]]
"""Returns, for the values that an op reads, how torch.fx makes the node that calls it."""


_ON = " on "


class Operand(NamedTuple):
    """A tensor that an op reads, at any widths.

    Attributes:
        shape: at full width.
        scaled: for each axis which parameter it grows with, -1 for none.
        dtype: its dtype; floating point ones follow the conditions.
        order: its axes from the outermost in memory to the innermost.
    """

    shape: tuple[int, ...]
    scaled: tuple[int, ...]
    dtype: torch.dtype
    order: tuple[int, ...]

    @classmethod
    def like(cls, meta: TensorMetadata, scaled: Sequence[int] | None = None) -> Operand:
        """Return what a value of the graph is."""
        rank = len(meta.shape)
        order = sorted(range(rank), key=lambda axis: (-meta.stride[axis], axis)) if meta.stride else range(rank)
        return cls(tuple(meta.shape), tuple(scaled or [-1] * rank), meta.dtype, tuple(order))

    def tensor(self, full: Widths, widths: Widths, conditions: Conditions) -> torch.Tensor:
        """Return random numbers of that shape; whole numbers are zeros."""
        shape = [
            size if one < 0 else max(1, round(size * widths[one] / full[one]))
            for size, one in zip(self.shape, self.scaled, strict=True)
        ]
        laid_out = [shape[axis] for axis in self.order]
        made = torch.randn(laid_out) if self.dtype.is_floating_point else torch.zeros(laid_out, dtype=self.dtype)
        placed = conditions.placed(made.permute([self.order.index(axis) for axis in range(len(shape))]))
        assert isinstance(placed, torch.Tensor)
        return placed

    def text(self, full: Widths) -> str:
        """Return its shape with "c0" in the place of the width of the first parameter."""
        sizes = [
            str(size) if one < 0 else f"c{one}" if size == full[one] else f"c{one}*{size / full[one]:.4g}"
            for size, one in zip(self.shape, self.scaled, strict=True)
        ]
        moved = "" if self.order == tuple(sorted(self.order)) else f"@{''.join(map(str, self.order))}"
        kind = "" if self.dtype.is_floating_point else f":{str(self.dtype).rpartition('.')[2]}"
        return "x".join(sizes) + moved + kind


@dataclass(frozen=True)
class Workload:
    """What one op computes.

    Attributes:
        family: all but the widths, as text; the same text is the same work.
        widths: of its parameters, at full width; none where it is timed as it is called.
        steps: what the width of each is a multiple of anyway: of a grouped conv.
        fused: a backend that compiles whole networks joins it with what is in front of it.
        make: returns the op alone at other widths.
        straight: its time is taken to follow each width in a line, without steps.
    """

    family: str
    widths: Widths
    steps: Widths = field(compare=False, repr=False)
    fused: bool = field(compare=False, repr=False)
    make: Callable[[Widths, Conditions], Alone] = field(compare=False, repr=False)
    straight: bool = field(default=False, compare=False, repr=False)

    @property
    def kind(self) -> str:
        """What it is, whatever the size of what it reads."""
        return self.family.partition(_ON)[0]


def alone(call: Call, inputs: Sequence[Any], module: nn.Module | None = None) -> Alone:
    """Return the graph of one ``call``: what it is for the values that are read; of ``module``, if any, as "op"."""
    graph = fx.Graph()
    root = nn.Module()
    if module is not None:
        root.add_module("op", module)
    read = [graph.placeholder(f"x{place}") for place in range(len(inputs))]
    graph.output(graph.create_node(*call(read)))
    return fx.GraphModule(root, graph).eval(), tuple(inputs)


def layer_workload(
    name: str,
    made: Callable[[Widths], nn.Module],
    operand: Operand,
    widths: Widths,
    steps: Widths | None = None,
    *,
    fused: bool = False,
) -> Workload:
    """Return the work of a layer of one input that ``made`` makes at any widths."""

    def make(at: Widths, conditions: Conditions) -> Alone:
        layer = conditions.placed(_filled(made, at))
        lay_out(layer, conditions.layout)
        return alone(_of_layer, [operand.tensor(widths, at, conditions)], layer)

    return Workload(f"{name}{_ON}{operand.text(widths)}", widths, steps or (1,) * len(widths), fused, make)


def call_workload(
    name: str,
    call: Call,
    operands: Sequence[Operand],
    widths: Widths,
    *,
    fused: bool = True,
    straight: bool = False,
) -> Workload:
    """Return the work of a function, a method or a layer without weights, of operands at any widths."""

    def make(at: Widths, conditions: Conditions) -> Alone:
        return alone(call, [one.tensor(widths, at, conditions) for one in operands])

    told = ", ".join(one.text(widths) for one in operands)
    return Workload(f"{name}{_ON}{told}", widths, (1,) * len(widths), fused, make, straight)


def padded_workload(operand: Operand, axis: int, width: int) -> Workload:
    """Return the work of padding channels with zeros: to twice as many, however many they are, up to ``width``."""
    scaled = [0 if place == axis else -1 for place in range(len(operand.shape))]
    shape = [(width + 1) // 2 if place == axis else size for place, size in enumerate(operand.shape)]
    spatial = tuple(0 if place == axis else size for place, size in enumerate(operand.shape))
    half = operand._replace(shape=tuple(shape), scaled=tuple(scaled))

    def make(at: Widths, conditions: Conditions) -> Alone:
        read = half.tensor((width,), at, conditions)
        pads = (0,) * (2 * (len(shape) - 1 - axis)) + (0, at[0] - read.shape[axis])
        return alone(lambda x: ("call_function", functional.pad, (x[0], pads), {}), [read])

    return Workload(
        f"channels padded, axis {axis}{_ON}{operand._replace(shape=spatial).text((1,))}", (width,), (1,), True, make
    )


def _filled(made: Callable[[Widths], nn.Module], at: Widths) -> nn.Module:
    """Return a layer whose weights are all the same: its own first values take longer to draw than it does to run."""
    with torch.device("meta"):
        layer = made(at).requires_grad_(False)
    if any(one.is_meta for one in (*layer.parameters(), *layer.buffers())):
        layer.to_empty(device="cpu")
        for tensor in (*layer.parameters(), *layer.buffers()):
            tensor.fill_(0.01 if tensor.is_floating_point() else 0)
    return layer


def _of_layer(read: list[fx.Node]) -> tuple[str, Any, Any, Any]:
    return "call_module", "op", tuple(read), {}


def digest(*parts: Any) -> str:
    """Return a short text that is another one for others of ``parts``."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]
