"""What binds a plan to an architecture, and where two of them part."""

from __future__ import annotations

import torch
from channel_nets import NETS, conv
from torch import fx, nn

import fxprune
from fxprune import passes
from fxprune.choosing.fingerprint import fingerprint, first_difference
from fxprune.training.cifar_resnet import CifarResNet


def resnet() -> fx.GraphModule:
    return fxprune.trace(CifarResNet().eval(), torch.randn(2, 3, 32, 32))


def test_a_line_a_layer() -> None:
    lines = fingerprint(resnet())
    assert lines[:2] == ("conv1 Conv2d 16x3x3x3", "layer1.0.conv1 Conv2d 16x16x3x3")
    assert lines[-1].endswith("Linear 10x64")
    assert len(lines) == 20  # norms are left out


def test_gates_and_folded_norms_change_nothing() -> None:
    graph = resnet()
    for chain in (
        [passes.InsertResConv(), passes.InsertBranchScale()],
        [passes.InsertChannelGate()],
        [passes.FoldBatchNorm(), passes.Simplify()],
    ):
        assert fingerprint(fxprune.Pipeline(chain)(graph).graph_module) == fingerprint(graph)


def test_parameters_of_forward_and_of_layers_that_hold_layers() -> None:
    model, inputs = NETS["FunctionalWeights"]() if "FunctionalWeights" in NETS else (nn.Conv2d(3, 4, 1), ())
    assert fingerprint(fxprune.trace(model.eval(), inputs or torch.randn(2, 3, 4, 4)))
    attention = nn.Sequential(nn.Linear(8, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    lines = fingerprint(fxprune.trace(attention.eval(), torch.randn(2, 4, 8)))
    assert "1.self_attn.in_proj_weight MultiheadAttention 24x8" in lines


def test_the_first_difference() -> None:
    lines = fingerprint(fxprune.trace(nn.Sequential(conv(3, 8), conv(8, 5)), torch.randn(2, 3, 8, 8)))
    wider = fingerprint(fxprune.trace(nn.Sequential(conv(3, 8), conv(8, 6)), torch.randn(2, 3, 8, 8)))
    assert first_difference(lines, lines) is None
    assert first_difference(lines, wider) == "its layer 2 is 1 Conv2d 5x8x3x3, and here it is 1 Conv2d 6x8x3x3"
    assert first_difference(lines, lines[:1]) == "its layer 2 is 1 Conv2d 5x8x3x3, and here it is missing"
    assert first_difference([], lines) == "its layer 1 is missing, and here it is 0 Conv2d 8x3x3x3"
