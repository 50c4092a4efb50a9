"""Is the traced graph the model? Both are called on the example inputs and compared."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import fx, nn

from fxprune.errors import FxpruneError, TraceError, first_line
from fxprune.facts.kept_state import keeping_state
from fxprune.ir.copies import copy_module
from fxprune.ir.module_tree import evaluating, every_module, every_path
from fxprune.ir.pytrees import copy_tensors, map_tensors, structure, tensors_in
from fxprune.rewriting.verify import difference
from fxprune.tracing.inputs import Call
from fxprune.tracing.source import line_of_error

_LOG = logging.getLogger(__name__)
TOLERANCE = 1e-3
"""How far a graph in the model's own precision may be from the model, relative to its largest output."""


@dataclass(frozen=True)
class Expected:
    """What the model returns for the example, or for the example ``mirrored``."""

    mirrored: bool
    outputs: list[torch.Tensor]


class ModelFails(Exception):
    """The model itself fails on the example; ``error`` is what it raised."""

    def __init__(self, error: Exception) -> None:
        super().__init__(first_line(error))
        self.error = error


@contextmanager
def blaming_the_model() -> Iterator[None]:
    """Raise ModelFails for what is raised inside."""
    try:
        yield
    except Exception as error:
        raise ModelFails(error) from error


class Reference:
    """What a model returns for its example, and in a second call; it is called when there is a graph to compare.

    The second call shows state that tracing lost, and, on the example's mirror image, values of the first call that
    tracing would find again and take for constants. A model that does not take it gets the example again.

    Args:
        model: a copy of it is called.
        call: the example.
        seen: a copy that was called on the example in the run of a whole, and what it returned, if there is one.
    """

    def __init__(self, model: nn.Module, call: Call, seen: tuple[nn.Module, Any] | None = None) -> None:
        self.call, self._model, self._seen = call, model, seen

    def accounts(self) -> Iterator[tuple[Expected, Expected]]:
        """Yield what the two calls return: in a whole, which may switch autocast or draw, then alone.

        Raises ModelFails.
        """
        if self._seen is not None:
            yield self._in_a_whole
        yield self._alone

    @cached_property
    def _in_a_whole(self) -> tuple[Expected, Expected]:
        assert self._seen is not None
        with blaming_the_model():
            return self._both(*self._seen)

    @cached_property
    def _alone(self) -> tuple[Expected, Expected]:
        _LOG.info("running %s on the example inputs", type(self._model).__name__)
        with blaming_the_model():  # also for hooks, say, that hold what cannot be copied
            model = copy_module(self._model)
            return self._both(model, _outputs(model, self.call, keeping=False))

    def _both(self, called: nn.Module, returned: Any) -> tuple[Expected, Expected]:
        first = Expected(False, tensors_in(returned))
        try:
            return first, Expected(True, _outputs(called, _mirrored(self.call), keeping=False))
        except Exception:
            return first, Expected(False, _outputs(called, self.call, keeping=False))


def inputs_do_not_fit(model: nn.Module, error: Exception) -> TraceError:
    """Return the error that says that ``model`` itself fails on the example inputs."""
    return TraceError(
        f"the example inputs do not fit the model: {type(model).__name__} fails on them: "
        f"{line_of_error(error)}: {first_line(error)}; pass inputs of the shape and dtype that it takes"
    )


def _mirrored(call: Call) -> Call:
    """Return ``call`` with its tensors of floating-point numbers in reverse order along their last axis."""

    def mirror(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.flip(-1) if tensor.is_floating_point() and tensor.dim() else tensor

    return Call(tuple(replace(one, value=map_tensors(one.value, mirror)) for one in call.arguments))


def run_model(model: nn.Module, call: Call) -> Any:
    """Call ``model`` as :class:`Reference` does, and leave it as it was."""
    if isinstance(model, fx.GraphModule):
        with keeping_state(model):
            return run_once(model, call)
    return run_once(copy_module(model), call)


def run_once(model: nn.Module, call: Call, *, training: bool = False, keeping: bool = True) -> Any:
    """Call ``model`` in eval mode, or as it is, without gradients, with a fixed random state; it may change in it.

    Tensors that it keeps in attributes are those from before again in eval mode, if ``keeping``.
    """
    args, kwargs = call.arrange(copy_tensors(call.values))
    with torch.no_grad() if training else evaluating(model, keeping=keeping), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model(*args, **kwargs)


def _outputs(model: nn.Module, call: Call, *, keeping: bool = True) -> list[torch.Tensor]:
    return copy_tensors(tensors_in(run_once(model, call, keeping=keeping)))  # type: ignore[no-any-return]


def require_same_function(
    model: nn.Module, graph_module: fx.GraphModule, graph_call: Call, expected: Reference
) -> None:
    """Raise TraceError if ``graph_module`` returns something else than ``expected``."""
    if not any(_returns(graph_module, graph_call, both) for both in expected.accounts()):
        raise TraceError(
            f"{type(model).__name__} computes something else than its traced graph: it asks what type its "
            "values have, or keeps state that torch.fx cannot see"
        )


def _returns(graph_module: fx.GraphModule, graph_call: Call, both: tuple[Expected, Expected]) -> bool:
    with keeping_state(graph_module):
        for wanted in both:
            try:
                found = _outputs(graph_module, _mirrored(graph_call) if wanted.mirrored else graph_call)
            except Exception:
                if wanted.mirrored:
                    continue  # what the graph takes for granted of the example does not hold for its mirror image
                raise
            same_types = [(t.shape, t.dtype) for t in wanted.outputs] == [(t.shape, t.dtype) for t in found]
            if not same_types or difference(wanted.outputs, found)[1] > TOLERANCE:
                return False
    return True


def require_same_in_train_mode(model: nn.Module, call: Call, graph_module: fx.GraphModule, graph_call: Call) -> None:
    """Raise TraceError if ``graph_module`` returns something else in train mode than ``model``, which is in it.

    Nothing is compared where ``model``, which may change, fails on the example: a norm wants more than one value.
    """
    flags = {path: module.training for path, module in every_path(model).items()}
    try:
        wanted = [run_once(model, call, training=True) for _ in range(2)]  # the second shows what the first has kept
    except Exception:
        return
    with suppress(Exception):  # which takes other inputs
        wanted.append(run_once(model, call, keeping=False))
    graph_copy = copy_module(graph_module)
    for path, module in every_path(graph_copy).items():
        module.training = flags.get(path, True)
    found = [run_once(graph_copy, graph_call, training=True) for _ in range(2)]
    if len(wanted) > len(found):
        found.append(run_once(graph_copy, graph_call))
    for theirs, ours in zip(wanted, found, strict=True):
        if structure(theirs) != structure(ours) or difference(tensors_in(theirs), tensors_in(ours))[1] > TOLERANCE:
            raise TraceError(
                f"{type(model).__name__} computes something else in train mode than its traced graph does"
            )


def require_finite(model: nn.Module) -> None:
    """Raise FxpruneError, naming the tensor, if a weight or a running statistic of ``model`` is NaN or Inf."""
    groups: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
    for module in every_module(model):
        statistics = (b for name, b in module._buffers.items() if name.startswith("running_"))
        for tensor in (*module._parameters.values(), *statistics):
            if isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer)):
                why = "has no shape yet (a lazy module): call the model once before it is traced"
                raise FxpruneError(f"{_name_of(tensor, model)} {why}")
            if tensor is not None and tensor.is_meta:
                why = "is on the meta device and has no value: load weights before the model is traced"
                raise FxpruneError(f"{_name_of(tensor, model)} {why}")
            if tensor is not None and tensor.is_floating_point():
                groups.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for tensors in groups.values():
        with torch.no_grad():
            norms = torch.stack(torch._foreach_norm(tensors))
        for index in (~torch.isfinite(norms)).nonzero().flatten().tolist():
            if not bool(torch.isfinite(tensors[index]).all()):  # the norm of finite numbers may overflow
                name = _name_of(tensors[index], model)
                raise FxpruneError(f"{name} holds NaN or Inf; load weights from before the training diverged")


def _name_of(tensor: torch.Tensor, model: nn.Module) -> str:
    named = (*model.named_parameters(), *model.named_buffers())
    return next(name for name, other in named if other is tensor)
