"""All of it in one call: trace, insert scales, train, remove, fuse, simplify."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from fxprune.choosing.targets import Targets
from fxprune.errors import FxpruneDeprecationWarning, FxpruneError, FxpruneWarning
from fxprune.ir.arguments import require_arguments
from fxprune.ir.processes import by_the_first
from fxprune.passes import RemoveChannels, RemoveLayers
from fxprune.passes.chains import FINISHING
from fxprune.pipelines.pipeline import Pipeline
from fxprune.pipelines.result import PipelineResult, joined
from fxprune.pruning.closing import Closing, gated_for, require_alone
from fxprune.pruning.latency_model import LatencyModel
from fxprune.pruning.old_names import old_steps, old_targets, takes_old_names
from fxprune.pruning.other_sites import suggesting_others
from fxprune.pruning.proximal import ProximalL1
from fxprune.pruning.pruning_plan import PruningPlan
from fxprune.pruning.steering import SteeredL1
from fxprune.pruning.surgery import Surgery
from fxprune.pruning.untrained.no_train import untrained
from fxprune.tracing.check import require_finite
from fxprune.tracing.trace import trace

_NOTHING = Targets()
_USUAL = Surgery()
_NO_STEP = "fit took no step: train the graph that it is given, with an optimizer made from its parameters"


@takes_old_names(targets=old_targets, meet_after=old_steps, surgery=Surgery)
def prune(
    model: nn.Module,
    example_inputs: Any,
    fit: Callable[..., Any] | None = None,
    *,
    labels: torch.Tensor | None = None,
    targets: Targets = _NOTHING,
    strength: float | Mapping[str, float] | None = None,
    meet_after: int | None = None,
    surgery: Surgery = _USUAL,
    plan: PruningPlan | None = None,
    latency: LatencyModel | None = None,
) -> PipelineResult:
    """Prune whole layers of ``model``, or channels, while ``fit`` trains it, or without training.

    Args:
        model: any traceable nn.Module; it is never changed.
        example_inputs: a small batch of real inputs, as the model takes them (see :func:`fxprune.trace`). Without
            ``fit`` it is some hundred images that layers are fitted to: a tensor (N, ...), or an iterable of batches
            or of pairs of these and labels.
        fit: an ordinary training function. ``fit(sparse)`` trains the graph that it is given in place; its layers
            shrink after every step of the torch optimizer that holds its parameters (of several, the first). A loop
            that calls ``shrink.step(lr)`` itself needs no ``prune``: see :func:`fxprune.insert_scales`. (A function
            with two arguments, or one named ``shrink``, still gets it, with a DeprecationWarning.) None: nothing is
            trained, what goes is chosen and repaired by
            :func:`fxprune.pruning.untrained.no_train.prune_untrained`, which tells more.
        labels: without ``fit``, of the images, (N,); nothing is fitted to them.
        targets: the shares of MACs, parameters and memory to leave, or a time. With ``fit`` and without
            ``meet_after`` only that of MACs: the smallest scales go first until it is met.
        strength: of the proximal L1 (:class:`fxprune.ProximalL1`), without ``meet_after``; 1e-3 by default.
        meet_after: number of optimizer steps after which the targets shall be met by exact zeros
            (:class:`fxprune.SteeredL1`); a quarter of the training is a good choice.
        surgery: what may go, of convs, branches and channels, below which scale a layer does without a target,
            whether passes are verified.
        plan: what goes, in the place of targets and all that says what may go: with ``meet_after`` it is trained to
            zero by then, in its order; without, it goes before the training, and ``fit`` trains what is left.
        latency: what predicts and measures times, for a target of these; measured of this network by default, in
            eager mode, for as many inputs at a time as are traced.

    Returns:
        The result of the passes; its ``graph_module``, in eval mode, is the pruned network.

    Raises:
        FxpruneError: no such layer is eligible (lists why), the loss of training left NaN in the weights, or ``fit``
            never took an optimizer step.
        TargetError: the target cannot be met; says what can.
        LoadError: the plan is for another network; says where they differ.
    """
    require_arguments(prune, locals())
    if fit is None and (strength is not None or meet_after is not None):
        raise FxpruneError("strength and meet_after are of a training: give fit too, or leave them out")
    if fit is not None or plan is not None:
        _require_sense(targets, strength, meet_after, surgery, plan)
    if fit is None:
        return untrained(model, example_inputs, labels, plan or targets, surgery, latency).result
    if labels is not None:
        raise FxpruneError("labels are for pruning without fit: a training has its own")
    traced = trace(model, example_inputs)
    if plan is not None and meet_after is None:
        return _cut_first(plan, traced, fit, surgery)
    sparse, closing = _gated(traced, surgery, plan)
    cuts_channels = surgery.cuts_channels if plan is None else "channels" in plan.what
    steered = meet_after is not None
    threshold = 0.0 if steered and surgery.threshold is None else surgery.threshold
    removal = RemoveLayers(threshold=threshold, target_macs=None if cuts_channels else targets.macs)
    with suggesting_others(sparse):
        removal(sparse)  # before any training: raises if the target cannot be met
    shrink: ProximalL1
    if meet_after is not None:
        if targets.is_timed:
            latency = latency or by_the_first(lambda: LatencyModel.measure(traced))
        shrink = SteeredL1(sparse, targets=targets, meet_after=meet_after, closing=closing, latency=latency)
    else:
        shrink = ProximalL1(sparse, 1e-3 if strength is None else strength)
    _fit(fit, sparse, shrink)
    _require_training(shrink)
    sparse.eval()
    require_finite(sparse)
    channels = [RemoveChannels()] if cuts_channels else []
    return Pipeline([removal, *FINISHING[surgery.norms], *channels], verify=surgery.verify)(sparse)


def _gated(
    traced: fx.GraphModule, surgery: Surgery, plan: PruningPlan | None
) -> tuple[fx.GraphModule, Closing | None]:
    """Return ``traced`` with scales, and which of them close, where a plan says so."""
    if plan is None:
        return surgery.inserted(traced), None
    inserted, closing = gated_for(plan, traced, verify=surgery.verify)
    return inserted.graph_module, closing


def _cut_first(
    plan: PruningPlan, traced: fx.GraphModule, fit: Callable[..., Any], surgery: Surgery
) -> PipelineResult:
    """Return what ``fit`` makes of the network without what a plan has, with the steps before and after it."""
    cut = plan.apply(traced, verify=surgery.verify)
    for step in cut.steps:
        step.diff  # noqa: B018 - worked out now: training will change the weights that it compares
    followed = _Followed(cut.graph_module)
    handle = register_optimizer_step_post_hook(followed)
    try:
        fit(cut.graph_module)
    finally:
        handle.remove()
    if not followed.steps:
        raise FxpruneError(_NO_STEP)
    cut.graph_module.eval()
    require_finite(cut.graph_module)
    end = Pipeline(FINISHING[surgery.norms], verify=surgery.verify)(cut.graph_module)
    return joined([cut, end])


class _Followed:
    """Counts the steps of optimizers that hold a graph's parameters."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self._own = {id(parameter) for parameter in graph_module.parameters()}
        self.steps = 0

    def __call__(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self.steps += any(id(p) in self._own for group in optimizer.param_groups for p in group["params"])


def _require_sense(
    targets: Targets, strength: Any, meet_after: int | None, surgery: Surgery, plan: PruningPlan | None
) -> None:
    """Raise FxpruneError where what is asked for is of steering, of a fixed strength, or of a plan at once."""
    if plan is not None:
        names = ("layers", "what", "keep", "only", "threshold")
        require_alone(targets, strength=strength, **{name: getattr(surgery, name) for name in names})
        return
    further = replace(targets, macs=None)
    if meet_after is None and not further.is_empty:
        raise FxpruneError(f"{further}: that is for layers that are steered to zero; give meet_after too")
    if meet_after is None and surgery.cuts_channels and not targets.is_empty:
        raise FxpruneError(f"{targets}: channels are steered to zero for that; give meet_after too")
    if meet_after is not None and targets.is_empty:
        raise FxpruneError("meet_after is for targets: give some in Targets too, or a strength instead")
    if meet_after is not None and strength is not None:
        raise FxpruneError("strength is of an L1 that is not steered: leave it out, or meet_after")


def _require_training(shrink: ProximalL1) -> None:
    """Raise FxpruneError if ``fit`` trained nothing; warn if it ended before further targets were met."""
    untouched = all(one.effective_scale == 1 for one in (*shrink.layers.values(), *shrink.channels.values()))
    if shrink.steps_done == 0 and untouched:
        raise FxpruneError(_NO_STEP)
    if not isinstance(shrink, SteeredL1):
        return
    further = replace(shrink.targets, macs=None)
    if (not further.is_empty or shrink.targets.is_empty) and not shrink.is_settled:
        missed = "not all of the plan is closed" if further.is_empty else f"the target may not be met ({further})"
        warnings.warn(
            f"{missed}: fit took {shrink.steps_done} steps of the {shrink.meet_after} "
            "that steering was given; give a smaller meet_after, or train for longer",
            FxpruneWarning,
            stacklevel=4,  # prune is wrapped
        )


def _fit(fit: Callable[..., Any], sparse: fx.GraphModule, shrink: ProximalL1) -> None:
    parameters = _parameters(fit)
    is_named = any(p.name == "shrink" and p.kind is not p.POSITIONAL_ONLY for p in parameters)
    needed = sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    if is_named or needed >= 2:
        warnings.warn(
            "fit(sparse, shrink) is deprecated: give fit(sparse), whose layers shrink after each step of its "
            "optimizer, or call shrink.step in a loop of your own on what fxprune.insert_scales returns",
            FxpruneDeprecationWarning,
            stacklevel=4,  # prune is wrapped
        )
        if is_named:
            fit(sparse, shrink=shrink)
        else:
            fit(sparse, shrink)
        return
    scales = {id(one.trained_scale) for one in (*shrink.layers.values(), *shrink.channels.values())}
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
