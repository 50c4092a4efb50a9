"""Layers in float64, and run once for what two graphs that run side by side ask of both.

A pass leaves most layers alone, and what it changes around them often changes no bit of what they are called with:

    y = norm(conv(x))   ->   y = s * norm(conv(x)) + a * x          s = 1 and a = 0 at insertion

Both graphs call the same conv and norm with the same x then, and get the same y.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from fxprune.gates.gate import ScaledLayer
from fxprune.ir.module_tree import every_module, has_hooks, is_opaque
from fxprune.ir.pytrees import PLAIN, tensors_in
from fxprune.ops.layer_classes import NORM_CLASSES, TRANSPOSED_CLASSES, WEIGHTED_CLASSES
from fxprune.weights.exact import exact, exact_values, in_float64

REMEMBERING = frozenset((*WEIGHTED_CLASSES, *TRANSPOSED_CLASSES, *NORM_CLASSES, nn.LayerNorm, nn.GroupNorm))
"""Layers whose outputs depend on their inputs alone, and are new memory."""

_LAYERS = ("torch.nn.modules.", "fxprune.")
_TABLES = frozenset(vars(nn.Module()))
_TENSORLESS = PLAIN | {tuple}


class Twins:
    """The float64 twins of layers. What one graph was told by those that are ``shared`` (ids) is kept for the other.

    Attributes:
        is_first: whether it is the first of the two graphs that calls them now.
        dtypes: those that tensors of layers had.
    """

    def __init__(self, shared: Collection[int] = ()) -> None:
        self.is_first = True
        self.dtypes: set[torch.dtype] = set()
        self._shared = shared
        self._exact = exact_values()
        self._waiting: dict[int, nn.Module] = {}  # for the second graph

    def of(self, module: nn.Module) -> Callable[..., Any]:
        """Return what calls ``module`` with the exact values of its tensors, and changes none of it."""
        if all(map(is_plain, every_module(module) if module._modules else (module,))):
            return self.of_plain(module)
        tensors = [*module.parameters(), *module.buffers()]
        if all(t.dtype == torch.float64 or not t.is_floating_point() for t in tensors):
            return module
        if any(isinstance(value, torch.Tensor) for inner in module.modules() for value in vars(inner).values()):
            return in_float64(module)
        wide = {name: exact(t) if t.is_floating_point() else t for name, t in module.named_parameters()}
        wide |= {name: exact(t).clone() if t.is_floating_point() else t.clone() for name, t in module.named_buffers()}
        return lambda *args, **kwargs: functional_call(module, wide, args, kwargs)

    def of_plain(self, module: nn.Module) -> Callable[..., Any]:
        """Return what :meth:`of` does of a module all of which :func:`is_plain`."""
        return self._twin(module, {})

    def _twin(self, module: nn.Module, memo: dict[int, nn.Module]) -> nn.Module:
        key = id(module)
        if key not in self._shared:
            return self._widened(module, memo)
        twin = self._waiting.get(key) if self.is_first else self._waiting.pop(key, None)
        if twin is None:
            twin = self._widened(module, memo)
            if self.is_first:
                vars(twin)["forward"] = _Remembering(twin)
                self._waiting[key] = twin
        elif not self.is_first:
            vars(twin)["forward"].answers = True
        memo[key] = twin
        return twin

    def _widened(self, module: nn.Module, memo: dict[int, nn.Module]) -> nn.Module:
        """Return ``module`` with the exact values of its tensors, and all else as it is.

        That is several times as fast as ``functional_call``.
        """
        kind, value = type(module), self._exact
        wide = memo[id(module)] = kind.__new__(kind)
        state = vars(wide)
        state.update(vars(module), training=False, _compiled_call_impl=None)  # which is of ``module``, and its dtype
        for table in ("_parameters", "_buffers"):
            if held := state[table]:
                self.dtypes.update([tensor.dtype for tensor in held.values() if tensor is not None])
                state[table] = {
                    name: value(tensor) if tensor is not None and tensor.is_floating_point() else tensor
                    for name, tensor in held.items()
                }
        children = module._modules
        if isinstance(wide, ScaledLayer) and isinstance(module, ScaledLayer):
            wide.follow_as(module)
            children = {} if wide.closed else children  # it computes nothing with them
        if children:
            state["_modules"] = {
                name: None if child is None else memo.get(id(child)) or self._twin(child, memo)
                for name, child in children.items()
            }
            for name in [name for name, value in state.items() if type(value) is tuple]:
                state[name] = tuple([memo.get(id(one), one) for one in state[name]])
        return wide


def is_plain(module: nn.Module) -> bool:
    """Say whether ``module`` is a layer of torch's or ours that holds tensors as parameters and buffers alone."""
    state = vars(module)
    is_own = not type(module).__module__.startswith(_LAYERS) or is_opaque(module)
    if is_own or has_hooks(module) or "forward" in state:
        return False
    others = [name for name, value in state.items() if type(value) not in _TENSORLESS]
    return _TABLES.issuperset(others) or not any(
        _holds_tensors(state[name]) for name in others if name not in _TABLES
    )


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, (torch.Tensor, list, dict)) and bool(tensors_in(value))


class _Remembering:
    """The forward of a layer that keeps what it returned; once it ``answers``, it knows what is asked again."""

    def __init__(self, layer: nn.Module) -> None:
        self.answers = False
        self._compute: Callable[..., Any] = type(layer).forward
        self._layer = weakref.ref(layer)  # which refers to this: values in a circle would stay for long
        self._seen: tuple[_Seen, _Seen] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the layer returns for these arguments."""
        seen, self._seen = self._seen, None
        is_one = not kwargs and len(args) == 1 and type(args[0]) is torch.Tensor and args[0].dtype is torch.float64
        if seen and self.answers and is_one and seen[0].has_bits_of(args[0]) and seen[1].is_untouched():
            return seen[1].tensor
        answer = self._compute(self._layer(), *args, **kwargs)
        if is_one and not (self.answers or args[0].is_inference() or answer.is_inference()):
            self._seen = _Seen(args[0]), _Seen(answer)
        return answer


class _Seen:
    """A tensor as it was when it was seen."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor, self._version = tensor, tensor._version

    def is_untouched(self) -> bool:
        """Say whether nothing wrote to the tensor since."""
        return self.tensor._version == self._version

    def has_bits_of(self, other: torch.Tensor) -> bool:
        """Say whether ``other`` is what the tensor was, signs of zeros and strides included."""
        mine = self.tensor
        if mine is other or not self.is_untouched():
            return self.is_untouched()
        same_layout = mine.shape == other.shape and mine.stride() == other.stride()
        return same_layout and torch.equal(mine.view(torch.int64), other.view(torch.int64))
