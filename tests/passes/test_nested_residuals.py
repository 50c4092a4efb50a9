"""Random nests of residual blocks: each gate, closed alone, takes out what it names and nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from helpers import assert_rewrites, example, randomize
from torch import nn

import fxprune
from fxprune import passes
from fxprune.facts.layers import layers
from fxprune.resconv import ResConv

REMOVE = [passes.RemoveLayers(threshold=0.0), *fxprune.AFTER_TRAINING]
FORMS = ("x + p", "p + x", "(x + p) + q", "q + (p + x)", "(p + q) + x", "x + (q + p)")


class Conv(nn.Module):
    """A conv, with or without a norm, that ``mask`` can replace by a multiple of its input."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, chance.choice([1, 3]), padding="same")
        self.norm = nn.BatchNorm2d(3) if chance.random() < 0.5 else None
        self.mask: float | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.mask is not None:
            return self.mask * x
        y: torch.Tensor = self.conv(x)
        return y if self.norm is None else self.norm(y)  # type: ignore[no-any-return]


class Residual(nn.Module):
    """A sum of x and one or two branches in some order; ``masks`` has a factor for each gate, in graph order."""

    def __init__(self, chance: random.Random, depth: int) -> None:
        super().__init__()
        self.form = chance.choice(FORMS)
        alone = "(x" in self.form or "q" not in self.form  # p = x + r(x) makes q in p + q a branch beside x
        self.p = body(chance, depth, alone)
        self.q = body(chance, depth, alone) if "q" in self.form else nn.Identity()
        self.masks = [1.0] * (2 if self.form in FORMS[2:4] else 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p, q, first, last = self.p(x), self.q(x), self.masks[0], self.masks[-1]
        if first == last == 1:
            sums = (lambda: x + p, lambda: p + x, lambda: (x + p) + q, lambda: q + (p + x))
            return (*sums, lambda: (p + q) + x, lambda: x + (q + p))[FORMS.index(self.form)]()
        return x + first * p + last * q if "q" in self.form else x + first * p


def body(chance: random.Random, depth: int, alone: bool) -> nn.Sequential:
    """Return a branch; it may end in, begin with, go around, or, ``alone``, be another residual block."""
    parts: list[nn.Module] = [Conv(chance)]
    if depth:
        where = chance.choice(["last", "first", "around", *["alone"] * alone])
        inner = Residual(chance, depth - 1)
        outer = [nn.ReLU(), *parts]
        parts = {"last": [*outer, inner], "first": [inner, *outer], "alone": [inner]}.get(
            where, [*outer, inner, nn.ReLU(), Conv(chance)]
        )
    return nn.Sequential(*parts)


def gates(model: nn.Module) -> Iterator[tuple[str, nn.Module, int]]:
    """Yield the path of every scale, the module that can be masked in its place, and the number of its mask."""
    for path, module in model.named_modules():
        if isinstance(module, Conv):
            yield f"{path}.conv", module, 0
        elif isinstance(module, Residual):
            for number in range(len(module.masks)):
                yield f"{path}.branch_scale" + (f"_{number}" if number else ""), module, number


@pytest.mark.parametrize("seed", range(8))
def test_each_gate_alone_is_the_network_masked_by_hand(seed: int) -> None:
    chance = random.Random(seed)
    torch.manual_seed(seed)
    model = randomize(nn.Sequential(Conv(chance), Residual(chance, 1), Residual(chance, chance.choice([0, 2]))), seed)
    x = example(2, 3, 5, 5)
    sparse = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()], verify=False)(
        fxprune.trace(model, x)
    )
    found = {layer.path: layer.module for layer in layers(sparse.graph_module)}
    named = {path: (module, number) for path, module, number in gates(model)}
    assert found.keys() == named.keys()
    for path, gate in found.items():
        module, number = named[path]
        if isinstance(gate, ResConv):
            assert isinstance(module, Conv)
            gate.assign(scale=0.0, shortcut=0.7)
            module.mask = 0.7
        else:
            assert isinstance(module, Residual)
            gate.assign(scale=0.0)
            module.masks[number] = 0.0
        expected = model(x)
        torch.testing.assert_close(sparse.graph_module(x), expected, rtol=1e-10, atol=1e-10, msg=path)
        removed = fxprune.Pipeline(REMOVE, verify=False)(sparse.graph_module)
        torch.testing.assert_close(removed.graph_module(x), expected, rtol=1e-10, atol=1e-10, msg=path)
        if isinstance(gate, ResConv):
            gate.assign(scale=1.0, shortcut=0.0)
            module.mask = None
        else:
            gate.assign(scale=1.0)
            module.masks[number] = 1.0


def test_two_norms_in_a_row_are_both_folded() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.BatchNorm2d(3))
    assert_rewrites(fxprune.trace(randomize(model), example(2, 3, 6, 6)), passes.FoldBatchNorm(), count=2)
