"""Numbers drawn by a seed."""

from __future__ import annotations

import numpy as np
from criterion_nets import STREAM, scores, small
from helpers import tiny

import fxprune
from fxprune.choosing.criteria.random_scores import Random
from fxprune.choosing.samples import Samples
from fxprune.structures.gated_layers import layers


def test_channels_have_the_same_numbers_for_the_same_seed() -> None:
    _, graph, _, _ = small()
    one, same, other = (scores(graph, Random(seed))[STREAM] for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert len(set(one.tolist())) == 4


def test_so_have_layers() -> None:
    graph = fxprune.insert_scales(tiny()).graph_module

    def drawn(seed: int) -> list[float]:
        with Random(seed).measuring(graph, layers(graph), Samples(())) as missed:
            return [missed(gate) for gate in layers(graph)]

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    assert len(set(drawn(0))) == len(layers(graph))
