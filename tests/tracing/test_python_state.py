"""What forward reads beside its inputs: buffers are read, modes followed, what Python draws or keeps told."""

from __future__ import annotations

import random
from collections.abc import Callable
from random import random as draw
from typing import Any

import numpy
import pytest
import torch
from helpers import Wrapped
from torch import nn
from tracing_helpers import conv, images, opaque

import fxprune
from fxprune.ir.trace_notes import assumptions_of, opaque_modules

pytestmark = pytest.mark.filterwarnings("ignore:.* is opaque and hides 1 conv:fxprune.errors.FxpruneWarning")


class WithBuffer(nn.Module):
    scale: torch.Tensor
    on: torch.Tensor

    def __init__(self, function: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv, self.function = conv(), function
        self.register_buffer("scale", torch.rand(4, 1, 1))
        self.register_buffer("on", torch.tensor(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, self.conv(x))


@pytest.mark.parametrize("tier", ["symbolic", "values"])
@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x * (m.scale * 2),
        lambda m, x: x * m.scale.reshape(1, -1, 1, 1).exp(),
        lambda m, x: x * m.scale[:2].sum(),
        lambda m, x: x * sum(part for part in m.scale),
        lambda m, x: x * torch.where(m.on > 0, m.scale, 1.0),
        lambda m, x: x * m.scale if m.on else x,
        lambda m, x: x * int(m.on),
        lambda m, x: x * m.on.item(),
        lambda m, x: x * float(m.scale[0]),
    ],
)
def test_a_buffer_is_read_in_every_call(function: Callable[[Any, torch.Tensor], torch.Tensor], tier: str) -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        return function(m, x * 2 if tier == "values" and x.shape[1] == 4 else x)

    model = WithBuffer(forward).eval()
    graph = fxprune.trace(model, images())
    inside = "model." if opaque(graph) else ""
    for one, prefix in ((model, ""), (graph, inside)):
        state = dict(one.state_dict())
        for name in ("scale", "on"):
            if prefix + name in state:
                state[prefix + name].zero_()
    torch.testing.assert_close(graph(images(1)), model(images(1)))


def test_sizes_of_parameters_and_buffers_need_no_assertion() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        channels = m.scale.shape[0]
        if m.scale.dim() == 3 and len(m.scale) == channels and m.conv.weight.shape[0] == m.scale.size(0):
            x = x * m.scale
        return x

    graph = fxprune.trace(WithBuffer(function).eval(), images())
    assert (opaque(graph), assumptions_of(graph)) == ([], ())
    assert "scale" in graph.state_dict()


draw_by_numpy = numpy.random.rand  # bound here, where nothing is replaced
DRAWING: list[Callable[[], float]] = [
    random.random,
    lambda: random.uniform(0, 1),
    lambda: random.choice([0.1, 0.9]),
    lambda: float(numpy.random.rand()),
    lambda: random.Random(0).random(),
    lambda: draw(),
]


@pytest.mark.parametrize("drawn", DRAWING)
@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_what_python_draws_is_told_whichever_way_it_goes(drawn: Callable[[], float], limit: float) -> None:
    model = nn.Sequential(conv(), Wrapped(lambda m, x: m.layer(x) if drawn() <= limit else x, layer=conv()), conv())
    graph = fxprune.trace(model.eval(), images())
    (one,) = opaque_modules(graph)
    assert "draws random numbers by Python" in one.reason
    assert one.path in ("1", "model")  # what was imported by name elsewhere is seen at the end only


def test_one_number_of_numpy_drawn_under_a_name_of_its_own_is_seen() -> None:
    numpy.random.seed(0)
    numpy.random.rand()  # the key changes with every 624th number, the position with each
    model = Wrapped(lambda m, x: m.layer(x) * draw_by_numpy(), layer=conv())
    (one,) = opaque_modules(fxprune.trace(model.eval(), images()))
    assert "draws random numbers by Python" in one.reason


def test_drawing_is_as_it_was_after_a_trace() -> None:
    before = random.random
    fxprune.trace(conv(), images())
    assert random.random is before
    assert "random" not in vars(random.Random)


@pytest.mark.parametrize(
    "ask",
    [torch.is_autocast_enabled, torch.is_grad_enabled, torch.is_inference_mode_enabled,
     torch.are_deterministic_algorithms_enabled],
)  # fmt: skip
@pytest.mark.parametrize("how", ["branch", "data"])
def test_a_mode_is_asked_in_every_call(ask: Callable[..., bool], how: str) -> None:
    name = ask.__name__

    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        mode = getattr(torch, name)()
        return m.layer(x) * (mode + 1) if how == "data" else (m.layer(x) if mode else x)

    model = Wrapped(function, layer=conv()).eval()
    graph = fxprune.trace(model, images())
    assert opaque(graph) == ([] if how == "data" else ["model"])
    assert how == "data" or name in opaque_modules(graph)[0].reason
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(graph(images(1)), model(images(1)))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(graph(images(1)), model(images(1)))


class Remembers(nn.Module):
    """Counts its calls in a number, a list, a dict or a set, and reads the count or does not."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv, self.kind = conv(), kind
        self.number, self.entries, self.table, self.seen = 0, [0], {0: 0}, {0}
        self.last = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = len(self.kind)  # never read
        if self.kind == "number":
            self.number += 1
        elif self.kind == "list":
            self.entries.append(1)
        elif self.kind == "dict":
            self.table[len(self.table)] = 1
        elif self.kind == "set":
            self.seen.add(len(self.seen))
        return self.conv(x) * (self.number + len(self.entries) + len(self.table) + len(self.seen))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["number", "list", "dict", "set", "none"])
def test_what_forward_keeps_in_python_is_told(kind: str) -> None:
    model = nn.Sequential(conv(), Remembers(kind)).eval()
    graph = fxprune.trace(model, images(), check=False)
    assert opaque(graph) == ([] if kind == "none" else ["1"])
    for seed in range(3):
        torch.testing.assert_close(graph(images(seed)), model(images(seed)))


KEPT: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "counted": lambda m, y: y * (m.kept.add(1) if m.keep(m.kept + 1) is None else m.kept).sum(),
    "mean": lambda m, y: y * m.keep(m.kept * 0.9 + y.mean((0, 2, 3)) * 0.1).sum(),
    "in training": lambda m, y: y * (m.keep(m.kept + 1) if m.training else m.kept).sum(),
}


@pytest.mark.parametrize("use", KEPT)
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_tensor_kept_in_an_attribute_is_noticed(use: str, mirrored: bool) -> None:
    """It is put back after runs that make stand-ins of it, but not between the calls that are compared."""
    torch.manual_seed(0)  # what is kept may sum up to next to nothing

    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv()
            self.kept = torch.zeros(4)

        def keep(self, value: torch.Tensor) -> torch.Tensor:
            self.kept = value
            return value

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + KEPT[use](self, self.conv(x))

    x = images()
    if mirrored:
        x = x + x.flip(-1)  # the same in the mirror
    model = Keeps().eval()
    graph = fxprune.trace(model, x)
    for training in (False, True, True, False):
        assert torch.allclose(graph.train(training)(x), model.train(training)(x), atol=1e-6)
    assert opaque(graph)
