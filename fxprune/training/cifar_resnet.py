"""The ResNets for small images of He et al. (arXiv 1512.03385, section 4.2), with parameter-free shortcuts.

Depth 6n + 2: three stages of n basic blocks with 16, 32 and 64 channels; where the shape changes the shortcut
subsamples and pads the channels with zeros (their option A). Layer names are those that checkpoints of these
networks commonly use: conv1, bn1, layer1.0.conv1, ..., linear.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from fxprune.errors import FxpruneValueError


class BasicBlock(nn.Module):
    """Two 3x3 convs with norms, and a shortcut that has no parameters."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.new_channels = channels - in_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return relu(residual(x) + shortcut(x))."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.stride != 1 or self.new_channels:
            before = self.new_channels // 2
            x = functional.pad(
                x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new_channels - before)
            )
        return functional.relu(y + x)


class CifarResNet(nn.Module):
    """A ResNet of depth 6n + 2 for images of about 32 x 32 (or 8 x 8) pixels.

    Args:
        depth: 20, 32, 44, 56, 110, ...
        classes: number of outputs.
        in_channels: 3 for colour images, 1 for grey ones.
    """

    def __init__(self, depth: int = 20, classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        blocks, remainder = divmod(depth - 2, 6)
        if remainder or blocks < 1:
            raise FxpruneValueError(f"depth must be 6n + 2 with n >= 1, got {depth}")
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, stride=1)
        self.layer2 = self._stage(16, 32, blocks, stride=2)
        self.layer3 = self._stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(in_channels, channels, stride)
        return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (N, in_channels, H, W) to logits (N, classes)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = functional.adaptive_avg_pool2d(x, 1)
        logits: torch.Tensor = self.linear(torch.flatten(x, 1))
        return logits
