"""Where training runs: on how many processes, on which device, in which precision. All that is accelerate's."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fxprune.errors import FxpruneError, FxpruneValueError, FxpruneWarning, first_line
from fxprune.training.settings import Settings

if TYPE_CHECKING:
    from accelerate import Accelerator

COMPILER = "inductor"
"""The backend of torch.compile."""
_DEVICE = "ACCELERATE_TORCH_DEVICE"


def make_accelerator(settings: Settings, folder: Path | None = None) -> Accelerator:
    """Return accelerate's engine; under ``torchrun`` or ``accelerate launch`` one of several processes.

    With a folder, its trackers are TensorBoard's, if that is installed.
    Raises FxpruneError if accelerate is missing, or the batch cannot be shared evenly by the processes.
    """
    try:
        from accelerate import Accelerator
        from accelerate.utils import is_tensorboard_available
    except ImportError as error:
        raise FxpruneError("training needs accelerate; pip install 'fxprune[train]'") from error
    options: dict[str, Any] = {"mixed_precision": "bf16" if settings.precision == "bf16" else "no"}
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if settings.device == "cpu" or (settings.device == "auto" and not torch.cuda.is_available()):
        options["cpu"] = True
    elif processes > 1 and settings.device not in ("auto", "cuda"):
        raise FxpruneValueError(f"{processes} processes cannot share device {settings.device}; leave out --device")
    if folder is not None and is_tensorboard_available():
        options |= {"log_with": "tensorboard", "project_dir": str(folder)}
    try:
        if processes == 1 and settings.device != "auto":
            torch.empty(0, device=settings.device)  # fails before accelerate is half made
        with _device_named(settings.device if processes == 1 and settings.device not in ("auto", "cpu") else None):
            accelerator = Accelerator(**options)
    except (RuntimeError, ValueError) as error:  # no such device, no driver, another precision than a run before
        raise FxpruneError(f"cannot train on device {settings.device}: {first_line(error)}") from error
    wanted = torch.device(settings.device if settings.device != "auto" else accelerator.device)
    if wanted.type != accelerator.device.type or wanted.index not in (None, accelerator.device.index):
        raise FxpruneError(
            f"training is on {accelerator.device} in this process since an earlier run, and cannot move to {wanted}: "
            "accelerate keeps its first device; start another process"
        )
    if accelerator.num_processes != processes:
        raise FxpruneError(f"{processes} processes were started, but accelerate runs {accelerator.num_processes}")
    if settings.cuda_graphs and (accelerator.device.type != "cuda" or processes > 1):
        where = f"{processes} processes" if processes > 1 else f"device {accelerator.device}"
        raise FxpruneValueError(f"cuda_graphs is for one process on a GPU, not for {where}; leave it out")
    share = settings.accumulate * accelerator.num_processes
    if settings.batch_size % share:
        raise FxpruneValueError(
            f"a batch of {settings.batch_size} images cannot be shared by {accelerator.num_processes} processes in "
            f"{settings.accumulate} parts each; use a multiple of {share}"
        )
    if settings.precision == "bf16" and accelerator.device.type == "cpu" and _bf16_is_emulated():
        warnings.warn(
            "bf16 takes many times as long as float32 on this CPU, which has no instructions for it; "
            "--precision float32 is faster",
            FxpruneWarning,
            stacklevel=2,
        )
    return accelerator


@contextmanager
def _device_named(device: str | None) -> Iterator[None]:
    """Inside, accelerate takes ``device`` for an engine that it makes; the environment is as before afterwards."""
    before = os.environ.get(_DEVICE)
    if device is not None:
        os.environ[_DEVICE] = device
    try:
        yield
    finally:
        if device is not None:
            if before is None:
                del os.environ[_DEVICE]
            else:
                os.environ[_DEVICE] = before


def hardware(accelerator: Accelerator) -> dict[str, Any]:
    """Return what a report tells of where its run was finished; the rows of epochs name the device of each."""
    device = accelerator.device
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "device": str(device),
        "gpu": device_name(accelerator) if device.type == "cuda" else None,
        "processes": accelerator.num_processes,
    }


def end_together(accelerator: Accelerator) -> None:
    """End a run once each of its processes is here: the first has written the report.

    In this order: without the group of processes, which ends with the training, nobody can wait for the others.
    """
    accelerator.wait_for_everyone()
    accelerator.end_training()


def device_name(accelerator: Accelerator) -> str:
    """Return the GPU's name; of any other device its type, such as "cpu"."""
    device = accelerator.device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _bf16_is_emulated() -> bool:
    """Say whether this is an x86 CPU without AVX-512, on which oneDNN has no bf16 kernels."""
    return platform.machine() in ("x86_64", "AMD64") and not torch.backends.cpu.get_cpu_capability().startswith(
        "AVX512"
    )
