"""What ResConvs and BranchScales share: a trained scale, which may be closed for good, or rest until its turn.

All that holds beside the scale itself, whether the layer is open, rests or is closed, and the units of its scale, is
in one buffer of rows, its history. Every change of state writes the next row,

    share * (1, state, units...)          share = 1

and the last row that is there holds, divided by its share. So it holds in averages too, whoever averages or copies
tensors (an EMA of the buffers, a loop over a state dict): the share is then the weight of the copies since that
change, above 0 from the first one on, and what is divided by it is exactly what the change wrote.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from fxprune.errors import FxpruneError
from fxprune.gates.base import Gated
from fxprune.ir.processes import is_distributed

OPEN, RESTING, CLOSED = range(3)
_ROWS = 64
_MOVED = 1e-3
_SMALLEST_SIZE = 0.1  # a zero-initialised norm has no size to divide by


def size_of(weight: torch.Tensor) -> torch.Tensor:
    """Return the size that ``weight`` gives what it is multiplied with; a scalar, at least 0.1.

    Of a vector (a norm's gamma, a layer scale, in whatever shape) the rms, of a kernel the rms of its filters' L2
    norms. Worked out in float32 whatever the dtype, so that it is the same number in every copy.
    """
    filters = weight.shape[0] if weight.dim() > 1 and weight.numel() > max(weight.shape) else weight.numel()
    size: torch.Tensor = torch.linalg.vector_norm(weight.float()) / filters**0.5
    return size.clamp(min=_SMALLEST_SIZE)


class ScaledLayer(Gated):
    """A layer with a scale that shrinking acts on; its state dict tells whether it is closed, or rests.

    Attributes:
        history: (64, 2 + units), see the module's docstring; at least float32, whatever the layer is cast to.
    """

    units: ClassVar[tuple[str, ...]]
    """The names of what is fixed while the scale is trained."""

    history: torch.Tensor
    _last: tuple[int, int]  # the row that held and the state in it, when the history was last read
    _seen: tuple[torch.Tensor, int] | None  # which history that was, and its version

    def _begin(self, like: torch.Tensor, **units: float) -> torch.Tensor:
        """Make the history of an open layer with all of its units, where ``like`` is, and return it."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        history = torch.zeros(_ROWS, 2 + len(self.units), device=like.device, dtype=dtype)
        self.register_buffer("history", history)
        self._write(0, OPEN, units)
        return history

    def outline(self, one: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the shape, strides and dtype of the output, and its memory if that is an input's.

        ``x`` is the first operand, ``y`` the second or what the wrapped layer returns, ``one`` a scalar of the dtype
        of the scale: no scale is computed, which takes milliseconds on fake tensors. A kind without it is called.
        """
        raise NotImplementedError

    @property
    def closed(self) -> bool:
        """Whether the layer was taken out: what it scales is not computed any more."""
        return self._standing()[1] == CLOSED

    @property
    def resting(self) -> bool:
        """Whether the layer computes what it did at insertion, whatever the size of its weights."""
        return self._standing()[1] == RESTING

    @property
    def initial_gauge(self) -> torch.Tensor:
        """What the layer's gauge was when the gate was opened; a scalar tensor."""
        return self.unit("initial_gauge")

    def unit(self, name: str) -> torch.Tensor:
        """Return one of the units as it holds now; a scalar tensor."""
        history, row = self.history, self._standing()[0]
        return history[row, 2 + self.units.index(name)] / history[row, 0]

    def _units_in(self, row: int) -> dict[str, torch.Tensor]:
        """Return all units in a row of the history, by name: what :meth:`unit` returns of each, in one division."""
        held = self.history[row]
        return dict(zip(self.units, (held[2:] / held[0]).unbind(), strict=True))

    def unit_numbers(self) -> dict[str, float]:
        """Return all units as they hold now, by name: one read where :meth:`unit` makes tensors."""
        share, _, *held = self.history[self._standing()[0]].tolist()
        return {name: unit / share if share else math.nan for name, unit in zip(self.units, held, strict=True)}

    def set_units(self, **units: float) -> None:
        """Change units by name, in the state that the layer is in; averages take a mean of what they were and are."""
        self._write(*self._standing(), units)

    def restate(self, **units: float) -> None:
        """Change units by name for averages too, as a change of state does (of 64 changes the last count as one)."""
        row, state = self._standing()
        if not all(math.isclose(float(self.unit(name)), unit, rel_tol=1e-6) for name, unit in units.items()):
            self._write(min(row + 1, _ROWS - 1), state, units)

    def follow(self) -> None:
        """Read the history only where it was written since, as in a graph that is trained here.

        A copy reads it each time: whoever keeps the copy may write in ways that leave no trace (``.data``). What
        torch.compile made of a layer that is followed knows the state of then: write others by ``load_state_dict``.
        """
        self._remember(*self._state_held())

    def follow_as(self, original: ScaledLayer) -> None:
        """Take over what ``original``, which this is a short-lived copy of, has read in its history."""
        self._remember(*original._standing())

    def train_scale(self, trains: bool) -> None:
        """Have the scale trained, or not; of several processes see :mod:`fxprune.gates.data_parallel`."""
        self.trained_scale.requires_grad_(trains or is_distributed())

    def _enter(self, state: int, **units: float) -> None:
        """Change to ``state``, with these units, the others as they were."""
        row, before = self._standing()
        if state != before and row + 1 == _ROWS:
            raise FxpruneError(f"the scale of a layer was opened and closed {_ROWS} times; insert scales anew")
        self._write(row + (state != before), state, units)

    def _write(self, row: int, state: int, units: Mapping[str, float]) -> None:
        known = units
        if len(units) < len(self.units):
            share, _, *before = self.history[self._standing()[0]].tolist()
            held = {name: unit / (share or 1.0) for name, unit in zip(self.units, before, strict=True)}
            known = held | dict(units)
        values = [1.0, float(state), *(known[name] for name in self.units)]
        history = self.history
        history[row] = history.new_tensor(values)
        self._remember(row, state)

    def _remember(self, row: int, state: int) -> None:
        history = self.history
        seen = None if history.is_inference() else (history, history._version)
        self.__dict__.update(_last=(row, state), _seen=seen)  # nn.Module takes microseconds to set an attribute

    def _standing(self) -> tuple[int, int]:
        """Return the row of the history that holds, and the state in it.

        Reading it may wait for a GPU, and breaks a compiled graph: it is spared where nothing wrote into the tensor.
        """
        seen = self._seen
        if seen is None:
            self.__dict__["_last"] = self._state_held()
            self._require_buffers()
        elif torch.compiler.is_compiling():
            pass
        elif seen[0] is not (history := self.history):
            return self._state_held()  # of one that stands in for it, for this call
        elif seen[1] != history._version:
            self.follow()
        return self._last

    def _state_held(self) -> tuple[int, int]:
        """Return what the history says now; what it last said where it cannot be read."""
        if not _is_readable(self.history):
            return self._last
        with _disable_current_modes():  # it is real, where fake tensors are worked with too
            return _state_in(self.history[:, :2].tolist())

    def _require_buffers(self) -> None:
        """Raise FxpruneError if this is a copy that holds the parameters of a later state than its history."""
        if self._last[1] == RESTING and _is_readable(self.history):
            gate = max(self.trained_scale.detach().flatten().tolist(), key=lambda one: abs(one - 1))
            if abs(gate - 1) > _MOVED:
                raise FxpruneError(
                    f"a layer rests whose gate is {gate:.3g}: parameters were averaged or loaded without their "
                    "buffers; average or copy those too"
                )

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and files hold: they read their history each time."""
        return {**self.__dict__, "_seen": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`__getstate__` returned, or what an earlier version wrote."""
        flags = bool(state.pop("closed", False)), bool(state.pop("resting", False))
        self._take_history_of_old(state["_buffers"], "", flags)
        state.setdefault("_last", (0, OPEN))
        super().__setstate__(state)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        was_open = self._standing()[1] == OPEN
        flags = state_dict.pop(f"{prefix}_extra_state", torch.zeros(2))
        self._take_history_of_old(state_dict, prefix, flags.bool().tolist())
        super()._load_from_state_dict(state_dict, prefix, *others)
        self._keep_following()
        is_open = self._standing()[1] == OPEN
        if is_open != was_open:
            self.train_scale(is_open)

    def _take_history_of_old(self, tensors: dict[str, Any], prefix: str, flags: Sequence[bool]) -> None:
        """Put a history into ``tensors`` in the place of the units that an earlier version kept one by one."""
        units = [name for name in self.units if f"{prefix}{name}" in tensors]
        if not units:
            return
        signs = tensors.pop(f"{prefix}signs", torch.ones(2)).tolist()
        known = dict.fromkeys(self.units, 1.0) | dict(zip(("scale_sign", "shortcut_sign"), signs, strict=True))
        like = tensors[f"{prefix}{units[0]}"]
        known |= {name: float(tensors.pop(f"{prefix}{name}")) for name in units}
        closed, resting = flags
        history = torch.zeros(_ROWS, 2 + len(self.units), device=like.device, dtype=like.dtype)
        state = CLOSED if closed else RESTING if resting else OPEN
        history[0] = torch.tensor([1.0, float(state), *(known[name] for name in self.units)])
        tensors[f"{prefix}history"] = history

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move or cast the layer; its own scale and history never become narrower than float32."""
        tables: tuple[dict[str, Any], ...] = (self._parameters, self._buffers)
        before = [(table, name, tensor.detach()) for table in tables for name, tensor in table.items()]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for table, name, was in before:
            now = table[name]
            if now.dtype.itemsize < was.dtype.itemsize and now.dtype.itemsize < 4:
                wide = was.to(now.device, torch.float32)
                gradient, now.grad = now.grad, None
                now.data = wide
                now.grad = None if gradient is None else gradient.to(wide)
        self._keep_following()
        return self

    def _keep_following(self) -> None:
        """Follow another tensor than before, which holds the history now, if one was followed."""
        if self._seen is not None:
            self.follow()


def follow_together(layers: Collection[ScaledLayer]) -> None:
    """Read the history of each of ``layers``, in one transfer: something may have written without a trace."""
    if layers and all(_is_readable(layer.history) for layer in layers):
        for layer, rows in zip(layers, torch.stack([one.history[:, :2] for one in layers]).tolist(), strict=True):
            layer._remember(*_state_in(rows))


def _state_in(rows: Sequence[Sequence[float]]) -> tuple[int, int]:
    """Return the row that holds, and the state in it, given the shares and states of a history's rows."""
    row = max((index for index, (share, _) in enumerate(rows) if share > 0), default=0)
    share, state = rows[row]
    return row, round(state / share) if share > 0 else OPEN


def _is_readable(tensor: torch.Tensor) -> bool:
    """Say whether the numbers in ``tensor`` can be had now: not fake ones, nor while a CUDA graph is recorded."""
    faking = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None
    if faking or isinstance(tensor, FakeTensor) or tensor.is_meta:
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())
