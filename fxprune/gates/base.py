"""What is asked of a gate, whatever it gates: costs, shapes, diffs, removal and shrinking know no kind by name.

A new kind is a file of its own with a subclass of :class:`fxprune.gates.gate.ScaledLayer`, and the passes that
insert and fuse it. A call gives it its operands (the output is the sum of several), then weights that it measures.
Its submodules are applied to a single operand one after the other; without any the output has that operand's shape.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import fx, nn

from fxprune.ops.call import Call


class Gated(nn.Module):
    """The answers of a gate that cannot be removed, wraps nothing, and has no shortcut of its own."""

    kind: ClassVar[str]
    """What it gates, in one word: "conv", "branch"."""

    keeps_dtype: ClassVar[bool] = True
    """Its own tensors stay at least float32 whatever the network is cast to."""

    fused_by: ClassVar[str]
    """The name of the pass that makes plain layers of it."""

    operands: ClassVar[int] = 1
    """How many of its arguments are values; once it is removed, what only those behind the first needed goes too."""

    wraps: ClassVar[str | None] = None
    """The name of its submodule that stands in the graph without it, with its cost; the others are its norm."""

    has_shortcut: ClassVar[bool] = False
    """Whether it has a shortcut of its own, in the units ``gain`` and ``input_rms``."""

    parametrization: str = "gain-gate"
    """What is trained: a gate in [0, 1], or, if "free", the scale itself with its sign."""

    gate: nn.Parameter
    """The trained scale, unless the parametrisation is "free"."""

    @property
    def trained_scale(self) -> nn.Parameter:
        """The parameter that shrinking acts on."""
        raise NotImplementedError

    @property
    def effective_scale(self) -> float:
        """The size of the scale, comparable between layers: 1 at insertion, 0 where the layer does nothing.

        Of a gate of several classes the mean.
        """
        raise NotImplementedError

    @property
    def width(self) -> int:
        """How many scales it has: one a class of what goes together."""
        return self.trained_scale.numel()

    @property
    def effective_scales(self) -> torch.Tensor:
        """The effective scale of each class; (width,), detached."""
        return self.trained_scale.new_full((1,), self.effective_scale)

    @property
    def removable(self) -> bool:
        """Whether :class:`fxprune.passes.RemoveLayers` can take it out as a whole."""
        return False

    @property
    def narrows(self) -> bool:
        """Whether it goes on, now, without some channels of the layer that it wraps, by a method ``narrowed``."""
        return False

    @property
    def untouched(self) -> bool:
        """Whether the unit of its shortcut, the size of its input, is still to be measured."""
        return False

    @property
    def wrapped(self) -> nn.Module | None:
        """The submodule that it wraps, if any."""
        return None if self.wraps is None else self._modules[self.wraps]

    def with_wrapped(self, layer: nn.Module) -> Gated:
        """Return the same gate around another layer; all else is shared."""
        assert self.wraps is not None
        duplicate = copy.copy(self)
        duplicate.__dict__ = {**vars(self), "_modules": {**self._modules, self.wraps: layer}}
        return duplicate

    def coefficients(self, *weights: torch.Tensor) -> tuple[float, float]:
        """Return (scale, shortcut) as Python floats, given the weights that it measures as they are now."""
        raise NotImplementedError

    def set_scale(self, scale: torch.Tensor | None, shortcut: torch.Tensor | None, *weights: torch.Tensor) -> None:
        """Set the factors, (width,) each, that the output has now, in units of ``weights`` as they are now.

        None leaves one as it is. Opens the gate; it is trained from then on if it was not open.
        """
        raise NotImplementedError

    def wake(self, *weights: torch.Tensor) -> None:
        """Open the gate for training, in units of ``weights`` as they are now; outputs stay."""
        raise NotImplementedError

    def rest(self) -> None:
        """Compute what it did at insertion until :meth:`wake`, and train no gate."""
        raise NotImplementedError

    def close(self) -> None:
        """Set the scale to zero for good, and train no gate."""
        raise NotImplementedError

    def left_over(self, *, cut: bool, input_rms: float | None) -> float:
        """Return by what its first operand is multiplied where the gate was, once it is removed.

        ``cut``: its scale is not small. ``input_rms``: the size of its input, where that was never measured.
        """
        return 1.0

    def shrink(self, amount: float) -> None:
        """Move the trained scale towards zero, and not beyond."""
        scale = self.trained_scale
        if self.parametrization == "free":
            scale.copy_(scale.sign() * (scale.abs() - amount).clamp(min=0))
        else:
            scale.sub_(amount).clamp_(0, 1)

    def penalty(self) -> torch.Tensor:
        """Return the L1 norm of the trained scale, differentiable; a scalar."""
        return (self.trained_scale.abs() if self.parametrization == "free" else self.trained_scale).sum()


def ungated(module: nn.Module) -> nn.Module:
    """Return the layer that ``module``, a gate, wraps; ``module`` itself if it is none, or wraps nothing."""
    wrapped = module.wrapped if isinstance(module, Gated) else None
    return module if wrapped is None else wrapped


def ungated_call(node: fx.Node) -> Call:
    """Return what ``node`` computes, of a gate the layer that it wraps."""
    call = Call(node)
    return call if call.module is None else Call(node, ungated(call.module))


def known_kinds(base: type[Gated] = Gated) -> Iterator[str]:
    """Yield the kinds of gates that there are."""
    for one in base.__subclasses__():
        if "kind" in vars(one):
            yield one.kind
        yield from known_kinds(one)
