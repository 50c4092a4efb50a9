"""Torch-Pruning, out of the box, on one model of the zoo: what worker.py runs with --peer torch-pruning.

Half of the channels go, the classifier stays. Was it right? In a copy of the original, the weights that make the
removed channels are set to zero; the pruned model must compute the same as that copy. The row's status is

    raises           building the dependency graph, or pruning, raised
    prunes nothing   no parameter is gone
    wrong            the pruned model does not run; or it lost inputs that carry data of channels that it kept; or
                     those inputs are all zero and yet its output is not that of the masked original
    not comparable   it runs, but the test says nothing: channels are mixed by something else than weights (layer
                     norms, softmax, means over channels), or a zeroed channel does not arrive as zero
    ok               it computes what the masked original does
"""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from typing import Any

import torch
import torch_pruning as tp
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.zoo.models import accepts, build, kind, randomize, smallest_inputs
from benchmarks.zoo.row import Row
from benchmarks.zoo.worker import CleanProcess
from fxprune.ir.pytrees import tensors_in
from fxprune.rewriting.verify import difference

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_MIXING = re.compile("layer_norm|group_norm|rms_norm|softmax|dot_product|vector_norm|var|std|cumsum|sort|topk|nms")
_REDUCTIONS = ("mean", "sum", "amax", "max", "logsumexp", "prod")


class MixingOps(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own __init_subclass__
    """Collects the ops of a run that mix channels without having a weight for each."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the op and run it."""
        name = func.overloadpacket.__name__
        if _MIXING.search(name):
            self.found.add(name)
        if "batch_norm" in name and any(value is True for value in args):  # with the statistics of its input
            self.found.add(name)
        if name in _REDUCTIONS and len(args) > 1:
            rank = args[0].dim()
            axes = {axis % rank for axis in (args[1] if isinstance(args[1], (list, tuple)) else [args[1]]) if rank}
            if 1 in axes or axes == {rank - 1}:
                self.found.add(f"{name} over channels")
        return func(*args, **(kwargs or {}))


class Removed:
    """Which channels went, in the numbering of the unpruned layers, by module path."""

    def __init__(self, model: nn.Module) -> None:
        self.paths = {module: path for path, module in model.named_modules()}
        self.outputs: dict[str, list[int]] = defaultdict(list)
        self.inputs: dict[str, list[int]] = defaultdict(list)
        self.unknown: set[str] = set()
        self._left: dict[tuple[str, bool], list[int]] = {}

    def note(self, pruner: Any, group: Any) -> None:
        """Read a group before it is pruned."""
        for dependency, indices in group:
            module = dependency.target.module
            plain = [int(getattr(index, "idx", index)) for index in indices]
            if isinstance(module, nn.Parameter) or (module in self.paths and _has_unknown_weights(module)):
                self.unknown.add(type(module).__name__)
            elif module in self.paths and any(True for _ in module.parameters()):
                is_output = pruner.DG.is_out_channel_pruning_fn(dependency.handler)
                table = self.outputs if is_output else self.inputs
                table[self.paths[module]] += self._original(self.paths[module], module, is_output, plain)

    def _original(self, path: str, module: Any, is_output: bool, indices: list[int]) -> list[int]:
        left = self._left.get((path, is_output), list(range(_channels(module, is_output))))
        gone = set(indices)
        self._left[path, is_output] = [channel for i, channel in enumerate(left) if i not in gone]
        return [left[i] for i in sorted(gone)]


def _has_unknown_weights(module: nn.Module) -> bool:
    known = (*_CONVS, *_TRANSPOSED, nn.Linear, nn.modules.batchnorm._BatchNorm, nn.PReLU)
    return any(True for _ in module.parameters(recurse=False)) and not isinstance(module, known)


def _channels(module: Any, is_output: bool) -> int:
    for name in ("out_channels", "out_features") if is_output else ("in_channels", "in_features"):
        if hasattr(module, name):
            return int(getattr(module, name))
    return int(module.weight.numel())


@torch.no_grad()
def mask(original: nn.Module, removed: Removed) -> nn.Module:
    """Return a copy of ``original`` whose removed channels are zero."""
    masked = copy.deepcopy(original)
    for path, channels in removed.outputs.items():
        layer: Any = masked.get_submodule(path)
        if isinstance(layer, nn.PReLU):
            continue
        index = (slice(None), channels) if isinstance(layer, _TRANSPOSED) else (channels,)
        for tensor, where in ((layer.weight, index), (layer.bias, (channels,))):
            if tensor is not None:
                tensor[where] = 0
    return masked


@torch.no_grad()
def arriving(masked: nn.Module, removed: Removed, inputs: tuple[Any, ...]) -> tuple[float, float]:
    """Return how large the values of removed inputs are, and how much they differ between the two samples."""
    largest = varying = 0.0

    def look(module: nn.Module, args: tuple[Any, ...]) -> None:
        nonlocal largest, varying
        x, channels = args[0], paths[module]
        index = torch.tensor(channels)
        values = x.index_select(-1 if isinstance(module, nn.Linear) else 1, index)
        if values.numel():
            largest = max(largest, float(values.abs().max()))
            if len(values) == 2:
                varying = max(varying, float((values[0] - values[1]).abs().max() / x.abs().max().clamp_min(1e-12)))

    paths: dict[nn.Module, list[int]] = {}
    for path, channels in removed.inputs.items():
        module = masked.get_submodule(path)
        if isinstance(module, nn.Linear) or (isinstance(module, _CONVS) and module.groups == 1):
            paths[module] = channels
    handles = [module.register_forward_pre_hook(look) for module in paths]
    masked(*inputs)
    for handle in handles:
        handle.remove()
    return largest, varying


def classifiers(spec: str, model: Any, inputs: tuple[Any, ...]) -> list[nn.Module]:
    """Return the layers to leave alone: those with as many outputs as the model, the last linear one, heads."""
    if kind(spec) == "detection":
        return [getattr(model, name) for name in ("roi_heads", "rpn", "head") if hasattr(model, name)]
    with torch.no_grad():
        widths = {t.shape[1] for t in tensors_in(model(*inputs)) if t.dim() > 1}
    layers: list[nn.Module] = [m for m in model.modules() if isinstance(m, (nn.Linear, *_CONVS))]
    last = [m for m in layers if isinstance(m, nn.Linear)][-1:]
    return [m for m in layers if _channels(m, True) in widths or m in last]


def run(spec: str, row: Row) -> None:
    """Prune the model and judge the result."""
    with row.step("build"):
        model = build(spec)
        _, inputs = smallest_inputs(spec, model)
        randomize(model, inputs)
        wide = _to_double(inputs)
        tolerance = 1e-6
        if accepts(copy.deepcopy(model).double(), wide):
            model, inputs = model.double(), wide
        else:
            tolerance = 1e-3
        original, before = copy.deepcopy(model), sum(p.numel() for p in model.parameters())
    removed = Removed(model)
    row["status"] = "raises"
    with row.step("prune"):
        pruner = tp.pruner.BasePruner(
            model,
            inputs,
            importance=tp.importance.GroupMagnitudeImportance(),
            pruning_ratio=0.5,
            ignored_layers=classifiers(spec, model, inputs),
        )
        for group in pruner.step(interactive=True):
            removed.note(pruner, group)
            group.prune()
    row["params_left"] = sum(p.numel() for p in model.parameters()) / before
    if row["params_left"] == 1:
        row["status"] = "prunes nothing"
        return
    row["status"] = "wrong"
    with row.step("run"), torch.no_grad():
        outputs = list(tensors_in(model.eval()(*inputs)))
    row["status"] = "not comparable"
    with row.step("compare"), torch.no_grad():
        masked = mask(original, removed)
        with MixingOps() as mixing:
            expected = list(tensors_in(masked(*inputs)))
        mixers = mixing.found | removed.unknown | {"Conv1d" for m in masked.modules() if isinstance(m, nn.Conv1d)}
        if mixers:
            row["error"] = f"channels are mixed by {', '.join(sorted(mixers))}"
            return
        largest, varying = arriving(masked, removed, inputs)
        _, row["difference"] = difference(expected, outputs)
        if varying > tolerance:
            row |= {"status": "wrong", "error": "inputs were removed that carry data of channels that were kept"}
        elif largest > 0:
            row["error"] = "channels that are zeroed do not arrive as zero"
        elif row["difference"] > tolerance:
            row |= {"status": "wrong", "error": f"the output is off by {row['difference']:.2g} (relative)"}
        else:
            row["status"] = "ok"


def _to_double(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple([t.double() for t in x] if isinstance(x, list) else x.double() for x in inputs)


def run_and_judge(spec: str, row: Row, clean: CleanProcess) -> None:
    """Run the steps; Torch-Pruning needs no other process."""
    run(spec, row)
