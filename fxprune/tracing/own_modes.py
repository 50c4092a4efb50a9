"""Models whose own ``train()`` or ``eval()`` does more than set flags: it freezes parts, or writes to weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from fxprune.errors import FxpruneWarning, TraceError, first_line
from fxprune.ir.copies import copy_module
from fxprune.ir.module_tree import every_module, every_path, put_in_eval_mode

_Weights = Mapping[str, tuple[torch.Tensor, torch.Tensor]]  # by name: the tensor, and a copy of what it held


def has_own_modes(model: nn.Module) -> bool:
    """Say whether a module of ``model`` has a ``train()`` or an ``eval()`` of its own."""
    modules = every_module(model)
    return not all(type(one).train is nn.Module.train and type(one).eval is nn.Module.eval for one in modules)


def tell_of_own_modes(model: nn.Module, *, share_weights: bool) -> None:
    """Warn of what ``train()`` and ``eval()`` of ``model`` do and those of a graph do not; tried on a copy.

    Raises:
        TraceError: ``share_weights``, and ``eval()`` would change the model's weights.
    """
    trial = copy_module(model)
    given = _weights_of(trial)
    put_in_eval_mode(trial)
    evaluated = _weights_of(trial)
    by_eval = _changed(given, evaluated)
    if by_eval and share_weights:
        raise TraceError(
            f"{type(model).__name__}.eval() changes weights ({_listed(by_eval)}), with share_weights those of the "
            "model itself: trace it without share_weights"
        )
    try:
        trial.train(True)
    except Exception:
        by_train, frozen = [], []  # it cannot be told now
    else:
        by_train = _changed(evaluated, _weights_of(trial))
        frozen = [path for path, one in every_path(trial).items() if not one.training]
    if by_eval or by_train:
        _warn(
            f"train() and eval() of {type(model).__name__} change weights ({_listed(by_eval or by_train)}); those of "
            "the graph do not: it holds and trains the weights of eval mode; to train what they are made of, trace "
            "the model with that turned off"
        )
    if frozen:
        _warn(
            f"{type(model).__name__}.train() leaves {_listed(frozen)} in eval mode; train() of the graph does not: "
            "call graph.get_submodule(path).eval() after it"
        )


def _warn(message: str) -> None:
    warnings.warn(message, FxpruneWarning, stacklevel=5)  # beside fxprune.trace, which is three calls up


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{' and others' if len(names) > 3 else ''}"


def _weights_of(model: nn.Module) -> _Weights:
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for path, module in every_path(model).items():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                found[f"{path}.{name}" if path else name] = tensor, tensor.detach().clone()
    return found


def _changed(before: _Weights, after: _Weights) -> list[str]:
    """Return the names of tensors that came, went, or hold other numbers."""
    return [
        name
        for name in {**before, **after}
        if name not in before or name not in after or not _equal(before[name][1], after[name][1])
    ]


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    same_kind = (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
    return same_kind and (a.is_meta or bool(((a == b) | ((a != a) & (b != b))).all()))


@contextmanager
def keeping_weights(model: nn.Module) -> Iterator[None]:
    """Give the parameters and buffers of ``model`` their memory and numbers back at the end, whatever happened."""
    before = [(tensor, tensor.data, values) for tensor, values in _weights_of(model).values()]
    try:
        yield
    finally:
        for tensor, memory, values in before:
            if tensor.data_ptr() != memory.data_ptr():
                tensor.data = memory
            if not _equal(memory, values):
                with torch.no_grad():
                    tensor.copy_(values)


def copied_in_eval_mode(model: nn.Module, *, share_weights: bool) -> nn.Module:
    """Return a copy of ``model`` in eval mode, put there by its own ``eval()``; raises TraceError if it cannot be."""
    try:
        own = copy_module(model, share_weights=share_weights)
        put_in_eval_mode(own)
    except Exception as error:
        raise TraceError(f"{type(model).__name__} cannot be copied: {first_line(error)}") from error
    return own
