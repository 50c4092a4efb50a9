"""BranchScale: the addition at the end of a residual branch, with a scale on the branch.

    y = x + s * r          x: the shortcut, r = R(x): what the branch computes, s: scale (a scalar)

The method of Xu et al. (arXiv 2011.14356) one level up: the layer is a whole residual branch, the shortcut is the
network's own. The branch's last weights (see :func:`fxprune.facts.branches.size_weights`) must not take back
what shrinking takes away, so the scale is trained as a gate in units of their size:

    s = gate * c0 / c         c = product of the rms of those weights, differentiated through; c0: its value at first
"""

from __future__ import annotations

import math

import torch
from torch import nn

from fxprune.scaled_layer import ScaledLayer, size_of


class BranchScale(ScaledLayer):
    """The sum of a shortcut and a scaled branch; at ``gate=1`` it is their plain sum.

    Args:
        weights: the branch's last weights, as they are at insertion; none for a branch whose size is fixed otherwise.

    Attributes:
        gate: trainable scalar in [0, 1], the share of the branch that is left.
        signed_size: fixed scalar, 1 unless :meth:`assign` set another.
        closed: True once :meth:`close` took the branch out; only ``x`` is returned.
        resting: True between :meth:`rest` and :meth:`wake`; the plain sum is returned.
    """

    signed_size: torch.Tensor
    initial_gauge: torch.Tensor
    parametrization = "gain-gate"

    def __init__(self, *weights: torch.Tensor) -> None:
        super().__init__()
        like = weights[0] if weights else torch.ones(())
        one = torch.ones((), device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
        self.gate = nn.Parameter(one.clone())
        self.register_buffer("signed_size", one.clone())
        self.register_buffer("initial_gauge", self.gauge(*weights).detach().to(one))

    def gauge(self, *weights: torch.Tensor) -> torch.Tensor:
        """Return c, the product of the sizes of ``weights`` (:func:`fxprune.scaled_layer.size_of`); a scalar."""
        size = torch.ones((), device=self.gate.device)
        for weight in weights:
            size = size * size_of(weight)
        return size

    def scale(self, *weights: torch.Tensor) -> torch.Tensor:
        """Return the factor s of the branch, given its last weights as they are now; a scalar tensor."""
        if self.resting:
            return torch.ones_like(self.gate)
        return self.signed_size * self.gate * (self.initial_gauge / self.gauge(*weights).to(self.gate.dtype))

    @property
    def trained_scale(self) -> nn.Parameter:
        """The parameter that shrinking acts on: the gate."""
        return self.gate

    @torch.no_grad()
    def coefficient(self, *weights: torch.Tensor) -> float:
        """Return the factor s of the branch as a Python float, worked out in float64 whatever the module's dtype."""
        if self.resting:
            return 1.0
        drift = float(self.initial_gauge) / float(self.gauge(*weights))
        return float(self.signed_size) * float(self.gate) * drift

    @property
    def effective_scale(self) -> float:
        """The scale without the drift of the branch's own weights: 1 at insertion, the gate as it is trained."""
        return 1.0 if self.resting else abs(float(self.signed_size)) * float(self.gate.detach())

    @torch.no_grad()
    def assign(self, *, scale: float) -> None:
        """Set the effective scale with its sign (any finite number); reopens a closed branch.

        Raises ValueError for a resting branch: wake it first.
        """
        if not math.isfinite(scale):
            raise ValueError(f"scale must be finite, got {scale}")
        if self.resting:
            raise ValueError("a resting branch has no scale yet; wake it, with its last weights, and then assign")
        if self.closed:
            self.closed = False
            self.gate.requires_grad_(True)
        self.signed_size.fill_(scale or 1.0)
        self.gate.fill_(1.0 if scale else 0.0)

    @torch.no_grad()
    def close(self) -> None:
        """Set the scale to zero for good: from now on only the shortcut is returned, and no gate is trained."""
        self.gate.zero_().requires_grad_(False)
        self.closed, self.resting = True, False

    def rest(self) -> None:
        """Return the plain sum, as at insertion, until :meth:`wake`: that is faster, and no gate is trained."""
        if self.closed:
            raise ValueError("a closed branch cannot rest")
        self.gate.requires_grad_(False)
        self.resting = True

    @torch.no_grad()
    def wake(self, *weights: torch.Tensor) -> None:
        """Open the gate for training, in units of the branch's last weights as they are now; outputs stay."""
        self.initial_gauge.copy_(self.gauge(*weights))
        self.signed_size.fill_(1)
        self.gate.fill_(1).requires_grad_(True)
        self.resting = False

    def forward(self, x: torch.Tensor, r: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        """Return ``x + scale * r``, of the shape of both."""
        if self.closed:
            return x
        return x + r if self.resting else x + self.scale(*weights).to(r.dtype) * r

    def extra_repr(self) -> str:
        """Return what ``print`` shows."""
        return f"effective_scale={self.effective_scale:.4g}"
