"""Torch's layer classes, in the groups that analyses and passes tell apart."""

from __future__ import annotations

from torch import nn

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
AnyConv = Conv | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d

CONV_CLASSES: tuple[type[Conv], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED_CLASSES = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORM_CLASSES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
WEIGHTED_CLASSES = (*CONV_CLASSES, nn.Linear)
"""Layers that are linear in a weight whose first dimension is that of their outputs."""
