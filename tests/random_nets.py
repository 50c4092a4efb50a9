"""Random small networks, for properties that must hold of any."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import nn
from torch.nn import functional

KINDS = (
    *("conv",) * 6,
    *("norm_conv",) * 4,
    *("strided", "functional", "shared", "relu", "relu_", "relu6", "add", "iadd", "imul", "cat"),
    *("pool", "avg", "dropout", "scale", "mul", "identity", "sigmoid"),
    *("residual",) * 2,
    *("other", "other", "pooled", "pooled", "gate", "state", "adaptive", "adaptive"),
)
FORMS = ("x + p", "p + x", "(x + p) + q", "q + (p + x)", "(p + q) + x", "x + (q + p)")


class MaskedConv(nn.Module):
    """A conv, with or without a norm, that ``mask`` can replace by a multiple of its input."""

    def __init__(self, chance: random.Random, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, chance.choice([1, 3]), padding="same")
        self.norm = nn.BatchNorm2d(channels) if chance.random() < 0.5 else None
        self.mask: float | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.mask is not None:
            return self.mask * x
        y: torch.Tensor = self.conv(x)
        return y if self.norm is None else self.norm(y)


class Residual(nn.Module):
    """A sum of x and one or two branches in some order; ``masks`` has a factor for each gate, in graph order."""

    def __init__(self, chance: random.Random, depth: int, channels: int = 4) -> None:
        super().__init__()
        self.form = chance.choice(FORMS)
        alone = "(x" in self.form or "q" not in self.form  # p = x + r(x) makes q in p + q a branch beside x
        self.p = body(chance, depth, alone, channels)
        self.q = body(chance, depth, alone, channels) if "q" in self.form else nn.Identity()
        self.masks = [1.0] * (2 if self.form in FORMS[2:4] else 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p, q, first, last = self.p(x), self.q(x), self.masks[0], self.masks[-1]
        if first == last == 1:
            sums = (lambda: x + p, lambda: p + x, lambda: (x + p) + q, lambda: q + (p + x))
            total: torch.Tensor = (*sums, lambda: (p + q) + x, lambda: x + (q + p))[FORMS.index(self.form)]()
            return total
        total = x + first * p
        return total + last * q if "q" in self.form else total


def body(chance: random.Random, depth: int, alone: bool, channels: int) -> nn.Sequential:
    """Return a branch; it may end in, begin with, go around, or, ``alone``, be another residual block."""
    parts: list[nn.Module] = [MaskedConv(chance, channels)]
    if depth:
        where = chance.choice(["last", "first", "around", *["alone"] * alone])
        inner = Residual(chance, depth - 1, channels)
        outer: list[nn.Module] = [nn.ReLU(), *parts]
        around = [*outer, inner, nn.ReLU(), MaskedConv(chance, channels)]
        first: list[nn.Module] = [inner, *outer]
        parts = {"last": [*outer, inner], "first": first, "alone": first[:1], "around": around}[where]
    return nn.Sequential(*parts)


def masks_of(model: nn.Module) -> dict[str, tuple[nn.Module, int]]:
    """Return the path of every gate that should be, with the module to mask instead and the mask's number."""
    found: dict[str, tuple[nn.Module, int]] = {}
    for path, module in model.named_modules():
        if isinstance(module, MaskedConv):
            found[f"{path}.conv"] = module, 0
        elif isinstance(module, Residual):
            for number in range(len(module.masks)):
                found[f"{path}.branch_scale" + (f"_{number}" if number else "")] = module, number
    return found


class RandomNet(nn.Module):
    """A chain of random ops, each on one of the values so far, of two inputs (all have 4 channels, few sizes).

    Sums are of values that have one shape on the images of 7 x 7; at other sizes they may broadcast.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        chance = random.Random(seed)
        self.plan: list[tuple[str, int, int]] = []
        self.layers = nn.ModuleList()
        for _ in range(chance.randint(2, 12)):
            kind = chance.choice(KINDS)
            self.plan.append((kind, chance.randint(0, 99), chance.randint(0, 99)))
            self.layers.append(self._layer(kind, chance))
        self.shared = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.inplace = nn.ReLU(inplace=True)
        self.head: nn.Module = nn.Linear(4, 3)
        if chance.random() < 0.3:
            self.head = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
        for index, (kind, *_) in enumerate(self.plan):
            layer: Any = self.layers[index]
            if kind == "adaptive":  # another name of a norm's buffer, or of a part of it
                mean = layer[1].running_mean
                self.register_buffer(f"state_{index}", chance.choice([mean, mean[:2]]))
            elif kind == "state":
                self.register_buffer(f"state_{index}", torch.zeros(1, 4, 1, 1))

    @staticmethod
    def _layer(kind: str, chance: random.Random) -> nn.Module:
        size: Any = chance.choice([1, 3, 3, 5, (1, 3), 2, 4])
        padding: Any = "same"
        mode = chance.choice(["zeros", "zeros", "reflect", "circular"])
        options: dict[str, Any] = {
            "groups": chance.choice([1, 1, 2, 4]),
            "bias": chance.random() < 0.5,
            "dilation": chance.choice([1, 1, 2]) if size == 3 else 1,
            "padding_mode": mode if size in (1, 3) else "zeros",
        }
        conv = nn.Conv2d(4, 4, size, padding=padding, **options)
        if kind in ("residual", "gate", "state"):
            return Residual(chance, chance.choice([0, 1, 1])) if kind == "residual" else MaskedConv(chance, 4)
        if kind in ("norm_conv", "adaptive"):
            act = chance.choice([nn.Identity(), nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardtanh(0, 4)])
            norm = nn.BatchNorm2d(4, eps=chance.choice([1e-5, 1e-2]), affine=chance.random() < 0.8)
            return nn.Sequential(conv, norm, act)
        if kind == "strided":
            return nn.Conv2d(4, 4, 3, stride=2, padding=1)
        if kind == "functional":
            return nn.ParameterList([torch.randn(4, 4, 3, 3) / 4])
        return {"identity": nn.Identity(), "dropout": nn.Dropout(0.3)}.get(kind, conv)

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        values = [x * 1.0]
        sizes = [7]  # of each value, if the images are of 7 x 7
        for index, ((kind, a, b), layer) in enumerate(zip(self.plan, self.layers, strict=True)):
            chosen = a % len(values)
            if kind in ("conv", "norm_conv", "adaptive") and sizes[chosen] < 3:
                chosen = 0  # a border that mirrors the image needs one
            size = sizes[chosen]
            same = [v for v, other in zip(values, sizes, strict=True) if other == size]
            if kind == "other":
                value, size = layer(z), 7
            elif kind == "pooled":
                size = size if b % 2 else 1
                value = functional.adaptive_avg_pool2d(values[chosen], size)
            elif kind in ("state", "adaptive"):
                value = self._stateful(kind, layer, values[chosen], getattr(self, f"state_{index}"))
            else:
                value = self._step(kind, layer, values[chosen], same[b % len(same)])
            values.append(value)
            sizes.append((size + 1) // 2 if kind == "strided" else size)
        total = functional.adaptive_avg_pool2d(values[0], 1)
        for value in values[-3:]:
            total = total + functional.adaptive_avg_pool2d(value, 1)
        logits: torch.Tensor = self.head(torch.flatten(total, 1))
        return logits

    @staticmethod
    def _stateful(kind: str, layer: Any, value: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        if kind == "adaptive":
            state.mul_(0.5).add_(value.mean((0, 2, 3))[: len(state)])
            return layer(value)  # type: ignore[no-any-return]
        state.add_(value.mean((0, 2, 3), keepdim=True))
        out: torch.Tensor = value + (state + layer(state))
        state.mul_(0.5)
        return out

    def _step(self, kind: str, layer: Any, value: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        if kind in ("conv", "norm_conv", "strided", "identity", "dropout"):
            return layer(value)  # type: ignore[no-any-return]
        if kind == "functional":
            return functional.conv2d(value, layer[0], padding=1)
        if kind == "shared":
            return self.shared(value)  # type: ignore[no-any-return]
        if kind == "relu_":
            return self.inplace(value)  # type: ignore[no-any-return]
        if kind == "residual":
            return layer(value)  # type: ignore[no-any-return]
        if kind == "gate":  # squeeze and excite
            return value * torch.sigmoid(layer(value.mean((2, 3), keepdim=True)))
        if kind == "iadd":
            value = value.clone()
            value += other
            return value
        if kind == "imul":
            value *= 0.5
            return value
        if kind == "cat":
            return torch.cat([value, other], 1)[:, 2:6]
        functions = {
            "relu": lambda: torch.relu(value),
            "relu6": lambda: functional.relu6(value),
            "add": lambda: value + other,
            "pool": lambda: functional.max_pool2d(value, 3, 1, 1),
            "avg": lambda: functional.avg_pool2d(value, 3, 1, 1),
            "scale": lambda: value * 0.7,
            "mul": lambda: value * torch.sigmoid(other),
            "sigmoid": lambda: torch.sigmoid(value),
        }
        return functions[kind]()
