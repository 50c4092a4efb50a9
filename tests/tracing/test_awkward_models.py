"""Models as people write them, from end to end: traced, scaled, half of it removed, fused, emitted, read back."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Block, Wrapped, assert_state_equal, example, randomize, state_of
from torch import fx, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

import fxprune
from fxprune import passes
from fxprune.choosing.inspection import inspect_graph
from fxprune.errors import EmitError
from fxprune.gates.resconv import ResConv
from fxprune.ir.nodes import OPAQUE
from fxprune.ir.pytrees import tensors_in
from fxprune.pipelines.chains import AFTER_TRAINING, insert_scales
from fxprune.rewriting.verify import difference
from fxprune.structures.gated_layers import layers


def conv(channels: int = 8, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, padding=1, groups=groups)


def channel_shuffle(m: Any, x: torch.Tensor) -> torch.Tensor:
    left, right = x.chunk(2, dim=1)
    y = torch.cat((left, torch.relu(m.norm(m.narrow(right)))), dim=1)
    n, c, h, w = y.size()
    y = y.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous()
    z: torch.Tensor = m.a(y.view(n, -1, h, w))
    return z


def c2f(m: Any, x: torch.Tensor) -> torch.Tensor:
    parts = list(m.a(x).chunk(2, 1))
    parts.extend(parts[-1] + block(parts[-1]) for block in (m.narrow, m.grouped))
    y: torch.Tensor = m.join(torch.cat(parts, 1))
    return y


def called_at_two_sites(m: Any, x: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor = m.a(torch.relu(m.a(x))) + m.b(x)
    return y


def with_a_parameter(m: Any, x: torch.Tensor) -> torch.Tensor:
    return torch.relu(functional.conv2d(x, m.kernel, m.offset, padding=1)) + x


def adds_in_place(m: Any, x: torch.Tensor) -> torch.Tensor:
    x = m.a(x)
    y: torch.Tensor = m.relu(m.norm8(m.b(x)))
    y += x
    y *= 0.5
    return y


def relu_in_place_on_the_shortcut(m: Any, x: torch.Tensor) -> torch.Tensor:
    shortcut = m.a(x)
    y = m.b(m.relu(shortcut))  # overwrites the shortcut
    return y + shortcut  # type: ignore[no-any-return]


def weight_normed(m: Any, x: torch.Tensor) -> torch.Tensor:
    return x + m.normed(torch.relu(m.a(x)))  # type: ignore[no-any-return]


def residual_onto_the_input(m: Any, x: torch.Tensor) -> torch.Tensor:
    return x + m.b(torch.relu(m.a(x)))  # type: ignore[no-any-return]


def returns_a_dict(m: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    y = torch.relu(m.a(x))
    return {"features": y, "out": m.b(y)}


class Deciding(nn.Module):
    """A block that looks at its data."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Block(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.body(x)
        return y if x.mean() > -1e9 else -y


def decides_in_one_block(m: Any, x: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor = m.b(m.deciding(torch.relu(m.a(x))))
    return y


AWKWARD: dict[Callable[..., Any], tuple[int, int, str]] = {
    # eligible convs, removable branches, a reason why another is not
    channel_shuffle: (2, 0, ""),
    c2f: (3, 2, "changes the channels"),
    called_at_two_sites: (1, 0, "shared by 2 call sites"),
    with_a_parameter: (1, 1, ""),
    adds_in_place: (2, 1, ""),
    relu_in_place_on_the_shortcut: (2, 1, ""),
    weight_normed: (2, 1, ""),
    residual_onto_the_input: (2, 1, ""),
    returns_a_dict: (2, 0, ""),
    decides_in_one_block: (4, 1, ""),
}


def build(function: Callable[..., Any]) -> nn.Module:
    torch.manual_seed(0)
    modules: dict[str, Any] = {
        "a": conv(),
        "b": conv(),
        "narrow": conv(4),
        "grouped": conv(4, groups=4),
        "join": nn.Conv2d(16, 8, 1),
        "normed": weight_norm(conv()),
        "norm": nn.BatchNorm2d(4),
        "norm8": nn.BatchNorm2d(8),
        "relu": nn.ReLU(inplace=True),
        "kernel": nn.Parameter(torch.randn(8, 8, 3, 3) / 8),
        "offset": nn.Parameter(torch.randn(8)),
        "deciding": Deciding(),
    }
    return randomize(Wrapped(function, **modules))


@pytest.mark.parametrize("function", AWKWARD, ids=lambda f: f.__name__)
def test_what_is_found(function: Callable[..., Any]) -> None:
    convs, branches, reason = AWKWARD[function]
    found = inspect_graph(fxprune.trace(build(function), example(2, 8, 6, 6)))
    assert sum(site.eligible for _, site in found.convs) == convs
    assert sum(branch.eligible for _, branch in found.branches) == branches
    reasons = " ".join(str(site.reason) for _, site in found.convs if not site.eligible)
    assert reason in reasons
    assert bool(reason) == bool(reasons)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("function", AWKWARD, ids=lambda f: f.__name__)
def test_from_end_to_end(function: Callable[..., Any], seed: int) -> None:
    model = build(function)
    state = state_of(model)
    graph = fxprune.trace(model, example(2, 8, 6, 6))
    scaled = insert_scales(graph, "all").graph_module
    chance = random.Random(seed)
    for layer in layers(scaled):
        scale = chance.choice([0.0, chance.uniform(0.3, 1.2)])
        if isinstance(layer.module, ResConv):
            layer.assign(scale=scale, shortcut=chance.uniform(0.3, 1.2))
        else:
            layer.assign(scale=scale)
    result = fxprune.Pipeline([passes.RemoveLayers(threshold=0.0), *AFTER_TRAINING])(scaled)
    compiled = result.graph_module
    assert not layers(compiled)
    other = example(3, 8, 9, 7, seed=1)
    assert fxprune.verify(scaled, compiled, other).equal
    assert_state_equal(model, state)
    _assert_reads_back(compiled, other)


def _assert_reads_back(compiled: fx.GraphModule, x: torch.Tensor) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if compiled.meta.get(OPAQUE):
            with pytest.raises(EmitError, match="deciding"):
                fxprune.emit(compiled, folder)
            return
        fxprune.emit(compiled, folder)
        read = fxprune.load_emitted(folder)
        assert difference(tensors_in(compiled(x)), tensors_in(read(x)))[1] < 1e-12


def test_a_counter_that_is_written_as_a_sum() -> None:
    class Counting(nn.Module):
        calls: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return x * self.calls

    model, x = Counting().eval(), torch.ones(2, 3)
    graph = fxprune.trace(model, x)
    for _ in range(2):
        assert torch.equal(graph(x), model(x))
    assert model.calls.item() == 2
