"""A timer of closed formula in the place of a device, and networks that are small."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

import fxprune
from fxprune.costs.latency.backends import Instrument, instrument
from fxprune.costs.latency.conditions import Conditions

CONDITIONS = Conditions("fake")
_WEIGHTED = (nn.Conv2d, nn.Linear)


class FakeDevice:
    """A device whose convs take as long as if their channels were multiples of ``step``, and a call ``overhead`` ms.

    Attributes:
        other: how many times as long it takes where the channels that are read are not a multiple of 4, or fewer than
            a step: there it goes by what these are.
        calls: how often it was asked.
    """

    def __init__(self, step: int = 1, overhead: float = 0.0, other: float | None = None) -> None:
        self.step, self.overhead, self.other = step, overhead, other
        self.calls = 0

    def __call__(self, graph_module: fx.GraphModule, inputs: tuple[Any, ...]) -> float:
        """Return milliseconds."""
        self.calls += 1
        run = _Run(graph_module, self.step, self.other)
        run.run(*inputs)
        return run.milliseconds + (self.overhead if len(graph_module.graph.nodes) > 6 else 0.0)

    @property
    def instrument(self) -> Instrument:
        """It as a backend."""
        return instrument(CONDITIONS, self)


class _Run(fx.Interpreter):
    def __init__(self, graph_module: fx.GraphModule, step: int, other: float | None) -> None:
        super().__init__(graph_module)
        self._step, self._other = step, other
        self.milliseconds = 0.0

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        module = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        if isinstance(module, _WEIGHTED):
            rows, columns = (math.ceil(size / self._step) * self._step for size in module.weight.shape[:2])
            places, factor, read = (
                value.numel() / value.shape[1 if value.dim() == 4 else -1],
                1.0,
                module.weight.shape[1],
            )
            if self._other is not None and (read % 4 or read < self._step):
                factor, columns = self._other, read
            self.milliseconds += 1e-3 + 1e-6 * factor * rows * columns * module.weight[0, 0].numel() * places
        elif n.op.startswith("call") and isinstance(value, torch.Tensor):
            self.milliseconds += 1e-3 + 1e-6 * value.numel()
        return value


class SmallNet(nn.Module):
    """Convs, a depthwise one, a residual sum, a dropout and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.wide = nn.Conv2d(32, 48, 1, bias=False)
        self.wide_norm = nn.BatchNorm2d(48)
        self.depth = nn.Conv2d(48, 48, 3, padding=1, groups=48, bias=False)
        self.depth_norm = nn.BatchNorm2d(48)
        self.narrow = nn.Conv2d(48, 32, 1, bias=False)
        self.narrow_norm = nn.BatchNorm2d(32)
        self.same = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.same_norm = nn.BatchNorm2d(32)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images to logits."""
        x = functional.relu(self.norm(self.stem(x)))
        y = functional.relu(self.wide_norm(self.wide(x)))
        y = functional.relu6(self.depth_norm(self.depth(y)))
        x = x + self.narrow_norm(self.narrow(y))
        x = functional.relu(self.same_norm(self.same(x)))
        x = torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1)
        logits: torch.Tensor = self.head(self.dropout(x))
        return logits


def small_graph(size: int = 8) -> fx.GraphModule:
    """Return the network, traced."""
    torch.manual_seed(0)
    return fxprune.trace(SmallNet().eval(), torch.randn(1, 3, size, size))
