"""BranchScale: the addition at the end of a residual branch, with a scale on the branch.

    y = x + s * r          x: the shortcut, r = R(x): what the branch computes, s: scale (a scalar)

The method of Xu et al. (arXiv 2011.14356) one level up: the layer is a whole residual branch, the shortcut is the
network's own. The branch's last weights (see :func:`fxprune.structures.branches.size_weights`) must not take back
what shrinking takes away, so the scale is trained as a gate in units of their size:

    s = gate * c0 / c         c = product of the rms of those weights, differentiated through; c0: its value at first
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from fxprune.errors import FxpruneValueError
from fxprune.gates.gate import CLOSED, OPEN, RESTING, ScaledLayer, size_of
from fxprune.ir.arguments import require_kind

_WEIGHTS = Sequence[torch.Tensor]


class BranchScale(ScaledLayer):
    """The sum of a shortcut and a scaled branch; at ``gate=1`` it is their plain sum.

    Args:
        weights: the branch's last weights, as they are at insertion; none for a branch whose size is fixed otherwise.

    Attributes:
        gate: trainable scalar in [0, 1], the share of the branch that is left.
        closed: True once :meth:`close` took the branch out; only ``x`` is returned.
        resting: True between :meth:`rest` and :meth:`wake`; the plain sum is returned.
    """

    kind, fused_by = "branch", "FuseBranchScale"
    operands = 2
    units = ("initial_gauge", "signed_size")

    def __init__(self, *weights: torch.Tensor) -> None:
        super().__init__()
        require_kind(weights, _WEIGHTS, "BranchScale", "weights")
        like = weights[0] if weights else torch.ones(())
        with torch.no_grad():
            size = float(_size_of_all(weights, like.device))
        history = self._begin(like, initial_gauge=size, signed_size=1.0)
        self.gate = nn.Parameter(history.new_ones(()))

    @property
    def signed_size(self) -> torch.Tensor:
        """Scalar tensor, fixed while the gate is trained: 1 unless :meth:`assign` set another."""
        return self.unit("signed_size")

    def gauge(self, *weights: torch.Tensor) -> torch.Tensor:
        """Return c, the product of the sizes of ``weights`` (:func:`fxprune.gates.gate.size_of`); a scalar."""
        return _size_of_all(weights, self.gate.device)

    def scale(self, *weights: torch.Tensor) -> torch.Tensor:
        """Return the factor s of the branch, given its last weights as they are now; a scalar tensor."""
        gate, (row, state) = self.gate, self._standing()
        if state in (CLOSED, RESTING):
            return torch.zeros_like(gate) if state == CLOSED else torch.ones_like(gate)
        units = self._units_in(row)
        return units["signed_size"] * gate * (units["initial_gauge"] / self.gauge(*weights).to(gate.dtype))

    def outline(self, one: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return what :meth:`forward` returns, but for its numbers."""
        if self.closed:
            return x
        return x + y if self.resting else x + one.to(y.dtype) * y

    @property
    def removable(self) -> bool:
        """Always: the shortcut takes its place."""
        return True

    @property
    def trained_scale(self) -> nn.Parameter:
        """The parameter that shrinking acts on: the gate."""
        return self.gate

    @torch.no_grad()
    def coefficient(self, *weights: torch.Tensor) -> float:
        """Return the factor s of the branch as a Python float, worked out in float64 whatever the module's dtype."""
        if self.closed or self.resting:
            return 0.0 if self.closed else 1.0
        units = self.unit_numbers()
        return units["signed_size"] * float(self.gate) * units["initial_gauge"] / float(self.gauge(*weights))

    def coefficients(self, *weights: torch.Tensor) -> tuple[float, float]:
        """Return the factor s of the branch, and that of the shortcut, which is 1."""
        return self.coefficient(*weights), 1.0

    @property
    def effective_scale(self) -> float:
        """The scale without the drift of the branch's own weights: 1 at insertion, the gate as it is trained."""
        state = self._standing()[1]
        if state in (CLOSED, RESTING):
            return 0.0 if state == CLOSED else 1.0
        return abs(self.unit_numbers()["signed_size"]) * float(self.gate.detach())

    @torch.no_grad()
    def assign(self, *, scale: float) -> None:
        """Set the effective scale with its sign (any finite number); reopens a closed branch.

        Raises ValueError for a resting branch: wake it first.
        """
        if not math.isfinite(scale):
            raise FxpruneValueError(f"scale must be finite, got {scale}")
        if self.resting:
            raise FxpruneValueError(
                "a resting branch has no scale yet; wake it, with its last weights, and then assign"
            )
        if self.closed:
            self._enter(OPEN)
            self.train_scale(True)
        self.set_units(signed_size=scale or 1.0)
        self.gate.fill_(1.0 if scale else 0.0)

    @torch.no_grad()
    def set_scale(self, scale: torch.Tensor | None, shortcut: torch.Tensor | None, *weights: torch.Tensor) -> None:
        """Set the factor s of the branch in units of ``weights``; wakes a resting branch and reopens a closed one."""
        assert scale is not None, "it has no shortcut that could be set alone"
        is_open = not (self.closed or self.resting)
        self._enter(OPEN, initial_gauge=float(self.gauge(*weights)), signed_size=float(scale) or 1.0)
        self.gate.fill_(1.0 if scale else 0.0)
        if not is_open:
            self.train_scale(True)

    @torch.no_grad()
    def close(self) -> None:
        """Set the scale to zero for good: from now on only the shortcut is returned, and no gate is trained."""
        self.gate.zero_()
        if not self.closed:
            self._enter(CLOSED)
        self.train_scale(False)

    def rest(self) -> None:
        """Return the plain sum, as at insertion, until :meth:`wake`: that is faster, and no gate is trained."""
        if self.closed:
            raise FxpruneValueError("a closed branch cannot rest")
        self.train_scale(False)
        self._enter(RESTING)

    @torch.no_grad()
    def wake(self, *weights: torch.Tensor) -> None:
        """Open the gate for training, in units of the branch's last weights as they are now; outputs stay."""
        self._enter(OPEN, initial_gauge=float(self.gauge(*weights)), signed_size=1.0)
        self.gate.fill_(1)
        self.train_scale(True)

    def forward(self, x: torch.Tensor, r: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        """Return ``x + scale * r``, of the shape of both."""
        state = self._standing()[1]
        if state == CLOSED:
            return x
        return x + r if state == RESTING else x + self.scale(*weights).to(r.dtype) * r

    def extra_repr(self) -> str:
        """Return what ``print`` shows."""
        return f"effective_scale={self.effective_scale:.4g}"


def _size_of_all(weights: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    sizes = [size_of(weight) for weight in weights]
    return math.prod(sizes[1:], start=sizes[0]) if sizes else torch.ones((), device=device)
