"""Layers in float64: what two graphs ask alike is computed once, and nothing else is taken for known."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn

from fxprune.gates.resconv import ResConv
from fxprune.rewriting.twins import Twins, is_plain

Ask = Callable[[torch.Tensor], torch.Tensor]


def conv_that_counts(monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Conv2d, list[int]]:
    """Return a conv, and a list that grows with every call of any conv."""
    calls: list[int] = []
    forward = nn.Conv2d.forward

    def counted(self: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return forward(self, x)

    monkeypatch.setattr(nn.Conv2d, "forward", counted)
    return nn.Conv2d(2, 2, 1), calls


def pair(layer: nn.Module) -> tuple[Ask, Ask]:
    """Return what calls ``layer`` for the first and for the second of two graphs."""
    twins = Twins({id(one) for one in layer.modules()})

    def ask(is_first: bool) -> Ask:
        def asked(x: torch.Tensor) -> torch.Tensor:
            twins.is_first = is_first
            return twins.of(layer)(x)  # type: ignore[no-any-return]

        return asked

    return ask(True), ask(False)


@torch.no_grad()
def test_what_is_asked_again_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, calls = conv_that_counts(monkeypatch)
    first, second = pair(conv)
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64)
    expected = first(x)
    assert expected.dtype == torch.float64
    assert second(x.clone()) is expected
    assert len(calls) == 1


def other_bits(x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x[0, 0, 0, 0] = torch.nextafter(x[0, 0, 0, 0], torch.tensor(torch.inf, dtype=x.dtype))
    return x


@torch.no_grad()
@pytest.mark.parametrize(
    "change", [other_bits, torch.Tensor.neg, lambda x: x.to(memory_format=torch.channels_last), lambda x: x[..., :2]]
)
def test_anything_else_is_computed(monkeypatch: pytest.MonkeyPatch, change: Ask) -> None:
    conv, calls = conv_that_counts(monkeypatch)
    first, second = pair(conv)
    x = torch.zeros(1, 2, 3, 3, dtype=torch.float64)
    first(x)
    found = second(change(x))
    assert len(calls) == 2
    torch.testing.assert_close(found, first(change(x)))


@torch.no_grad()
@pytest.mark.parametrize("question", [True, False])
def test_what_was_written_to_since_is_not_taken(monkeypatch: pytest.MonkeyPatch, question: bool) -> None:
    conv, calls = conv_that_counts(monkeypatch)
    first, second = pair(conv)
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64)
    kept, answer = x.clone(), first(x)
    (x if question else answer).add_(1)
    found = second(kept)
    assert len(calls) == 2
    torch.testing.assert_close(found, first(kept))


@torch.no_grad()
def test_a_layer_that_is_called_twice_answers_for_its_last_call(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, calls = conv_that_counts(monkeypatch)
    first, second = pair(conv)
    x, y = torch.randn(2, 1, 2, 3, 3, dtype=torch.float64)
    expected = [first(x), first(y)]
    for one, wanted in zip((x, y), expected, strict=True):
        torch.testing.assert_close(second(one), wanted, rtol=0, atol=0)
    assert len(calls) == 4  # the first question was forgotten, and with it the layer


@torch.no_grad()
def test_a_gate_around_a_layer_asks_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, calls = conv_that_counts(monkeypatch)
    gate = ResConv(conv, nn.BatchNorm2d(2).eval())
    assert gate.norm is not None
    twins = Twins({id(conv), id(gate.norm)})
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64)
    expected = twins.of(gate.norm)(twins.of(conv)(x))
    twins.is_first = False
    assert torch.equal(twins.of(gate)(x), expected)
    assert len(calls) == 1


@torch.no_grad()
def test_values_are_gone_with_the_last_that_has_them() -> None:
    conv = nn.Conv2d(2, 2, 1)
    first, second = pair(conv)
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64)
    gc.disable()  # which would find circles
    try:
        answer = weakref.ref(first(x))
        assert answer() is not None
        second(x)
        assert answer() is None
    finally:
        gc.enable()


def test_tensors_that_are_no_parameters_make_a_layer_another() -> None:
    layers = [nn.ReLU() for _ in range(5)]
    vars(layers[1])["kept"] = torch.ones(1)
    vars(layers[2])["kept"] = [torch.ones(1)]
    vars(layers[3])["forward"] = torch.relu
    layers[4].register_forward_hook(lambda *_: None)
    vars(layers[0]).update(kept=[1], also={"a": 1.0}, shape=(1, 2))
    assert [is_plain(one) for one in layers] == [True, False, False, False, False]
