"""All of it in one call: trace, insert scales, train, remove, fuse, simplify."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from fxprune.arguments import require_arguments
from fxprune.chains import AFTER_TRAINING, Layers, insert_scales
from fxprune.errors import FxpruneError, FxpruneWarning
from fxprune.passes import RemoveLayers
from fxprune.pipeline import Pipeline, PipelineResult
from fxprune.sparsity import ProximalL1
from fxprune.steering import SteeredL1
from fxprune.trace import trace
from fxprune.tracing.check import require_finite


def prune(
    model: nn.Module,
    example_inputs: Any,
    fit: Callable[..., Any],
    *,
    layers: Layers = "all",
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
    target_macs: float | None = None,
    target_memory: float | None = None,
    target_params: float | None = None,
    threshold: float | None = None,
    strength: float | Mapping[str, float] = 1e-3,
    steps: int | None = None,
    verify: bool = True,
) -> PipelineResult:
    """Prune whole layers of ``model`` while ``fit`` trains it.

    Args:
        model: any traceable nn.Module; it is never changed.
        example_inputs: a small batch of real inputs, as the model takes them (see :func:`fxprune.trace`).
        fit: an ordinary training function. ``fit(sparse)`` trains the graph that it is given in place; its layers
            shrink after every step of the torch optimizer that holds its parameters (of several, the first). A loop
            that calls ``shrink.step(lr)`` itself needs no ``prune``: see :func:`fxprune.insert_scales`. (A function
            with two arguments, or one named ``shrink``, still gets it, with a DeprecationWarning.)
        layers: what to prune: single convs, whole residual branches, or all of both.
        keep: patterns over the paths of modules: what these match stays, "layer4" or "*.conv3" say.
        only: likewise: layers that none of these matches stay too (see :mod:`fxprune.keeping`).
        target_macs: the share of the MACs to leave; the smallest scales go first until it is met.
        target_memory: with ``steps``, the share of the peak activation memory to leave (:class:`fxprune.SteeredL1`).
        target_params: with ``steps``, the share of the parameters to leave (likewise).
        threshold: remove every layer with at most this effective scale (1e-2 if no target is given).
        strength: of the proximal L1 (:class:`fxprune.ProximalL1`), where ``steps`` is not given.
        steps: number of optimizer steps after which the targets shall be met by exact zeros
            (:class:`fxprune.SteeredL1`); a quarter of the training is a good choice.
        verify: check in float64 that fusing and simplifying change nothing.

    Returns:
        The result of the passes; its ``graph_module``, in eval mode, is the pruned network.

    Raises:
        FxpruneError: no such layer is eligible (lists why), the loss of training left NaN in the weights, or ``fit``
            never took an optimizer step.
        TargetError: the target cannot be met; says what can.
    """
    require_arguments(prune, locals())
    traced = trace(model, example_inputs)
    sparse = insert_scales(traced, layers, keep=keep, only=only, verify=verify).graph_module
    targets = {"target_memory": target_memory, "target_params": target_params}
    further = [name for name, share in targets.items() if share is not None]
    if steps is not None and threshold is None:
        threshold = 0.0
    removal = RemoveLayers(threshold=threshold, target_macs=target_macs)
    removal(sparse)  # before any training: raises if the target cannot be met
    shrink: ProximalL1
    if steps is not None:
        if target_macs is None and not further:
            raise FxpruneError(
                "steps is for a target: give target_macs, target_memory or target_params too, or a strength"
            )
        shrink = SteeredL1(
            sparse, target_macs=target_macs, target_memory=target_memory, target_params=target_params, steps=steps
        )
    elif further:
        raise FxpruneError(f"{further[0]} is for layers that are steered to zero: give steps too")
    else:
        shrink = ProximalL1(sparse, strength)
    _fit(fit, sparse, shrink)
    untouched = all(layer.effective_scale == 1 for layer in shrink.layers.values())
    if shrink.steps_done == 0 and untouched:
        raise FxpruneError(
            "fit took no step: train the graph that it is given, with an optimizer made from its parameters"
        )
    if further and isinstance(shrink, SteeredL1) and not shrink.is_met:
        warnings.warn(
            f"{' and '.join(further)} may not be met: fit took {shrink.steps_done} steps of the {steps} that "
            "steering was given; give fewer steps, or train for longer",
            FxpruneWarning,
            stacklevel=2,
        )
    sparse.eval()
    require_finite(sparse)
    return Pipeline([removal, *AFTER_TRAINING], verify=verify)(sparse)


def _fit(fit: Callable[..., Any], sparse: fx.GraphModule, shrink: ProximalL1) -> None:
    parameters = _parameters(fit)
    is_named = any(p.name == "shrink" and p.kind is not p.POSITIONAL_ONLY for p in parameters)
    needed = sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    if is_named or needed >= 2:
        warnings.warn(
            "fit(sparse, shrink) is deprecated: give fit(sparse), whose layers shrink after each step of its "
            "optimizer, or call shrink.step in a loop of your own on what fxprune.insert_scales returns",
            DeprecationWarning,
            stacklevel=3,
        )
        if is_named:
            fit(sparse, shrink=shrink)
        else:
            fit(sparse, shrink)
        return
    scales = {id(layer.trained_scale) for layer in shrink.layers.values()}
    own = {id(parameter) for parameter in sparse.parameters()}
    followed: list[torch.optim.Optimizer] = []

    def after_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        groups = [({id(p) for p in group["params"]}, float(group["lr"])) for group in optimizer.param_groups]
        # Scales that are steered are frozen: an optimizer may leave them out.
        rates = [lr for held, lr in groups if held & scales] or [lr for held, lr in groups if held & own]
        if rates and not followed:
            followed.append(optimizer)
        if optimizer in followed:  # a second one that trains another part of the network takes the same steps
            shrink.step(max(rates))

    handle = register_optimizer_step_post_hook(after_step)
    try:
        fit(sparse)
    finally:
        handle.remove()


def _parameters(fit: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return [*inspect.signature(fit).parameters.values()]
    except (TypeError, ValueError):
        return []
