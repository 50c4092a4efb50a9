"""Are two graphs the same function? Both run in float64 on the same inputs, and every output is compared."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import fx, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from fxprune.errors import FxpruneError, first_line
from fxprune.facts.effects import is_foreign
from fxprune.facts.kept_state import keeping_state
from fxprune.facts.updated_buffers import storage_of, updated_storages, updated_tensor
from fxprune.gates.gate import ScaledLayer
from fxprune.ir.arguments import require_arguments
from fxprune.ir.autocast import ENTER_AUTOCAST, EXIT_AUTOCAST
from fxprune.ir.interpreter import Interpreter
from fxprune.ir.module_tree import evaluating, every_module, has_hooks, is_opaque
from fxprune.ir.nodes import called_module, example_inputs_of, graphs_of, origins, place, require_graph
from fxprune.ir.pytrees import copy_tensors, map_tensors, tensors_in
from fxprune.weights.exact import exact, in_float64, unrounded, widen

TOLERANCE = 1e-9
_SAMPLES = 1 << 14
# In the names of functions that draw; torch gives fractional pooling the name "fn".
_RANDOM = (
    *("rand", "normal", "bernoulli", "multinomial", "dropout", "stochastic_depth", "rrelu", "gumbel", "poisson"),
    *("uniform", "exponential", "cauchy", "geometric", "fractional", "fn"),
)


_CASTS = (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16)
_OURS = f"{Path(__file__).parents[1]}{os.sep}"  # our layers say what they mean: a gauge is a number of float32
_LAYERS = ("torch.nn.modules.", "fxprune.")
_TABLES = frozenset(vars(nn.Module()))
_Layer = TypeVar("_Layer", bound=nn.Module)
_KEPT = (torch.Tensor.view, ENTER_AUTOCAST, EXIT_AUTOCAST)  # view(dtype) reads memory as another dtype


@dataclass(frozen=True)
class Verification:
    """The largest differences over all outputs, and the first node at which the graphs part (None: nowhere).

    ``max_relative`` is, per output tensor, max |a - b| over max(|a|, |b|).
    """

    max_absolute: float
    max_relative: float
    first_difference: str | None = None
    tolerance: float = TOLERANCE

    @property
    def equal(self) -> bool:
        """Whether the outputs agree within the tolerance."""
        return self.max_relative <= self.tolerance

    def __str__(self) -> str:
        verdict = "equal" if self.equal else f"different, first at {self.first_difference or 'the output'}"
        return f"{verdict}: max absolute {self.max_absolute:.3g}, max relative {self.max_relative:.3g} (float64)"


class _Float64(Interpreter):
    """Runs a graph in float64 whatever its dtype, converting one module at a time; may keep digests of all values."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.digests: dict[fx.Node, list[torch.Tensor]] | None = None
        self._updated = updated_storages(graph_module)
        self._memory: dict[tuple[int, torch.dtype], torch.Tensor] = {}

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.fetch_attr(str(target))
        if not is_opaque(module) and updated_tensor(module, self._updated) is not None:
            named = (*module.named_parameters(), *module.named_buffers())
            return functional_call(module, {name: self._wide(value) for name, value in named}, args, kwargs)
        wide = _as_float64(module)
        with _CastsToFloat64() if is_opaque(module) else nullcontext():
            return wide(*args, **kwargs)

    def _wide(self, value: torch.Tensor) -> torch.Tensor:
        """Return ``value`` in float64; of what the graph updates, a view of one copy that all its names share."""
        if storage_of(value) not in self._updated:
            return exact(value) if value.is_floating_point() else value
        key = storage_of(value), value.dtype
        if key not in self._memory:
            whole = torch.empty(0, dtype=value.dtype, device=value.device).set_(value.untyped_storage())
            self._memory[key] = widen(whole).clone()
        return self._memory[key].as_strided(value.shape, value.stride(), value.storage_offset())

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is torch._assert:
            return None  # what a graph asserts holds for its own dtype
        with _CastsToFloat64():
            return super().call_function(target, args, kwargs)

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        with _CastsToFloat64():
            return super().call_method(target, args, kwargs)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = self.fetch_attr(str(target))
        if not isinstance(value, torch.Tensor):
            return value
        wide = self._wide(value)
        return wide if storage_of(value) in self._updated else wide.clone()  # what is not seen to be updated may be

    def run_node(self, n: fx.Node) -> Any:
        if _may_draw(n):  # the same numbers in both graphs, however many others one of them draws before
            torch.manual_seed(zlib.crc32(origins(n)[-1].encode()))
        value = map_tensors(super().run_node(n), widen)
        if self.digests is not None:
            self.digests[n] = [part for tensor in tensors_in(value) for part in _digest(tensor)]
        return value


class _CastsToFloat64(TorchFunctionMode):
    """Lets no cast of the model's own lower what is computed in float64, and no tensor that it makes either."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _KEPT or sys._getframe(1).f_code.co_filename.startswith(_OURS):
            return func(*args, **(kwargs or {}))
        if func in _CASTS and len(args) == 1 and not kwargs:
            return args[0].double()
        args = tuple([_wide_dtype(value) for value in args])
        kwargs = {name: _wide_dtype(value) for name, value in (kwargs or {}).items()}
        value = func(*args, **kwargs)
        return widen(value) if isinstance(value, torch.Tensor) else value


def _wide_dtype(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value.is_floating_point else value


def _may_draw(node: fx.Node) -> bool:
    """Say whether ``node`` may draw random numbers, in eval mode too."""
    if node.op == "call_module":
        module = called_module(node)
        return is_opaque(module) or isinstance(module, (nn.FractionalMaxPool2d, nn.FractionalMaxPool3d))
    if is_foreign(node):
        return True
    name = str(node.target) if node.op == "call_method" else str(getattr(node.target, "__name__", ""))
    return any(part in name for part in _RANDOM)


def _as_float64(module: nn.Module) -> Callable[..., Any]:
    """Return what calls ``module`` with the exact values of its tensors, and changes none of it."""
    if all(_is_plain(one) for one in (every_module(module) if module._modules else (module,))):
        return _widened(module, {})
    tensors = [*module.parameters(), *module.buffers()]
    if all(t.dtype == torch.float64 or not t.is_floating_point() for t in tensors):
        return module
    if any(isinstance(value, torch.Tensor) for inner in module.modules() for value in vars(inner).values()):
        return in_float64(module)
    wide = {name: exact(t) if t.is_floating_point() else t for name, t in module.named_parameters()}
    wide |= {name: exact(t).clone() if t.is_floating_point() else t.clone() for name, t in module.named_buffers()}
    return lambda *args, **kwargs: functional_call(module, wide, args, kwargs)


def _is_plain(module: nn.Module) -> bool:
    """Say whether ``module`` is a layer of torch's or ours that holds tensors as parameters and buffers alone."""
    if not type(module).__module__.startswith(_LAYERS) or has_hooks(module) or "forward" in vars(module):
        return False
    values = (value for name, value in vars(module).items() if name not in _TABLES)
    return not any(isinstance(one, (torch.Tensor, list, dict)) and tensors_in(one) for one in values)


def _widened(module: _Layer, memo: dict[int, nn.Module]) -> _Layer:
    """Return ``module`` with the exact values of its tensors, and all else as it is.

    That is several times as fast as ``functional_call``.
    """
    kind = type(module)
    wide = memo[id(module)] = kind.__new__(kind)
    state = vars(wide)
    state.update(vars(module), _compiled_call_impl=None)  # which is of ``module``, and its dtype
    for table in ("_parameters", "_buffers"):
        state[table] = {
            name: exact(tensor) if tensor is not None and tensor.is_floating_point() else tensor
            for name, tensor in state[table].items()
        }
    if module._modules and not (isinstance(module, ScaledLayer) and module.closed):  # it computes nothing with them
        state["_modules"] = {
            name: None if child is None else memo.get(id(child)) or _widened(child, memo)
            for name, child in module._modules.items()
        }
        for name, value in state.items():
            if type(value) is tuple and any(id(one) in memo for one in value):
                state[name] = tuple(memo.get(id(one), one) for one in value)
    if isinstance(wide, ScaledLayer) and isinstance(module, ScaledLayer):
        wide.follow_as(module)
    return wide


def _digest(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Return small tensors that differ wherever ``tensor`` does, but for accidents: samples, means and the shape."""
    flat = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    flat = flat.detach().reshape(-1).double()
    if flat.numel() <= 2 * _SAMPLES:
        return [tensor.detach().clone()]
    means = torch.stack([flat.mean(), flat.abs().mean()])
    return [flat[:: len(flat) // _SAMPLES].clone(), means, torch.tensor(tensor.shape)]


def run_float64(graph_module: fx.GraphModule, inputs: Sequence[Any]) -> list[torch.Tensor]:
    """Return the output tensors of ``graph_module`` in eval mode in float64.

    Those of every region in an opaque module, on the region's own example inputs, come after them.
    """
    outputs, _ = _run(graph_module, inputs)
    for path, region in graphs_of(graph_module):
        if path:
            outputs += _run(region, example_inputs_of(region))[0]
    return outputs


def _run(
    graph_module: fx.GraphModule, inputs: Sequence[Any], *, digests: bool = False
) -> tuple[list[torch.Tensor], _Float64]:
    interpreter = _Float64(graph_module)
    interpreter.digests = {} if digests else None
    copies = map_tensors(copy_tensors(tuple(inputs)), widen)
    with (
        unrounded(),
        keeping_state(graph_module, in_float64),
        evaluating(graph_module),
        torch.random.fork_rng(devices=[]),
    ):
        torch.manual_seed(0)
        try:
            value = interpreter.run(*copies)
        except RuntimeError as error:
            raise FxpruneError(
                f"{type(graph_module).__name__} cannot be run in float64, in which passes are verified: "
                f"{first_line(error)}; Pipeline(passes, verify=False) leaves that out"
            ) from error
        return tensors_in(_numbers_as_tensors(value)), interpreter


def _numbers_as_tensors(value: Any) -> Any:
    """Return a nest of outputs in which numbers, sizes say, are compared as tensors are."""
    if isinstance(value, (int, float)):
        return torch.tensor(value, dtype=torch.float64)
    if isinstance(value, (list, tuple)):
        return [_numbers_as_tensors(part) for part in value]
    if isinstance(value, dict):
        return {key: _numbers_as_tensors(part) for key, part in value.items()}
    return value


def difference(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> tuple[float, float]:
    """Return the largest absolute and relative difference; infinite if numbers or shapes of tensors differ.

    NaN equals NaN, and an infinity itself, in the same place only.
    """
    if len(before) != len(after):
        return float("inf"), float("inf")
    absolute = relative = 0.0
    for a, b in zip(before, after, strict=True):
        if a.shape != b.shape:
            return float("inf"), float("inf")
        if a.numel() == 0 or torch.equal(a, b):
            continue
        if a.is_complex() or b.is_complex():
            a, b = (torch.view_as_real(one.to(torch.complex128)) for one in (a, b))
        a, b = a.double(), b.double()
        same = (a == b) | (a.isnan() & b.isnan())
        gaps = (a - b).abs().nan_to_num(nan=float("inf"), posinf=float("inf")).masked_fill(same, 0.0)
        sizes = torch.stack([a, b]).abs().nan_to_num(nan=0.0, posinf=0.0)
        gap, size = float(gaps.max()), float(sizes.max())
        absolute = max(absolute, gap)
        relative = max(relative, gap / size if size else gap)
    return absolute, relative


def verify(
    a: fx.GraphModule, b: fx.GraphModule, example_inputs: Any, *, tolerance: float = TOLERANCE
) -> Verification:
    """Compare two graphs on ``example_inputs`` (one input or the tuple of inputs) in eval mode, in float64.

    Neither graph is changed. Where they differ, ``first_difference`` names the first node of ``b`` whose
    value is not that of the node of ``a`` with the same origin.
    """
    require_arguments(verify, locals())
    a, b = require_graph(a, "verify"), require_graph(b, "verify")
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    absolute, relative = difference(run_float64(a, inputs), run_float64(b, inputs))
    where = None if relative <= tolerance else first_difference(a, b, inputs, tolerance)
    return Verification(absolute, relative, where, tolerance)


def first_difference(a: fx.GraphModule, b: fx.GraphModule, inputs: Sequence[Any], tolerance: float) -> str | None:
    """Name the first node of ``b`` whose value differs from that of its origin in ``a``; regions come first."""
    graphs, others = graphs_of(a), graphs_of(b)
    if [path for path, _ in graphs] == [path for path, _ in others]:
        for (path, before), (_, after) in zip(graphs[1:], others[1:], strict=True):
            where = _first_difference(before, after, example_inputs_of(before), tolerance)
            if where is not None:
                return f"{where}, in {path}"
    where = _first_difference(a, b, inputs, tolerance)
    last = next((n for n in reversed(b.graph.nodes) if n.op != "output"), None)
    return where or (None if last is None else f"{place(last)}, before the output")


def _first_difference(a: fx.GraphModule, b: fx.GraphModule, inputs: Sequence[Any], tolerance: float) -> str | None:
    before, after = (_run(graph, inputs, digests=True)[1].digests or {} for graph in (a, b))
    twins = {name: node for node in a.graph.nodes for name in origins(node)}
    for node in b.graph.nodes:
        twin = twins.get(origins(node)[-1])
        if twin is None or node.op in ("get_attr", "output"):
            continue
        _, relative = difference(before.get(twin, []), after.get(node, []))
        if relative > tolerance:
            kind = type(called_module(node)).__name__ if node.op == "call_module" else str(node.target)
            return f"{place(node)}, {kind}"
    return None
