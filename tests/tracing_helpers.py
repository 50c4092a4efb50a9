"""What small models for tests of tracing are made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from fxprune.ir.trace_notes import opaque_modules


def images(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(seed))


def conv(**options: Any) -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, padding=1, **options)


def opaque(graph: fx.GraphModule) -> list[str]:
    return [one.path for one in opaque_modules(graph)]


class Sign(torch.autograd.Function):
    """A sign that gradients pass through."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0]
