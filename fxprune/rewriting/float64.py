"""A graph run in float64, whatever its dtype: what is compared is the algebra of passes, and not their rounding.

Over 300 lines: what runs, and all that keeps the model's own code from lowering a dtype or leaving a trace meanwhile,
which is one argument.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import BuiltinFunctionType, MethodDescriptorType
from typing import Any

import torch
from torch import fx, nn
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fxprune.errors import FxpruneError, first_line
from fxprune.facts.effects import rescales
from fxprune.facts.kept_state import keeping_state
from fxprune.facts.updated_buffers import storage_of, updated_storages, updated_tensor
from fxprune.ir.applied import Applied
from fxprune.ir.autocast import ENTER_AUTOCAST, EXIT_AUTOCAST
from fxprune.ir.by_mode import has_modes
from fxprune.ir.interpreter import Interpreter
from fxprune.ir.module_tree import evaluating, every_module, is_opaque
from fxprune.ir.nodes import called_module, example_inputs_of, graphs_of, origins
from fxprune.ir.pytrees import PLAIN, copy_tensors, map_tensors, tensors_in
from fxprune.ops.operators import is_torchs_own
from fxprune.rewriting.twins import REMEMBERING, Twins, is_plain
from fxprune.weights.exact import exact, in_float64, unrounded, widen

_SAMPLES = 1 << 14
# In the names of functions that draw; torch gives fractional pooling the name "fn".
_RANDOM = (
    *("rand", "normal", "bernoulli", "multinomial", "dropout", "stochastic_depth", "rrelu", "gumbel", "poisson"),
    *("uniform", "exponential", "cauchy", "geometric", "fractional", "fn"),
)
_DRAWING = (nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)  # in eval mode too
_CASTS = (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16)
_OURS = f"{Path(__file__).parents[1]}{os.sep}"  # our layers say what they mean: a gauge is a number of float32
_KEPT = (torch.Tensor.view, ENTER_AUTOCAST, EXIT_AUTOCAST)  # view(dtype) reads memory as another dtype
_UNTYPED = PLAIN | {torch.Tensor, nn.Parameter}
_CASTLESS = frozenset((functional.relu, functional.relu6, functional.silu, functional.gelu, functional.hardswish))
_MODES = (ENTER_AUTOCAST, EXIT_AUTOCAST, torch._C._set_grad_enabled)
_LEAD = 8  # nodes: to change over after each, from one graph to the other, takes longer
_NONE: frozenset[int] = frozenset()
_Outputs = list[torch.Tensor]


def run_float64(graph_module: fx.GraphModule, inputs: Sequence[Any]) -> _Outputs:
    """Return the output tensors of ``graph_module`` in eval mode in float64.

    Those of every region in an opaque module, on the region's own example inputs, come after them.
    """
    outputs = _run(graph_module, inputs).outputs()
    for path, region in graphs_of(graph_module):
        if path:
            outputs += _run(region, example_inputs_of(region)).outputs()
    return outputs


@dataclass(frozen=True)
class BothOutputs:
    """What :func:`run_float64` returns of each of two graphs.

    ``dtypes`` are those of the tensors that their layers hold; None if they call or read anything but plain layers.
    """

    before: _Outputs
    after: _Outputs
    dtypes: Collection[torch.dtype] | None = None


def run_both(before: fx.GraphModule, after: fx.GraphModule, inputs: Sequence[Any]) -> BothOutputs:
    """Run two graphs that share layers, in less time than :func:`run_float64` takes for each.

    They run side by side: ``before`` goes ahead to the layer that ``after`` calls next, which is told what that
    layer has just returned, if it asks for the same.
    """
    first = _Float64(before)
    second = _Float64(after, first.plain)
    if first.must_run_alone or second.must_run_alone:
        return BothOutputs(run_float64(before, inputs), run_float64(after, inputs))
    shared = set().union(*first.calls.values()) & set().union(*second.calls.values())
    with _evaluated(first, second):
        first.twins = second.twins = twins = Twins(shared)
        first.begin(*_wide_copies(inputs))
        second.begin(*_wide_copies(inputs))
        ahead, passed = iter(list(before.graph.nodes)), set[int]()
        for node in after.graph.nodes:
            wanted = second.calls.get(node, _NONE) & shared
            while not wanted <= passed:
                for one in islice(ahead, _LEAD):
                    first.step(one)
                    passed |= first.calls.get(one, _NONE)
            twins.is_first = False
            second.step(node)
            twins.is_first = True
        for one in ahead:
            first.step(one)
    are_plain = first.is_plain and second.is_plain
    return BothOutputs(first.outputs(), second.outputs(), twins.dtypes if are_plain else None)


def digests_of(graph_module: fx.GraphModule, inputs: Sequence[Any]) -> dict[fx.Node, _Outputs]:
    """Return, by node, small tensors that tell its value in float64 from another."""
    return _run(graph_module, inputs, digests={}).digests or {}


def _run(
    graph_module: fx.GraphModule, inputs: Sequence[Any], digests: dict[fx.Node, _Outputs] | None = None
) -> _Float64:
    interpreter = _Float64(graph_module)
    interpreter.digests = digests
    with _evaluated(interpreter):
        interpreter.twins = Twins()
        interpreter.run(*_wide_copies(inputs))
        return interpreter


@contextmanager
def _evaluated(*interpreters: _Float64) -> Iterator[None]:
    """Run graphs in eval mode inside, with weights as they were before they were rounded, and leave no trace."""
    with ExitStack() as stack:
        stack.enter_context(unrounded())
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        torch.manual_seed(0)
        for graph_module in (one.graph_module for one in interpreters if not one.is_plain):
            stack.enter_context(keeping_state(graph_module, in_float64))
            stack.enter_context(evaluating(graph_module))
        try:
            yield
        except RuntimeError as error:
            raise FxpruneError(
                f"{type(interpreters[-1].graph_module).__name__} cannot be run in float64, in which passes are "
                f"verified: {first_line(error)}; Pipeline(passes, verify=False) leaves that out"
            ) from error


def _wide_copies(inputs: Sequence[Any]) -> tuple[Any, ...]:
    copies: tuple[Any, ...] = map_tensors(copy_tensors(tuple(inputs)), widen)
    return copies


class _Float64(Interpreter):
    """Runs a graph in float64 whatever its dtype, converting one module at a time; may keep digests of all values.

    Attributes:
        calls: the layers (ids) that each call of a module runs and whose answers may be remembered.
        plain: all layers (ids) that are known to hold tensors as parameters and buffers alone.
        is_plain: whether it calls and reads nothing but such, which a run leaves as they are.
        must_run_alone: whether it changes modes of the process on the way, or has regions.
    """

    def __init__(self, graph_module: fx.GraphModule, plain: Collection[int] = ()) -> None:
        super().__init__(graph_module)
        self.plain = set(plain)
        self.graph_module = graph_module
        self.twins: Twins
        self.digests: dict[fx.Node, _Outputs] | None = None
        self.calls: dict[fx.Node, set[int]] = {}
        self.is_plain = not has_modes(self.graph) and not self.graph.find_nodes(op="get_attr", sort=False)
        sets = (self.graph.find_nodes(op="call_function", target=one, sort=False) for one in _MODES)
        self.must_run_alone = any(sets)
        self._layers: dict[fx.Node, nn.Module] = {}
        self._updated: Collection[int] = ()
        self._memory: dict[tuple[int, torch.dtype], torch.Tensor] = {}
        for node in self.graph.find_nodes(op="call_module", sort=False):
            self._look_into(node, self.submodule(node.target))

    def _look_into(self, node: fx.Node, module: nn.Module) -> None:
        parts = every_module(module) if module._modules else (module,)
        self.calls[node] = {id(one) for one in parts if type(one) in REMEMBERING}
        self._layers[node] = module
        new = [one for one in parts if id(one) not in self.plain]
        acts = isinstance(module, (Applied, *_DRAWING)) or rescales(module)
        self.is_plain = self.is_plain and not acts and all(map(is_plain, new))
        self.plain.update(map(id, new) if self.is_plain else ())
        self.must_run_alone = self.must_run_alone or is_opaque(module)

    def begin(self, *args: Any) -> None:
        """Take ``args``, and the modules as they are now."""
        super().begin(*args)
        if not self.is_plain:  # others stand in for modules
            self._layers, self._updated = {}, updated_storages(self.graph_module)

    def run_node(self, n: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n in self._layers:
            value = self.twins.of_plain(self._layers[n])(*args, **kwargs)
        else:
            if _may_draw(n):  # the same numbers in both graphs, however many others one of them draws before
                torch.manual_seed(zlib.crc32(origins(n)[-1].encode()))
            value = getattr(self, n.op)(n.target, args, kwargs)
        if type(value) is not torch.Tensor or value.dtype is not torch.float64:
            value = map_tensors(value, widen)
        if self.digests is not None:
            self.digests[n] = [part for tensor in tensors_in(value) for part in _digest(tensor)]
        return value

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.submodule(target)
        if not is_opaque(module) and updated_tensor(module, self._updated) is not None:
            named = (*module.named_parameters(), *module.named_buffers())
            return functional_call(module, {name: self._wide(value) for name, value in named}, args, kwargs)
        wide = self.twins.of(module)
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
        if _cannot_cast(target, args, kwargs):
            return target(*args, **kwargs)
        with _CastsToFloat64():
            return target(*args, **kwargs)

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        method = getattr(torch.Tensor, target, None) if type(args[0]) is torch.Tensor else None
        if method not in _CASTS and _cannot_cast(method, args, kwargs):
            return method(*args, **kwargs)  # type: ignore[misc]
        with _CastsToFloat64():
            return super().call_method(target, args, kwargs)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = self.fetch_attr(str(target))
        if not isinstance(value, torch.Tensor):
            return value
        wide = self._wide(value)
        return wide if storage_of(value) in self._updated else wide.clone()  # what is not seen to be updated may be

    def outputs(self) -> _Outputs:
        """Return every tensor that the graph returned, and every number as one."""
        return tensors_in(_numbers_as_tensors(self.returned))


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


def _cannot_cast(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Say whether :class:`_CastsToFloat64` would only widen what ``function`` returns, which is done anyway.

    So it is where one call of torch's is all that Python sees of it, and no dtype is among the arguments.
    """
    at_once = type(function) in (BuiltinFunctionType, MethodDescriptorType) or function in _CASTLESS
    return at_once and _UNTYPED.issuperset(map(type, args)) and _UNTYPED.issuperset(map(type, kwargs.values()))


def _may_draw(node: fx.Node) -> bool:
    """Say whether ``node`` may draw random numbers, in eval mode too."""
    if node.op != "call_module":
        return _call_may_draw(node.op, node.target)
    module = called_module(node)
    return is_opaque(module) or isinstance(module, _DRAWING)


@lru_cache(maxsize=512)
def _call_may_draw(op: str, target: Any) -> bool:
    if op == "call_function" and not is_torchs_own(target):
        return True
    name = str(target) if op == "call_method" else str(getattr(target, "__name__", ""))
    return any(part in name for part in _RANDOM)


def _digest(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Return small tensors that differ wherever ``tensor`` does, but for accidents: samples, means and the shape."""
    flat = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    flat = flat.detach().reshape(-1).double()
    if flat.numel() <= 2 * _SAMPLES:
        return [tensor.detach().clone()]
    means = torch.stack([flat.mean(), flat.abs().mean()])
    return [flat[:: len(flat) // _SAMPLES].clone(), means, torch.tensor(tensor.shape)]


def _numbers_as_tensors(value: Any) -> Any:
    """Return a nest of outputs in which numbers, sizes say, are compared as tensors are."""
    if isinstance(value, (int, float)):
        return torch.tensor(value, dtype=torch.float64)
    if isinstance(value, (list, tuple)):
        return [_numbers_as_tensors(part) for part in value]
    if isinstance(value, dict):
        return {key: _numbers_as_tensors(part) for key, part in value.items()}
    return value
