"""Which form of a product of blocks is the fastest here: measured once a process for each shape."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn

from fxprune.costs.latency.timing import Turns, in_turns
from fxprune.facts.shapes import shape
from fxprune.ir.weight_blocks import WeightBlocks
from fxprune.rewriting.block_products import Form
from fxprune.weights.masking import grouped, part, stacked

_TURNS = Turns(least=5, most=9)
_SECONDS = 5.0
_KNOWN: dict[Any, Form] = {}


def fastest_form(layer: nn.Linear, blocks: WeightBlocks, source: fx.Node, forms: Sequence[Form]) -> Form:
    """Return the fastest of ``forms`` for a layer, on random numbers of the shape that ``source`` has."""
    sizes = shape(source)
    if sizes is None or len(forms) == 1:
        return forms[0]
    weight = layer.weight
    threads = torch.get_num_threads()
    key = (tuple(blocks.sizes), sizes, weight.dtype, weight.device, layer.bias is not None, threads, tuple(forms))
    if key not in _KNOWN:
        x = torch.randn(sizes, device=weight.device, dtype=weight.dtype)
        with torch.no_grad():
            timers = [_timer(run_form(form, layer, blocks), x) for form in forms]
            found = in_turns(timers, _TURNS, time.monotonic() + _SECONDS)
        _KNOWN[key] = min(zip(found, forms, strict=True), key=lambda one: one[0].milliseconds)[1]
    return _KNOWN[key]


def run_form(form: Form, layer: nn.Linear, blocks: WeightBlocks) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what computes the blocks of ``layer`` in a form, of inputs whose features are in their order."""
    places = list(blocks.places())
    sizes = [len(columns) for _, columns in places]
    if form == "linears":
        parts = [part(layer, *one) for one in places]
        return lambda x: torch.cat([one(y) for one, y in zip(parts, torch.split(x, sizes, -1), strict=True)], -1)
    if form == "conv":
        conv = grouped(layer, places)
        return lambda x: conv(x.unsqueeze(-1)).squeeze(-1)
    weight, bias = (getattr(stacked(layer, places), name) for name in ("weight", "bias"))
    return lambda x: _product(x, weight, bias)


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return torch.baddbmm(bias, x.view(len(x), len(weight), -1).transpose(0, 1), weight).transpose(0, 1).flatten(1)


def _timer(run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Callable[[], float]:
    def once() -> float:
        _wait(x)
        start = time.perf_counter()
        run(x)
        _wait(x)
        return (time.perf_counter() - start) * 1e3

    return once


def _wait(x: torch.Tensor) -> None:
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
