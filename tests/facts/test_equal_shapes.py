"""What is proved of shapes with unknown sizes is what every call has: sizes that are one symbol are one number."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from helpers import Wrapped, example, traced
from torch import fx, nn
from torch.nn import functional

from fxprune.facts.equal_shapes import EqualShapes
from fxprune.facts.shape_rules.cases import Case, Shape
from fxprune.facts.shape_rules.sizes import Atom, Product, replaced
from fxprune.facts.shapes import values_of

Function = Callable[[Any, torch.Tensor], Any]


def require_true(graph: fx.GraphModule, inputs: Sequence[Sequence[torch.Tensor]]) -> int:
    """Compare what is known of every value with what it is in calls; return how many sizes were told."""
    cases, told = EqualShapes(graph)._cases, 0
    for each in inputs:
        values: dict[fx.Node, Any] = {}

        class Keep(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Any:
                values[n] = super().run_node(n)  # noqa: B023
                return values[n]  # noqa: B023

        with torch.no_grad():
            try:
                Keep(graph).run(*(x.double() for x in each))
            except Exception:
                continue  # what the graph does not take
        fitting = [
            case
            for case in cases
            if all(node not in case.ranks or values[node].dim() == case.ranks[node] for node in values)
        ]
        assert len(fitting) == (1 if cases else 0)
        for case in fitting:
            told += _require_case(case, values)
    return told


def _require_case(case: Case, values: dict[fx.Node, Any]) -> int:
    numbers: dict[Atom, int] = {}
    for node, value in values.items():
        if isinstance(value, torch.Tensor):
            numbers |= {("axis", node, axis): value.shape[-axis] for axis in range(1, value.dim() + 1)}
    known: dict[Any, int] = {}
    told = 0
    for node, value in values.items():
        shape = case.shapes.get(node)
        items: list[tuple[Any, Any]] = []
        if isinstance(value, torch.Tensor) and isinstance(shape, Shape):
            lead, cut, dims = case.compared(shape)
            leading = () if lead is None else values[lead].shape[: values[lead].dim() - cut]
            assert len(value.shape) == len(leading) + len(dims), (node, shape, value.shape)
            items = [*zip(leading, value.shape, strict=False), *zip(dims, value.shape[len(leading) :], strict=True)]
        elif isinstance(value, int) and not isinstance(value, bool) and isinstance(shape, (int, Product)):
            items = [(case.told(shape), value)]
        for size, number in items:
            size = size if isinstance(size, int) else replaced(size, numbers)
            if isinstance(size, int):
                assert size == number, (node, shape, value)
            else:
                assert known.setdefault(size, number) == number, (node, size, value)
            told += 1
    return told


def inputs(*ranks: int) -> list[tuple[torch.Tensor]]:
    """Return examples of many sizes, four channels each."""
    chance = random.Random(0)
    return [
        (torch.randn([chance.randint(1, 9) if axis != 1 else 4 for axis in range(rank)]),)
        for rank in ranks
        for _ in range(24)
    ]


def windows(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Cut x into windows of two by two, and put it together again, as window attention does."""
    n, c, height, width = x.shape
    torch._assert(height % 2 == 0, "height")
    torch._assert(width % 2 == 0, "width")
    rows, columns = height // 2, width // 2
    parts = x.view(n, c, rows, 2, columns, 2).permute(0, 2, 4, 1, 3, 5).reshape(-1, c, 4)
    whole = parts.view(-1, rows, columns, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(-1, c, height, width)
    return x + whole


FUNCTIONS: list[Function] = [
    lambda m, x: functional.conv2d(x, m.conv.weight, stride=2, padding=(1, 0)),
    lambda m, x: functional.conv2d(x, m.conv.weight, None, 1, (x.shape[2] // x.shape[2], 1)),
    lambda m, x: functional.conv2d(x, m.conv.weight, padding="same", dilation=2),
    lambda m, x: m.conv(x)[:, 1:, 1:-1, ::2],
    lambda m, x: functional.max_pool2d(m.conv(x), 3, 2, 1),
    lambda m, x: functional.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    lambda m, x: functional.avg_pool2d(x, 2),
    lambda m, x: functional.avg_pool2d(m.conv(x), 3, 2, 1, ceil_mode=True) + x.mean((2, 3), keepdim=True),
    lambda m, x: functional.pad(m.conv(x), (1, 0, int(x.shape[2] ** 0.5), 1)).mean((2, 3), keepdim=True) * x,
    lambda m, x: functional.scaled_dot_product_attention(m.conv(x), m.conv(x)[:, :1], m.conv(x)[:, :1]),
    lambda m, x: functional.scaled_dot_product_attention(x[:1], x[:, :1], x),
    lambda m, x: m.conv.weight[m.index].sum(0) + x[:, :1, :1, :1],
    lambda m, x: m.conv.weight[m.conv.weight[:, 0, 0, 0] > 0].sum(0) + x[:, :1, :1, :1],
    lambda m, x: x[m.index] * 2,
    windows,
    lambda m, x: functional.max_pool2d(x, (2, 1), (1, 2), dilation=2),
    lambda m, x: functional.adaptive_avg_pool2d(x, (None, 2)),
    lambda m, x: functional.pad(m.conv(x), (1, x.shape[2] % 2, 2, -1)),
    lambda m, x: functional.interpolate(m.conv(x), size=x.shape[-2:]) + x.mean((2, 3), keepdim=True),
    lambda m, x: functional.interpolate(x, scale_factor=2),
    lambda m, x: functional.interpolate(m.conv(x), scale_factor=1.5) + x.mean((2, 3), keepdim=True),
    lambda m, x: (
        functional.interpolate(functional.max_pool2d(x, 2), scale_factor=2.0)[..., : x.shape[2], :1] + x[..., :1, :1]
    ),
    lambda m, x: x.flatten(2).transpose(1, 2) @ x.flatten(2),
    lambda m, x: x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, x.shape[1]),
    lambda m, x: x.view(x.size(0), 2, -1, *x.shape[2:]).transpose(1, 2).reshape(x.shape),
    lambda m, x: torch.cat([x, functional.pad(m.conv(x), (1, 1, 1, 1))[:, :, : x.shape[2]]], 1),
    lambda m, x: torch.cat(x.chunk(3, 1)[::-1], 1) + torch.cat(torch.split(x, [1, 3], dim=1), 1),
    lambda m, x: torch.cat([x, x[..., :3]], -1)[..., : x.shape[-1]],
    lambda m, x: torch.stack([x, x * 2], 2).flatten(1, 2),
    lambda m, x: torch.stack(x.unbind(1), 1) + torch.cat(torch.split(x, 2, 1), 1),
    lambda m, x: torch.einsum("nchw,ndhw->ncd", x, x),
    lambda m, x: x * torch.rand([x.shape[0]] + [1] * (x.dim() - 1)),
    lambda m, x: x * x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(0.5).div_(2),
    lambda m, x: x.unsqueeze(1).expand(-1, 3, -1, -1, -1).sum(1),
    lambda m, x: x.amax(-1) + x.norm(2, -2)[:, :, :1],
    lambda m, x: x.mean(1, keepdim=True) * x + x.clamp(max=x.mean()),
    lambda m, x: x[:, :, -(x.shape[2] // 2) :] * 2,
    lambda m, x: x.transpose(2, 3) + x,
    lambda m, x: functional.layer_norm(x.permute(0, 2, 3, 1), (4,)).unbind(-1)[0],
    lambda m, x: functional.scaled_dot_product_attention(x, x, x),
    lambda m, x: functional.linear(x.transpose(1, -1), m.conv.weight[0, :, 0].t()),
    lambda m, x: m.up(x)[:, :, : x.size(2)] + m.up(x)[:, :, 1:-1],
    lambda m, x: x[:, None] + x[..., None, :].transpose(1, 2),
    lambda m, x: x.roll(1, 2) + torch.addcmul(x, x[:1], x[:, :1]),
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_of_functions(function: Function) -> None:
    model = Wrapped(function, conv=nn.Conv2d(4, 4, 3, bias=False), up=nn.ConvTranspose2d(4, 4, 3, 1, 0))
    model.register_buffer("index", torch.tensor([[0, 1], [1, 0]]))
    graph = traced(model, torch.randn(2, 4, 6, 6))
    assert require_true(graph, inputs(3, 4, 5)) > 0


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0)),
        nn.Conv1d(4, 4, 3, padding="same"),
        nn.ConvTranspose2d(4, 4, 3, 2, 1, 1),
        nn.BatchNorm1d(4),
        nn.Linear(4, 3),
        nn.LayerNorm((4, 3)),
        nn.MaxPool2d(3, 2, 1),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.AdaptiveAvgPool2d((2, None)),
        nn.Flatten(1, 2),
        nn.GroupNorm(2, 4),
        nn.PReLU(4),
        nn.Softmax(1),
    ],
)
def test_of_layers(layer: nn.Module) -> None:
    examples = [torch.randn(2, 4, 6, 6), torch.randn(2, 4, 4), torch.randn(3, 4), torch.randn(2, 4, 3)]
    fitting = []
    for x in examples:
        try:
            layer(x)
        except Exception:
            continue
        fitting.append(x)
    graph = traced(nn.Sequential(layer, nn.ReLU()), fitting[0])
    tried = [*inputs(2, 3, 4, 5), *((torch.randn(*lead, 4, 3),) for lead in ((), (2,), (5, 1)))]
    assert require_true(graph, [*tried, *((torch.randn(2, *rest, 4),) for rest in ((), (3,), (5, 1)))]) > 0


def test_what_is_not_one_shape_is_not_said_to_be() -> None:
    graph = traced(Wrapped(lambda m, x: (x[..., :6], x[..., :5], x.flip(1), x * 2)), torch.randn(2, 4, 6, 6))
    outputs: Any = graph.graph.output_node().args[0]
    cropped, shorter, flipped, scaled = outputs
    shapes, source = EqualShapes(graph), next(iter(graph.graph.nodes))
    assert not shapes.equal(cropped, source)
    assert not shapes.equal(cropped, shorter)
    assert shapes.equal(flipped, scaled)


def _conv(**options: Any) -> nn.Conv2d:
    return nn.Conv2d(4, 4, **{"kernel_size": 3, "padding": 1, **options})


LAYERS = [
    *(_conv(), _conv(stride=2), _conv(padding=0), _conv(padding=2, dilation=2), _conv(kernel_size=2, stride=(2, 1))),
    *(_conv(padding="same"), _conv(kernel_size=1, stride=2, padding="valid"), nn.MaxPool2d(3, 2, 1)),
    *(nn.AvgPool2d(2), nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.MaxPool2d(3, 1, 1, dilation=2)),
    *(nn.ReLU(), nn.GELU(), nn.BatchNorm2d(4), nn.ZeroPad2d(1)),
]


class Drawn(nn.Module):
    """Random layers and slices, each of one of the values so far; all of them are returned."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        chance = random.Random(seed)
        self.layers = nn.ModuleList(copy.deepcopy(chance.choices(LAYERS, k=24)))
        self.sources = [chance.randrange(1 + n // 3) for n in range(24)]  # not deep: images stay large
        self.steps = [chance.choice([None, None, None, 1, 2]) for _ in range(24)]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        values = [x]
        for layer, source, step in zip(self.layers, self.sources, self.steps, strict=True):
            values.append(layer(values[source]) if step is None else values[source][:, :, ::step, ::2])
        return values


@pytest.mark.parametrize("seed", range(20))
def test_values_said_to_have_one_shape_have_it_for_every_image(seed: int) -> None:
    graph = traced(Drawn(seed), example(2, 4, 128, 128))
    shapes = EqualShapes(graph)
    pairs = [
        (a, b) for a, b in itertools.combinations(graph.graph.find_nodes(op="call_module"), 2) if shapes.equal(a, b)
    ]
    assert pairs
    for size in ((3, 4, 129, 143), (1, 4, 134, 116)):
        values = values_of(graph, [example(*size)])
        assert all(values[a].shape == values[b].shape for a, b in pairs)


def test_windows_that_are_whole_put_together_have_the_shape_of_what_was_cut() -> None:
    graph = traced(Wrapped(windows), torch.randn(2, 4, 6, 6))
    total = next(node for node in graph.graph.nodes if node.name == "add")
    x, whole = total.args
    assert EqualShapes(graph).equal(x, whole)
