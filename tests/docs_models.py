"""What the documentation calls `mypackage.models`: a small residual network and a small U-Net, (N, 3, H, W)."""

from __future__ import annotations

import torch
from torch import nn


def _conv(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


class Block(nn.Module):
    """A residual block of two convs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(y)))


class Classifier(nn.Module):
    """Three classes, eight convs and four branches that can go."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(Block(8), Block(8))
        self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.layer2 = nn.Sequential(Block(16), Block(16))
        self.fc = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        logits: torch.Tensor = self.fc(self.layer2(self.down(self.layer1(x))).mean((2, 3)))
        return logits


class UNet(nn.Module):
    """Two levels, a skip that is concatenated, and three classes a pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Sequential(_conv(3, 8), _conv(8, 8))
        self.down = nn.MaxPool2d(2)
        self.middle = nn.Sequential(_conv(8, 16), _conv(16, 16))
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.leave = nn.Sequential(_conv(16, 8), _conv(8, 8))
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = self.enter(x)
        joined = torch.cat([skip, self.up(self.middle(self.down(skip)))], 1)
        logits: torch.Tensor = self.head(self.leave(joined))
        return logits


def make_model() -> nn.Module:
    return Classifier()


def make_unet() -> nn.Module:
    return UNet()
