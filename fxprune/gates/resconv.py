"""ResConv: a conv with a layer scaling factor and a fusible shortcut, the module that training sees.

    y = s * N(C(x)) + a * x          s: scale, a: shortcut (scalars), C: conv, N: the norm behind it, if any

Xu et al., "Layer Pruning via Fusible Residual Convolutional Block for Deep Neural Networks", arXiv 2011.14356.
Two parametrisations of (s, a):

"gain-gate" (default), in which only the ratio of the two paths is trained, so that neither the layer's own
norm nor a later one can absorb what shrinking takes away:

    s = gain * gate / c              c = rms(gamma) of the norm, differentiated through (no norm: rms of the
    a = gain * (1 - gate) / r            filters' L2 norms);  r = rms of x, a buffer: 1 until training
                                         begins, when it is measured

"free", the paper's, in which s and a are the parameters (for training plain networks from scratch).

Where the conv changes its input's shape, x is replaced by a partial identity of the output's shape: such a layer can
be trained and fused, but not removed. The conv's weight may be computed (parametrized, weight-normed): c follows it.

Over 300 lines: one class, with the algebra of both parametrisations in every method of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from fxprune.errors import FxpruneValueError
from fxprune.gates.gate import CLOSED, OPEN, RESTING, ScaledLayer, size_of
from fxprune.ir.arguments import require_arguments
from fxprune.ir.module_tree import evaluating, is_parametrized
from fxprune.ops.layer_classes import Conv
from fxprune.weights.slicing import note_slice

Parametrization = Literal["gain-gate", "free"]
WEIGHT_HOOKS = (WeightNorm, SpectralNorm)  # the old style: a hook sets the weight before each forward


class ResConv(ScaledLayer):
    """A conv, its norm (or None), a scale and a shortcut; at ``scale=1, shortcut=0`` it is conv and norm alone.

    Args:
        conv: an nn.Conv1d/2d/3d.
        norm: the batch norm that directly follows it, or None.
        input_rms: root mean square of the layer's input (a positive number), the unit of the shortcut; 1 until
            :func:`fxprune.pruning.measure_inputs`, which training does first.
        scale: initial scale s.
        shortcut: initial shortcut a.
        parametrization: "gain-gate" or "free", see the module's docstring.

    Attributes:
        gate: trainable scalar in [0, 1], the share of the conv path ("gain-gate" only).
        closed: True once :meth:`close` took the conv path out; it is not computed any more.
        resting: True between :meth:`rest` and :meth:`wake`; conv and norm are computed alone.
    """

    parametrization: Parametrization
    _gauged: tuple[nn.Module | None]  # the norm that the gauge was last read of
    same_channels: bool = True
    """Whether the channels that it reads are those that it makes, place by place, as they were at insertion."""
    kind, fused_by = "conv", "FuseResConv"
    wraps, has_shortcut = "conv", True
    units = ("initial_gauge", "gain", "input_rms", "scale_sign", "shortcut_sign", "gauge_factor")

    def __init__(
        self,
        conv: Conv,
        norm: nn.Module | None = None,
        *,
        input_rms: float = 1.0,
        scale: float = 1.0,
        shortcut: float = 0.0,
        parametrization: Parametrization = "gain-gate",
    ) -> None:
        super().__init__()
        require_arguments(ResConv.__init__, locals())
        if not input_rms > 0:
            raise FxpruneValueError(f"input_rms must be positive, got {input_rms}")
        self.conv = conv
        self.norm = norm
        self.__dict__.update(parametrization=parametrization, training=conv.training, _gauged=(norm,))
        gauge = self._as_number(lambda: self._size(norm))
        units = {"initial_gauge": gauge, "gain": gauge, "input_rms": input_rms}
        history = self._begin(conv.weight, **dict.fromkeys(self.units, 1.0) | units)
        if parametrization == "free":
            self.free_scale = nn.Parameter(history.new_full((), scale))
            self.free_shortcut = nn.Parameter(history.new_full((), shortcut))
        else:
            self.gate = nn.Parameter(history.new_ones(()))
            if (scale, shortcut) != (1.0, 0.0):
                self.assign(scale=scale, shortcut=shortcut)

    @property
    def narrows(self) -> bool:
        """Whether it rests: what it computes then is its conv and norm."""
        return self.resting

    def narrowed(self, conv: nn.Module, norm: nn.Module | None, *, same_channels: bool) -> ResConv:
        """Return it at rest around what is left of its conv and norm.

        Its scale and history are copies: when it wakes it is in units of the weights that are left.
        """
        made: ResConv = object.__new__(type(self))
        made.__dict__ = {
            **vars(self),
            "_parameters": {"gate": nn.Parameter(self.gate.detach().clone(), self.gate.requires_grad)},
            "_buffers": {"history": self.history.clone()},
            "_modules": {"conv": conv, "norm": norm},
            "_gauged": (norm,),
            "same_channels": self.same_channels and same_channels,
        }
        made.follow()
        for name, part in (("gate", made.gate), ("history", made.history)):
            note_slice(getattr(self, name), part, {})
        return made

    @property
    def gain(self) -> torch.Tensor:
        """Positive scalar tensor, fixed while the gate is trained: the size of both paths together ("gain-gate")."""
        return self.unit("gain")

    @property
    def input_rms(self) -> torch.Tensor:
        """The unit of the shortcut; a scalar tensor."""
        return self.unit("input_rms")

    def gauge(self) -> torch.Tensor:
        """Return c, the size of the norm's (or the conv's) own weights (:func:`fxprune.gates.gate.size_of`).

        Where the norm is another than it was, c goes on from what it was: no output changes by that.
        """
        norm = self.norm
        if norm is not self._gauged[0]:
            self._go_on_with(norm)
        return self.unit("gauge_factor") * self._size(norm)

    def _go_on_with(self, norm: nn.Module | None) -> None:
        """Have the gauge of another norm go on from what it was."""
        with torch.no_grad():
            factor = self.unit("gauge_factor") * self._size(self._gauged[0]) / self._size(norm)
        self.set_units(gauge_factor=float(factor))
        self._gauged = (norm,)

    def _size(self, norm: nn.Module | None) -> torch.Tensor:
        gamma = getattr(norm, "weight", None)  # a parameter, a buffer, or computed
        if isinstance(gamma, torch.Tensor):
            return size_of(gamma)
        if norm is not None:
            return torch.ones((), device=self.conv.weight.device)
        for hook in self.conv._forward_pre_hooks.values():
            if isinstance(hook, WEIGHT_HOOKS):
                hook(self.conv, ())  # the weight may be that of the step before
        return size_of(self.conv.weight)

    def _gauge_now(self) -> float:
        return self._as_number(self.gauge)

    def _as_number(self, size: Callable[[], torch.Tensor]) -> float:
        """Return a size of weights, read in eval mode: that must not step a spectral norm's power iteration."""
        is_computed = is_parametrized(self.conv) or self.conv._forward_pre_hooks
        with evaluating(self) if is_computed else torch.no_grad():
            return float(size())

    @property
    def untouched(self) -> bool:
        """Whether the layer has a gate that training did not move yet: its shortcut is zero, whatever its unit."""
        return self.parametrization != "free" and (self.resting or float(self.gate.detach()) == 1)

    @property
    def removable(self) -> bool:
        """Whether the shortcut alone has the output's shape, so that the layer can be removed."""
        conv = self.conv
        return self.same_channels and conv.in_channels == conv.out_channels and max(conv.stride) == 1

    def identity(self, x: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Return what the conv would compute from ``x`` with the Dirac kernel, in the output's ``shape``.

        That is x itself, or else x read with the stride, with each group's channels cut off or filled up with zeros.
        """
        if self.removable:
            return x
        conv = self.conv
        axes = len(conv.kernel_size)
        reads: Any = (slice(0, size * step, step) for size, step in zip(shape[-axes:], conv.stride, strict=True))
        x = x[(..., *reads)]
        x = torch.unflatten(x, -axes - 1, (conv.groups, conv.in_channels // conv.groups))
        extra = conv.out_channels // conv.groups - x.shape[-axes - 1]
        return functional.pad(x, (0, 0) * axes + (0, extra)).flatten(-axes - 2, -axes - 1)  # negative: cuts off

    def outline(self, one: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return what :meth:`forward` returns, but for its numbers."""
        return one * x if self.closed else y if self.resting else one * y + one * self.identity(x, y.shape)

    @property
    def scale(self) -> torch.Tensor:
        """The factor s of the conv path; a scalar tensor."""
        row, state = self._standing()
        if state == CLOSED:
            return torch.zeros_like(self.trained_scale)
        return torch.ones_like(self.gate) if state == RESTING else self._open_factors(row)[0]

    @property
    def shortcut(self) -> torch.Tensor:
        """The factor a of the identity path; a scalar tensor."""
        if self.parametrization == "free":
            return self.free_shortcut
        row, state = self._standing()
        if state == RESTING:
            return torch.zeros_like(self.gate)
        if state == OPEN:
            return self._open_factors(row)[1]
        units = self._units_in(row)
        return units["shortcut_sign"] * units["gain"] / units["input_rms"]

    def _open_factors(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return s and a of an open layer, whose units are in that row of its history; scalar tensors."""
        if self.parametrization == "free":
            return self.free_scale, self.free_shortcut
        norm, gate = self.norm, self.gate
        if norm is not self._gauged[0]:
            self._go_on_with(norm)
        units = self._units_in(row)
        gauge = units["gauge_factor"] * self._size(norm)
        scale = units["scale_sign"] * units["gain"] * gate / gauge.to(gate.dtype)
        return scale, units["shortcut_sign"] * units["gain"] * (1 - gate) / units["input_rms"]

    @property
    def trained_scale(self) -> nn.Parameter:
        """The parameter that shrinking acts on: the gate, or the scale itself ("free")."""
        return self.free_scale if self.parametrization == "free" else self.gate

    def coefficients(self, *_: torch.Tensor) -> tuple[float, float]:
        """Return (scale, shortcut) as Python floats, worked out in float64 whatever the module's dtype."""
        state = self._standing()[1]
        if self.parametrization == "free":
            return 0.0 if state == CLOSED else float(self.free_scale.detach()), float(self.free_shortcut.detach())
        if state == RESTING:
            return 1.0, 0.0
        gauge = self._gauge_now()  # which may set units
        gate = 0.0 if state == CLOSED else float(self.gate.detach())  # that of an average is above 0 for long
        units = self.unit_numbers()
        scale = units["scale_sign"] * units["gain"] * gate / gauge
        return scale, units["shortcut_sign"] * units["gain"] * (1 - gate) / units["input_rms"]

    @property
    def effective_scale(self) -> float:
        """The scale with its own norm's drift taken out: 1 at insertion, and equal to the gate as it is trained."""
        state = self._standing()[1]
        if state == CLOSED:
            return 0.0
        if self.parametrization == "free":
            return abs(float(self.free_scale.detach())) * self._gauge_now() / float(self.initial_gauge)
        if state == RESTING:
            return 1.0
        units = self.unit_numbers()
        return units["gain"] * float(self.gate.detach()) / units["initial_gauge"]

    @property
    def closed_shortcut(self) -> float:
        """The shortcut once the gate is closed: the conv path's share goes to the identity path ("gain-gate")."""
        if self.parametrization == "free":
            return float(self.free_shortcut.detach())
        gauge = self._gauge_now()  # which may set units
        units = self.unit_numbers()
        return units["shortcut_sign"] * (gauge if self.resting else units["gain"]) / units["input_rms"]

    def left_over(self, *, cut: bool, input_rms: float | None) -> float:
        """Return the shortcut's factor once the conv path is gone; one that is cut has its gate closed first."""
        shortcut = self.closed_shortcut if cut else self.coefficients()[1]
        return shortcut if input_rms is None else shortcut * (float(self.input_rms) / input_rms)

    @torch.no_grad()
    def assign(
        self, *, scale: float | torch.Tensor | None = None, shortcut: float | torch.Tensor | None = None
    ) -> None:
        """Set the scale, the shortcut, or both (any finite numbers); what is not given stays as it is.

        Reopens a closed layer, and wakes a resting one.
        """
        s, a = self.coefficients()
        s = s if scale is None else float(scale)
        a = a if shortcut is None else float(shortcut)
        if not (math.isfinite(s) and math.isfinite(a)):
            raise FxpruneValueError(f"scale and shortcut must be finite, got {s} and {a}")
        if self.resting:
            self.wake()
        if self.closed:
            self._enter(OPEN)
            self.train_scale(True)
        if self.parametrization == "free":
            self.free_scale.fill_(s)
            self.free_shortcut.fill_(a)
            return
        conv_path, identity_path = abs(s) * self._gauge_now(), abs(a) * float(self.input_rms)
        gain = conv_path + identity_path
        signs = {"scale_sign": -1.0 if s < 0 else 1.0, "shortcut_sign": -1.0 if a < 0 else 1.0}
        self.set_units(gain=gain, **signs)
        self.gate.fill_(conv_path / gain if gain else 0.0)

    def set_scale(self, scale: torch.Tensor | None, shortcut: torch.Tensor | None, *_: torch.Tensor) -> None:
        """Assign scale and shortcut; the effective scale is that of the conv's weights as they are now."""
        self.assign(scale=scale, shortcut=shortcut)
        if scale is not None:
            self.set_units(initial_gauge=self._gauge_now())

    @torch.no_grad()
    def close(self) -> None:
        """Set the scale to zero for good: from now on only ``shortcut * x`` is computed, and no gate is trained."""
        if not self.removable:
            raise FxpruneValueError("a ResConv that changes its input's shape cannot be closed")
        if self.resting:
            self.wake()
        self.trained_scale.zero_()
        if not self.closed:
            self._enter(CLOSED)
        self.train_scale(False)

    def rest(self) -> None:
        """Compute conv and norm alone, as at insertion, until :meth:`wake`: faster, and no gate is trained."""
        if self.parametrization == "free" or self.closed:
            raise FxpruneValueError("only an open ResConv with a gate can rest")
        self.train_scale(False)
        self._enter(RESTING)

    @torch.no_grad()
    def wake(self, *_: torch.Tensor) -> None:
        """Open the gate for training, in units of the weights as they are now; outputs stay what they are."""
        gauge = self._gauge_now()
        self._enter(OPEN, gain=gauge, initial_gauge=gauge, scale_sign=1.0, shortcut_sign=1.0)
        self.gate.fill_(1)
        self.train_scale(True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``scale * norm(conv(x)) + shortcut * x`` (:meth:`identity` of x where shapes differ)."""
        row, state = self._standing()
        if state == CLOSED:
            return self.shortcut * x
        with parametrize.cached():  # a parametrized weight is read twice but computed once
            y: torch.Tensor = self.conv(x)
            norm = self.norm
            if norm is not None:
                y = norm(y)
            if state == RESTING:
                return y
            scale, shortcut = self._open_factors(row)
        return scale * y + shortcut * self.identity(x, y.shape)

    def extra_repr(self) -> str:
        """Return what ``print`` shows beside the submodules."""
        scale, shortcut = self.coefficients()
        return f"scale={scale:.4g}, shortcut={shortcut:.4g}, {self.parametrization}"
