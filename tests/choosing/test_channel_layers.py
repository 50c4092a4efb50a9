"""Which layers make, read and carry channels, and where several are tied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from channel_nets import NETS, conv
from torch import nn

import fxprune
from fxprune.choosing.channel_layers import Layers, layers_by_group
from fxprune.structures.channels.groups import Channels


def layers_of(model: nn.Module, *inputs: torch.Tensor) -> dict[str, Layers]:
    """Return the layers of each group by the group's name."""
    channels = Channels(fxprune.trace(model.eval(), inputs or torch.randn(2, 3, 8, 8)))
    owner = np.zeros(len(channels.labels), dtype=np.int64)
    for number, group in enumerate(channels.groups, start=1):
        owner[group.classes] = number
    found = layers_by_group(channels, owner[channels.class_of])
    return {group.name: found[number] for number, group in enumerate(channels.groups, start=1)}


class Two(nn.Module):
    """Two convs whose outputs are put together in some way, and one that reads that."""

    def __init__(self, together: Callable[[Any, Any], Any], width: int) -> None:
        super().__init__()
        self.a, self.b, self.c, self.together = conv(3, 8), conv(3, 8), conv(width, 5), together

    def forward(self, x: Any) -> Any:
        return self.c(self.together(self.a(x), self.b(x)))


def test_a_sum_ties_its_sides() -> None:
    (both, _) = layers_of(Two(lambda a, b: a + b, 8)).values()
    assert (list(both.makers), list(both.ties), list(both.readers)) == (["a", "b"], ["add"], ["c"])


def test_a_concatenation_ties_nothing_and_one_layer_reads_both() -> None:
    a, b, _ = layers_of(Two(lambda a, b: torch.cat([a, b], 1), 16)).values()
    assert (list(a.makers), list(b.makers)) == (["a"], ["b"])
    assert list(a.readers) == list(b.readers) == ["c"]
    assert not a.ties
    assert not b.ties


def test_a_sum_with_a_concatenation_ties_its_parts() -> None:
    class Longer(Two):
        def __init__(self) -> None:
            super().__init__(lambda a, b: torch.cat([a, b], 1), 16)
            self.d = conv(3, 16)

        def forward(self, x: Any) -> Any:
            return self.c(torch.cat([self.a(x), self.b(x)], 1) + self.d(x))

    found = layers_of(Longer())
    assert (list(found["a"].makers), list(found["a"].ties)) == (["a", "b", "d"], ["add"])
    assert [len(one) for one in found["a"].makers.values()] == [8, 8, 16]


def test_constants_and_scales_tie_nothing() -> None:
    class Scaled(Two):
        def __init__(self) -> None:
            super().__init__(lambda a, b: a + b, 8)
            self.scale = nn.Parameter(torch.ones(8, 1, 1))

        def forward(self, x: Any) -> Any:
            zeros = torch.zeros_like(self.a(x)[:, 4:])
            return self.c(torch.cat([self.b(x)[:, :4], zeros], 1) + self.scale * self.a(x))

    found = layers_of(Scaled())
    (both,) = (one for one in found.values() if "a" in one.makers)
    assert list(both.carriers) == ["scale"]
    assert list(both.ties) == ["add"]
    assert list(both.parameters) == ["scale"]


def test_depthwise_convs_and_norms_carry() -> None:
    model = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), conv(8, 8, groups=8), nn.PReLU(8), conv(8, 5))
    first = next(iter(layers_of(model).values()))
    assert (list(first.makers), list(first.carriers), list(first.readers)) == (["0"], ["1", "2", "3"], ["4"])


def test_products_are_named_by_their_nodes() -> None:
    model, inputs = NETS["FusedAttention"]()
    found = layers_of(model, *inputs)
    readers = [reader for one in found.values() for reader in one.readers]
    assert "scaled_dot_product_attention" in readers


@pytest.mark.parametrize("name", NETS)
def test_every_channel_has_one_maker(name: str) -> None:
    model, inputs = NETS[name]()
    found = layers_of(model, *inputs)
    weights = {path: len(one) for layers in found.values() for path, one in layers.makers.items()}
    assert weights
    for path in weights:
        assert sum(path in layers.makers for layers in found.values()) >= 1
        assert not any(path in layers.carriers for layers in found.values() if path in layers.makers)
