"""Networks that the benchmarks measure, as factories for ``fxprune prune benchmarks/networks.py:NAME``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from torch.nn import functional
from torchvision import models

from fxprune.training.cifar_resnet import BasicBlock, CifarResNet

resnet20 = partial(CifarResNet, depth=20)
resnet56 = partial(CifarResNet, depth=56)
resnet110 = partial(CifarResNet, depth=110)


class ProjectedBlock(BasicBlock):
    """A basic block whose shortcut is a 1x1 conv with a norm."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__(in_channels, channels, stride)
        self.shortcut = nn.Sequential(
            nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return relu(residual(x) + shortcut(x))."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ProjectedResNet(CifarResNet):
    """A CIFAR ResNet whose stages begin with 1x1 convs as shortcuts: option B of He et al., arXiv 1512.03385."""

    @staticmethod
    def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
        stage = CifarResNet._stage(in_channels, channels, blocks, stride)
        if in_channels != channels:
            stage[0] = ProjectedBlock(in_channels, channels, stride)
        return stage


resnet20b = partial(ProjectedResNet, depth=20)


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


_VGG11 = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")


class Vgg(nn.Sequential):
    """A VGG with batch norms for images of 32x32: 3x3 convs, pools of 2x2 and one linear layer behind them.

    Configuration A of Simonyan and Zisserman, arXiv 1409.1556, whose three linear layers are one here, as is usual
    for small images.
    """

    def __init__(self, layers: Sequence[int | str] = _VGG11, classes: int = 10) -> None:
        found: list[nn.Module] = []
        channels = 3
        for one in layers:
            if isinstance(one, str):
                found.append(nn.MaxPool2d(2))
                continue
            conv = nn.Conv2d(channels, one, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            found += [conv, nn.BatchNorm2d(one), nn.ReLU()]
            channels = one
        super().__init__(*found, nn.Flatten(), nn.Linear(channels, classes))


vgg11 = Vgg


class ConvBlock(nn.Sequential):
    """A conv, its norm and SiLU."""

    def __init__(self, in_channels: int, channels: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(channels),
            nn.SiLU(),
        )


class C2f(nn.Module):
    """A block in the way of YOLOv8's: half of the channels go through bottlenecks, all of it is joined."""

    def __init__(self, in_channels: int, channels: int, bottlenecks: int) -> None:
        super().__init__()
        half = channels // 2
        self.first = ConvBlock(in_channels, channels)
        self.bottlenecks = nn.ModuleList(
            nn.Sequential(ConvBlock(half, half, 3), ConvBlock(half, half, 3)) for _ in range(bottlenecks)
        )
        self.last = ConvBlock((2 + bottlenecks) * half, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the last conv makes of both halves and of what each bottleneck adds to."""
        parts = list(self.first(x).chunk(2, 1))
        for bottleneck in self.bottlenecks:
            parts.append(parts[-1] + bottleneck(parts[-1]))
        found: torch.Tensor = self.last(torch.cat(parts, 1))
        return found


class C2fNet(nn.Sequential):
    """A classifier of the widths and depths of YOLOv8s' backbone."""

    def __init__(self, classes: int = 1000) -> None:
        stages: list[nn.Module] = [ConvBlock(3, 32, 3, 2)]
        for width, bottlenecks in ((64, 1), (128, 2), (256, 2), (512, 1)):
            stages += [ConvBlock(width // 2, width, 3, 2), C2f(width, width, bottlenecks)]
        super().__init__(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


c2f = C2fNet


class Vgg11Head(nn.Sequential):
    """VGG-11 with batch norms for 32 x 32, without its last two poolings: 8,192 features, and a head for them.

    Simonyan and Zisserman, arXiv 1409.1556, configuration A; the head is 8,192 - 1,024 - 1,024 - 10.
    """

    def __init__(self, classes: int = 10) -> None:
        layers: list[nn.Module] = []
        for before, width, is_pooled in (
            *((3, 64, True), (64, 128, True), (128, 256, False), (256, 256, True)),
            *((256, 512, False), (512, 512, False), (512, 512, False), (512, 512, False)),
        ):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if is_pooled else []
        head = (nn.Linear(8192, 1024), nn.ReLU(), nn.Dropout(), nn.Linear(1024, 1024), nn.ReLU(), nn.Dropout())
        super().__init__(*layers, nn.Flatten(), *head, nn.Linear(1024, classes))


vgg11_head = Vgg11Head


class DigitsMlp(nn.Sequential):
    """Three linear layers for images of 8 x 8: 64 - 128 - 128 - 10."""

    def __init__(self, classes: int = 10) -> None:
        layers = (nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, classes))
        super().__init__(nn.Flatten(), *layers)


digits_mlp = DigitsMlp
resnet18 = partial(models.resnet18, num_classes=10)
mobilenet_v2 = partial(models.mobilenet_v2, num_classes=10)
_IMAGE_SIZES = {"digits_mlp": 8, "resnet18": 64, "mobilenet_v2": 64}


def image_size(network: str) -> int:
    """Return the side, in pixels, of the images that a network of this file is trained on."""
    return _IMAGE_SIZES.get(network, 32)
