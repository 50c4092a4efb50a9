"""What a pruner of channels does to one model of the zoo, and whether it is right: shared by all peers.

A peer is a file with a :class:`Peer` and a ``run_and_judge``. Half of the channels go; the classifier stays. Was it
right? In a copy of the original, the weights that make the removed channels are set to zero; the pruned model must
compute the same as that copy. The row's status is

    refused          the peer says that it cannot, by an error of its own
    raises           it raised something else
    failed           it took more CPU time than it may (without building the model and judging), or crashed
    prunes nothing   no parameter is gone
    wrong            the pruned model does not run (the step is "run"); or it lost inputs that carry data of channels
                     that it kept; or those inputs are all zero and yet its output is not that of the masked original
    not comparable   it runs, but the test says nothing: channels are mixed by something else than weights (layer
                     norms, softmax, means over channels), or a zeroed channel does not arrive as zero
    ok               it computes what the masked original does

``outputs`` are the output channels of the convolutions and linear layers that a call of the model runs, depthwise
ones and the classifier too; ``free_outputs``, those that the peer says can go, each alone. Whether they can go
together, and whether what is left is right, is not asked: this counts in the peer's favour.
"""

from __future__ import annotations

import copy
import re
import signal
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, ClassVar, Protocol

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.zoo.models import accepts, build, kind, randomize, smallest_inputs
from benchmarks.zoo.row import Row
from fxprune.ir.pytrees import tensors_in
from fxprune.rewriting.verify import difference

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
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

    def __init__(self) -> None:
        self.outputs: dict[str, list[int]] = defaultdict(list)
        self.inputs: dict[str, list[int]] = defaultdict(list)
        self.unknown: set[str] = set()
        """Types of modules that lost weights of which nobody here knows which channel each is of."""


class Peer(Protocol):
    """A pruner and the model that it was made for."""

    package: ClassVar[str]
    """Its name on PyPI."""
    refusals: ClassVar[tuple[type[Exception], ...]]
    """What it raises on purpose."""
    seconds: ClassVar[float]
    """What it may take for a model, of CPU time."""

    def __init__(self, model: nn.Module, inputs: tuple[Any, ...], kept: Sequence[nn.Module]) -> None:
        """Analyse ``model``, whose layers ``kept`` are to stay."""

    def free_outputs(self) -> Mapping[str, int]:
        """Return how many output channels can go, by the path of the layer."""

    def prune(self) -> Removed:
        """Take half of the channels out of the model, in place."""


class _OutOfTimeError(BaseException):
    """No Exception, lest the peer catches it."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TimeoutError if what is inside takes more than ``seconds`` of CPU time."""

    def stop(*_: object) -> None:
        raise _OutOfTimeError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    except _OutOfTimeError:
        raise TimeoutError(f"time-out after {seconds:g} s") from None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def has_unknown_weights(module: nn.Module) -> bool:
    """Say whether a module has weights of which nobody knows here which channel each is of."""
    known = (*CONVS, *TRANSPOSED, nn.Linear, nn.modules.batchnorm._BatchNorm, nn.PReLU)
    return any(True for _ in module.parameters(recurse=False)) and not isinstance(module, known)


def width(module: Any, is_output: bool) -> int:
    """Return how many output or input channels a layer has."""
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
        index = (slice(None), channels) if isinstance(layer, TRANSPOSED) else (channels,)
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
        if isinstance(module, nn.Linear) or (isinstance(module, CONVS) and module.groups == 1):
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
    layers: list[nn.Module] = [m for m in model.modules() if isinstance(m, (nn.Linear, *CONVS))]
    last = [m for m in layers if isinstance(m, nn.Linear)][-1:]
    return [m for m in layers if width(m, True) in widths or m in last]


def widths(model: nn.Module, inputs: tuple[Any, ...]) -> dict[str, int]:
    """Return the number of outputs of each convolution and linear layer that a call runs, by path."""
    found: dict[str, int] = {}
    paths = {m: path for path, m in model.named_modules() if isinstance(m, (nn.Linear, *CONVS, *TRANSPOSED))}
    handles = [m.register_forward_hook(lambda m, *_: found.update({paths[m]: width(m, True)})) for m in paths]
    with torch.no_grad():
        model(*inputs)
    for handle in handles:
        handle.remove()
    return found


def judge_peer(make: type[Peer], spec: str, row: Row) -> None:
    """Prune the model by a peer and judge the result; an error that it raises is passed on, with the row's status."""
    row["version"] = version(make.package)
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
        outputs, kept = widths(model, inputs), classifiers(spec, model, inputs)
        row["outputs"] = sum(outputs.values())
    try:
        removed = _pruned(make, row, (model, inputs, kept), outputs)
    except TimeoutError:
        raise
    except Exception as error:
        row["status"] = "refused" if isinstance(error, make.refusals) else "raises"
        raise
    row["params_left"] = sum(p.numel() for p in model.parameters()) / before
    if row["params_left"] == 1:
        row["status"] = "prunes nothing"
        return
    _compare(row, (original, model), removed, inputs, tolerance)


def _pruned(make: type[Peer], row: Row, call: tuple[Any, ...], outputs: dict[str, int]) -> Removed:
    with limited(make.seconds):
        with row.step("analyse"):
            peer = make(*call)
            free = peer.free_outputs()
            row["free_outputs"] = sum(count for path, count in free.items() if path in outputs)
        with row.step("prune"):
            return peer.prune()


def _compare(
    row: Row, models: tuple[nn.Module, nn.Module], removed: Removed, inputs: tuple[Any, ...], tolerance: float
) -> None:
    """Compare the original, masked, with the pruned model."""
    original, pruned = models
    row["status"] = "wrong"
    with row.step("run"), torch.no_grad():
        outputs = list(tensors_in(pruned.eval()(*inputs)))
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
