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
)


class RandomNet(nn.Module):
    """A chain of random ops, each on one of the values so far (all have 4 channels, two sizes)."""

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
        self.head = nn.Linear(4, 3)

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
        if kind == "norm_conv":
            act = chance.choice([nn.Identity(), nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardtanh(0, 4)])
            norm = nn.BatchNorm2d(4, eps=chance.choice([1e-5, 1e-2]), affine=chance.random() < 0.8)
            return nn.Sequential(conv, norm, act)
        if kind == "strided":
            return nn.Conv2d(4, 4, 3, stride=2, padding=1)
        if kind == "functional":
            return nn.ParameterList([torch.randn(4, 4, 3, 3) / 4])
        return {"identity": nn.Identity(), "dropout": nn.Dropout(0.3)}.get(kind, conv)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = [x * 1.0]
        halvings = [0]  # how often each value's size was halved
        for (kind, a, b), layer in zip(self.plan, self.layers, strict=True):
            chosen = a % len(values)
            same = [v for v, h in zip(values, halvings, strict=True) if h == halvings[chosen]]
            values.append(self._step(kind, layer, values[chosen], same[b % len(same)]))
            halvings.append(halvings[chosen] + (kind == "strided"))
        total = functional.adaptive_avg_pool2d(values[0], 1)
        for value in values[-3:]:
            total = total + functional.adaptive_avg_pool2d(value, 1)
        logits: torch.Tensor = self.head(torch.flatten(total, 1))
        return logits

    def _step(self, kind: str, layer: Any, value: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        if kind in ("conv", "norm_conv", "strided", "identity", "dropout"):
            return layer(value)  # type: ignore[no-any-return]
        if kind == "functional":
            return functional.conv2d(value, layer[0], padding=1)
        if kind == "shared":
            return self.shared(value)  # type: ignore[no-any-return]
        if kind == "relu_":
            return self.inplace(value)  # type: ignore[no-any-return]
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
