"""Random nests of residual blocks: each gate, closed alone, takes out what it names and nothing else."""

from __future__ import annotations

import random

import pytest
import torch
from helpers import assert_rewrites, example, randomize
from random_nets import MaskedConv, Residual, masks_of
from torch import nn

import fxprune
from fxprune import passes
from fxprune.structures.gated_layers import layers

REMOVE = [passes.RemoveLayers(threshold=0.0), *fxprune.AFTER_TRAINING]


@pytest.mark.parametrize("seed", range(8))
def test_each_gate_alone_is_the_network_masked_by_hand(seed: int) -> None:
    chance = random.Random(seed)
    torch.manual_seed(seed)
    model = randomize(
        nn.Sequential(MaskedConv(chance, 3), Residual(chance, 1, 3), Residual(chance, chance.choice([0, 2]), 3)), seed
    )
    x = example(2, 3, 5, 5)
    sparse = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()], verify=False)(
        fxprune.trace(model, x)
    )
    found = {layer.path: layer for layer in layers(sparse.graph_module)}
    named = masks_of(model)
    assert found.keys() == named.keys()
    for path, gate in found.items():
        module, number = named[path]
        if gate.kind == "conv":
            assert isinstance(module, MaskedConv)
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
        if gate.kind == "conv":
            assert isinstance(module, MaskedConv)
            gate.assign(scale=1.0, shortcut=0.0)
            module.mask = None
        else:
            assert isinstance(module, Residual)
            gate.assign(scale=1.0)
            module.masks[number] = 1.0


def test_two_norms_in_a_row_are_both_folded() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.BatchNorm2d(3))
    assert_rewrites(fxprune.trace(randomize(model), example(2, 3, 6, 6)), passes.FoldBatchNorm(), count=2)
