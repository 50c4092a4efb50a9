"""Under which conditions a network is timed: what runs it, on what, how many inputs at a time."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch

from fxprune.errors import FxpruneError, FxpruneValueError, did_you_mean

Backend = Literal["eager", "compile", "onnxruntime"]
Layout = Literal["contiguous", "channels_last"]
_OF_ONNX = ("float32", "float16", "float64")


@dataclass(frozen=True)
class Conditions:
    """What times depend on, beside the network.

    Args:
        backend: "eager", "compile" (torch.compile), "onnxruntime", or the name of a user's timer.
        device: "cpu", or one of torch's others, "cuda" say.
        batch: how many inputs at a time.
        threads: of the CPU; the others wait.
        dtype: of weights, and of inputs that are no whole numbers, by torch's name for it: "float32".
        layout: of images and of the weights of convs, in memory; the runtime of "onnxruntime" has its own.

    Raises:
        FxpruneValueError: an unknown layout, a dtype that is none of floating point, less than one input or thread.
    """

    backend: str = "eager"
    device: str = "cpu"
    batch: int = 1
    threads: int = 1
    dtype: str = "float32"
    layout: Layout = "contiguous"

    def __post_init__(self) -> None:
        for name in ("batch", "threads"):
            if getattr(self, name) < 1:
                raise FxpruneValueError(f"{name} is at least 1; got {getattr(self, name)}")
        if self.layout not in get_args(Layout):
            raise FxpruneValueError(f"layout is contiguous or channels_last; got {self.layout!r}")
        dtype = getattr(torch, self.dtype, None)
        if not isinstance(dtype, torch.dtype):
            raise FxpruneValueError(f"dtype is one of torch's, float32 say; got {self.dtype!r}")
        if not dtype.is_floating_point:
            raise FxpruneValueError(
                f"dtype is of the weights, a floating point one; got {self.dtype!r} (inputs of whole numbers stay)"
            )

    def __str__(self) -> str:
        where = f"{self.threads} thread{'s' * (self.threads != 1)}" if self.device == "cpu" else self.device
        return f"{self.backend}, {where}, batch {self.batch}, {self.dtype}, {self.layout}"

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch's own."""
        found = getattr(torch, self.dtype)
        assert isinstance(found, torch.dtype)
        return found

    def placed(self, value: Any) -> Any:
        """Return a tensor or a module on the device, floating point numbers in the dtype; they lie as they did."""
        is_whole = isinstance(value, torch.Tensor) and not value.is_floating_point()
        return value.to(self.device, None if is_whole else self.torch_dtype)

    def to_json(self) -> dict[str, Any]:
        """Return the conditions as plain data."""
        return asdict(self)


def require_backend(conditions: Conditions) -> None:
    """Raise FxpruneError, with what to do, if nothing here can run under ``conditions``."""
    backend, device = conditions.backend, conditions.device
    if backend not in get_args(Backend):
        hint = did_you_mean(backend, get_args(Backend))
        raise FxpruneValueError(f"unknown backend {backend!r}{hint}; known: {', '.join(get_args(Backend))}")
    if backend == "onnxruntime":
        _require_onnx(conditions)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise FxpruneError("there is no CUDA device here; give device='cpu'")
    try:
        with torch.no_grad():
            probe = torch.ones(2, 2, device=device, dtype=conditions.torch_dtype)
            torch.nn.functional.relu(probe @ probe)
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        raise FxpruneError(f"{device} cannot compute in {conditions.dtype}: {str(error).splitlines()[0]}") from error


def _require_onnx(conditions: Conditions) -> None:
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise FxpruneError(f"the backend onnxruntime needs {package}; pip install 'fxprune[onnx]'")
    if conditions.dtype not in _OF_ONNX:
        raise FxpruneValueError(
            f"ONNX Runtime is timed in {', '.join(_OF_ONNX)}; got {conditions.dtype}: give another dtype or backend"
        )
    if conditions.layout != "contiguous":
        raise FxpruneValueError("ONNX Runtime lays tensors out by itself: leave layout out, or give another backend")
