"""The norm of the weights that would go: kernels and matrices alone."""

from __future__ import annotations

import math

import torch
from helpers import tiny

import fxprune
from fxprune.choosing.criteria.weight_norm import WeightNorm
from fxprune.choosing.samples import Samples
from fxprune.structures.gated_layers import layers


def test_it_is_that_of_all_kernels_as_one_vector() -> None:
    graph = fxprune.insert_scales(tiny()).graph_module
    with WeightNorm().measuring(graph, layers(graph), Samples(())) as missed:
        norms = {gate.path: missed(gate) for gate in layers(graph)}
    convs = [graph.get_parameter(f"block1.conv{index}.conv.weight") for index in (1, 2)]
    singles = [float(torch.linalg.vector_norm(one.detach())) for one in convs]
    assert math.isclose(norms["block1.conv1"], singles[0])
    assert math.isclose(norms["block1.branch_scale"], math.hypot(*singles))
