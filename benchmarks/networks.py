"""Networks that the benchmarks measure, as factories for ``fxprune prune benchmarks/networks.py:NAME``."""

from __future__ import annotations

from functools import partial

from torch import nn

from fxprune.training.cifar_resnet import CifarResNet

resnet20 = partial(CifarResNet, depth=20)
resnet56 = partial(CifarResNet, depth=56)
resnet110 = partial(CifarResNet, depth=110)


class PlainNet(nn.Sequential):
    """A CIFAR ResNet of depth 6n + 2 without its shortcuts: convs with norms and ReLUs, and a classifier.

    He et al., arXiv 1512.03385, section 4.2, "plain".
    """

    def __init__(self, depth: int = 20, classes: int = 10) -> None:
        blocks = (depth - 2) // 6
        widths = [16] * (2 * blocks + 1) + [32] * (2 * blocks) + [64] * (2 * blocks)
        layers: list[nn.Module] = []
        for before, width in zip([3, *widths], widths, strict=False):
            stride = 2 if before in (16, 32) and width > before else 1
            conv = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
            nn.init.kaiming_normal_(conv.weight)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


plain20 = partial(PlainNet, depth=20)
plain56 = partial(PlainNet, depth=56)
