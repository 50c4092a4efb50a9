"""Distillation: a loss that learns what a teacher returns, one network or the mean of several.

Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv 1503.02531.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional


class Ensemble(nn.Module):
    """Returns the mean of what ``networks`` return: logits (N, classes)."""

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the mean logits of ``images``."""
        return torch.stack([network(images).float() for network in self.networks]).mean(0)


def distillation(logits: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return how far softened ``logits`` (N, classes) are from the teacher's: T^2 KL, mean over the images."""
    student = functional.log_softmax(logits.float() / temperature, dim=1)
    known = functional.log_softmax(teacher.float() / temperature, dim=1)
    return functional.kl_div(student, known, reduction="batchmean", log_target=True) * temperature**2
