"""An optimizer without the rows of its parameters that went: what it remembers of those that stay goes on.

    p <- p - lr * m,  m: (64, 3, 3, 3)     ->     p[kept] <- p[kept] - lr * m[kept]

State of a parameter's shape (momentum, exp_avg, ...) is of each of its elements; numbers (step) are of the parameter.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from fxprune.errors import FxpruneValueError
from fxprune.weights.slicing import Slice, part_of

_OWN = ("param_groups", "state", "step")
"""What is made anew; a schedule of the rate leaves a ``step`` that is the old one's."""


def narrower_optimizer(
    optimizer: Optimizer,
    slices: Mapping[torch.Tensor, Slice],
    gone: Collection[torch.Tensor],
    names: Mapping[Any, str],
) -> Optimizer:
    """Return an optimizer of the same class, groups and options for what is left of its parameters.

    Gradients that are there are cut too. ``optimizer`` stays as it is: no state is shared.

    Args:
        optimizer: any of torch's kind whose state is numbers, and tensors of the parameters' shapes.
        slices: by parameter what stays of it.
        gone: the parameters that go; those in neither stay as they are, whoever they belong to.
        names: of the parameters, for errors.

    Raises:
        FxpruneValueError: its rows cannot be told: state of another shape, or parameters kept beside its groups.
    """
    made: Optimizer = object.__new__(type(optimizer))
    for name, value in vars(optimizer).items():
        if name in _OWN:
            continue
        _require_no_parameters(optimizer, name, value)
        setattr(made, name, copy.copy(value))
    made.param_groups = [_group(group, slices, gone) for group in optimizer.param_groups]
    made.state = defaultdict(dict)
    for parameter, state in optimizer.state.items():
        if parameter in gone:
            continue
        one = slices.get(parameter)
        kept = parameter if one is None else one.part
        of = f"{type(optimizer).__name__}'s state of {names.get(parameter, 'a parameter')}"
        made.state[kept] = {key: _kept_state(of, key, value, one) for key, value in state.items()}
    for one in slices.values():
        if one.whole.grad is not None:
            one.part.grad = part_of(one.whole.grad, one.places)
    return made


def _group(
    group: Mapping[str, Any], slices: Mapping[torch.Tensor, Slice], gone: Collection[torch.Tensor]
) -> dict[str, Any]:
    """Return a group with what is left of its parameters: an empty one stays, for schedules that count groups."""
    stays = [parameter not in gone for parameter in group["params"]]
    kept = [one for one, is_left in zip(group["params"], stays, strict=True) if is_left]
    made = {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in group.items()}
    made["params"] = [slices[one].part if one in slices else one for one in kept]
    if "param_names" in group:
        made["param_names"] = [name for name, is_left in zip(group["param_names"], stays, strict=True) if is_left]
    return made


def _kept_state(of: str, key: str, value: Any, one: Slice | None) -> Any:
    """Return what is left of an entry of a parameter's state: a copy."""
    if not isinstance(value, torch.Tensor):
        if one is None or value is None or isinstance(value, (bool, int, float)):
            return copy.copy(value)
        raise FxpruneValueError(f"{of} has {key!r}, a {type(value).__name__}: its rows cannot be told; {_ADVICE}")
    if one is None or value.numel() == 1 != one.whole.numel() or value.dim() == 0:
        return value.clone()
    if value.shape == one.whole.shape:
        return part_of(value, one.places)
    raise FxpruneValueError(
        f"{of} has {key!r} of shape {tuple(value.shape)}, the parameter {tuple(one.whole.shape)}: its rows cannot be "
        f"told; {_ADVICE}"
    )


_ADVICE = "train on without cutting, or with an optimizer whose state has the shape of its parameters"


def _require_no_parameters(optimizer: Optimizer, name: str, value: Any) -> None:
    """Raise FxpruneValueError if an attribute of an optimizer is another one, or holds its parameters."""
    kind = type(optimizer).__name__
    if isinstance(value, Optimizer):
        raise FxpruneValueError(f"{kind} is a wrapper around another optimizer ({name}): give that one")
    held = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple, set)) else ()
    own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if any(id(one) in own for one in held):
        raise FxpruneValueError(f"{kind} holds parameters beside its groups ({name}): {_ADVICE}")
