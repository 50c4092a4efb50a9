"""Under which conditions a network is timed: what runs it, on what, how many inputs at a time."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch

from fxprune.errors import FxpruneError, FxpruneValueError, did_you_mean

Backend = Literal["eager", "compile", "onnxruntime"]
Layout = Literal["contiguous", "channels_last"]
MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def in_layout(value: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Return a tensor that lies so in memory, if it is of images."""
    return value.to(memory_format=MEMORY_FORMATS[layout]) if value.dim() == 4 else value


@dataclass(frozen=True)
class Conditions:
    """What times depend on, beside the network.

    Args:
        backend: "eager", "compile" (torch.compile), "onnxruntime", or the name of a user's timer.
        device: "cpu", or one of torch's others, "cuda" say.
        batch: how many inputs at a time.
        threads: of the CPU; the others wait.
        dtype: of weights and inputs, by torch's name for it: "float32".
        layout: of images and of the weights of convs, in memory.

    Raises:
        FxpruneValueError: an unknown layout or dtype, less than one input or thread.
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
        if self.layout not in MEMORY_FORMATS:
            raise FxpruneValueError(f"layout is contiguous or channels_last; got {self.layout!r}")
        if not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise FxpruneValueError(f"dtype is one of torch's, float32 say; got {self.dtype!r}")

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
        """Return a tensor or a module on the device, floating point numbers in the dtype, images in the layout."""
        if isinstance(value, torch.Tensor):
            value = value.to(self.device, self.torch_dtype if value.is_floating_point() else None)
            return in_layout(value, self.layout)
        return value.to(self.device, self.torch_dtype).to(memory_format=MEMORY_FORMATS[self.layout])

    def to_json(self) -> dict[str, Any]:
        """Return the conditions as plain data."""
        return asdict(self)


def require_backend(conditions: Conditions) -> None:
    """Raise FxpruneError, with what to do, if nothing here can run under ``conditions``."""
    backend, device = conditions.backend, conditions.device
    if backend not in get_args(Backend):
        hint = did_you_mean(backend, get_args(Backend))
        raise FxpruneValueError(f"unknown backend {backend!r}{hint}; known: {', '.join(get_args(Backend))}")
    for package in ("onnx", "onnxruntime") if backend == "onnxruntime" else ():
        if importlib.util.find_spec(package) is None:
            raise FxpruneError(f"the backend onnxruntime needs {package}; pip install 'fxprune[onnx]'")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise FxpruneError("there is no CUDA device here; give device='cpu'")
    try:
        with torch.no_grad():
            probe = torch.ones(2, 2, device=device, dtype=conditions.torch_dtype)
            torch.nn.functional.relu(probe @ probe)
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        raise FxpruneError(f"{device} cannot compute in {conditions.dtype}: {str(error).splitlines()[0]}") from error
