"""The models of the zoo: which there are, how each is built, what it is called with.

A spec is ``torchvision:NAME`` or ``timm:NAME``, as ``fxprune`` takes it in the shell. The timm models are those in
``timm_cnns.txt``; timm_cnns.py wrote it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

TIMM_LIST = Path(__file__).parent / "timm_cnns.txt"
CI_SUBSET = (
    "torchvision:resnet18",
    "torchvision:mobilenet_v2",
    "torchvision:shufflenet_v2_x0_5",
    "torchvision:lraspp_mobilenet_v3_large",
    "timm:convnext_zepto_rms",
    "timm:repvgg_a0",
    "timm:efficientvit_m0",
    "timm:ghostnet_050",
)
GROUPS = {
    "classification": "torchvision, classification CNNs",
    "transformer": "torchvision, transformers",
    "segmentation": "torchvision, segmentation",
    "video": "torchvision, video",
    "quantization": "torchvision, quantizable (float)",
    "detection": "torchvision, detection",
    "optical_flow": "torchvision, optical flow",
    "timm": "timm, one CNN a family",
}
"""What :func:`kind` returns, and how it is called in tables."""
_KINDS = ("segmentation", "video", "quantization", "detection", "optical_flow")
_TRANSFORMERS = ("vision_transformer", "swin_transformer", "maxvit")

Size = tuple[int, ...]  # (height, width), or (frames, height, width)


def all_specs() -> list[str]:
    """Return every model of the zoo: all of torchvision, and one timm CNN a family."""
    import torchvision

    names = [line for line in TIMM_LIST.read_text().splitlines() if line and not line.startswith("#")]
    return [f"torchvision:{n}" for n in torchvision.models.list_models()] + [f"timm:{n}" for n in names]


def kind(spec: str) -> str:
    """Return the group that a model is counted in."""
    source, name = spec.split(":")
    if source == "timm":
        return "timm"
    import torchvision

    parts: list[str] = torchvision.models.get_model_builder(name).__module__.split(".")
    if parts[2] in _KINDS:
        return parts[2]
    return "transformer" if parts[2] in _TRANSFORMERS else "classification"


def build(spec: str, seed: int = 0) -> nn.Module:
    """Build a model with random weights, in eval mode; detection models for small images."""
    torch.manual_seed(seed)
    from fxprune.sources.models import load_model  # not before a worker has forked what must not know fxprune

    model = load_model(spec).model.eval()
    if kind(spec) == "detection":
        _make_small_detector(model)
    return model


def _make_small_detector(model: Any) -> None:
    """Let a detector keep small images small, and keep detections whatever their score, lest there be none."""
    if getattr(model.transform, "fixed_size", None) is None:
        model.transform.min_size, model.transform.max_size = (128,), 192
    parts: list[Any] = [model, getattr(model, "roi_heads", None)]
    for part in parts:
        if hasattr(part, "score_thresh"):
            part.score_thresh = 0.0
    if hasattr(model, "rpn"):
        model.rpn._post_nms_top_n = {"training": 32, "testing": 32}


def sizes(spec: str, model: Any) -> list[Size]:
    """Return input sizes to try, the smallest first."""
    group = kind(spec)
    if group == "video":
        return [(8, 64, 64), (16, 112, 112), (16, 224, 224)]
    if group in ("optical_flow", "detection"):
        return [(128, 128)]
    edges = [64, 96, 128, 160, 192, 224, 240, 256, 288, 299]
    config = getattr(model, "default_cfg", None) or {}
    own = tuple(config.get("input_size") or ())[1:]
    if config.get("fixed_input_size") and own:
        return [own]
    return [(edge, edge) for edge in edges] + ([own] if own else [])


def make_inputs(spec: str, batch: int, size: Size, seed: int) -> tuple[Any, ...]:
    """Return random inputs for a call of the model."""
    generator = torch.Generator().manual_seed(seed)

    def images() -> torch.Tensor:
        return torch.randn(batch, 3, *size, generator=generator)

    group = kind(spec)
    if group == "detection":
        return (list(images().sigmoid()),)
    return (images(), images()) if group == "optical_flow" else (images(),)


def smallest_inputs(spec: str, model: nn.Module, seed: int = 0) -> tuple[Size, tuple[Any, ...]]:
    """Return the smallest of the sizes at which the model runs, and a batch of two of that size."""
    for size in sizes(spec, model):
        inputs = make_inputs(spec, 2, size, seed)
        if accepts(model, inputs):
            return size, inputs
    raise RuntimeError("the model runs at none of the image sizes that were tried")


def accepts(model: nn.Module, inputs: tuple[Any, ...]) -> bool:
    """Say whether the model runs on ``inputs``."""
    try:
        with torch.no_grad():
            model(*inputs)
    except Exception:
        return False
    return True


@torch.no_grad()
def randomize(model: nn.Module, inputs: tuple[Any, ...], seed: int = 0) -> None:
    """Give norms random weights and statistics, and constant parameters random values, so that all branches matter.

    The statistics are those of ``inputs``, disturbed: with quite arbitrary ones the values of a deep network
    overflow. Parameters whose values are all the same are gammas, betas and layer scales (often 0 or 1e-6).
    """
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.numel() and parameter.is_floating_point() and bool((parameter == parameter.flatten()[0]).all()):
            _randomize_constant(name, parameter)
    handles = [
        module.register_forward_pre_hook(_disturbed_statistics)
        for module in model.modules()
        if isinstance(getattr(module, "running_mean", None), torch.Tensor)
    ]
    model(*inputs)
    for handle in handles:
        handle.remove()
    model.train().eval()  # some attention layers cache what they compute from weights, until they train again


def _randomize_constant(name: str, parameter: torch.Tensor) -> None:
    if sum(size > 1 for size in parameter.shape) > 1:  # a matrix or a kernel
        parameter.normal_(0, (parameter.shape[0] / parameter.numel()) ** 0.5)
    elif name.rpartition(".")[2] in ("bias", "beta"):
        parameter.uniform_(-0.3, 0.3)
    else:
        parameter.uniform_(0.5, 1.5)


def _disturbed_statistics(module: Any, inputs: tuple[Any, ...]) -> None:
    values = inputs[0].detach().float()
    mean, variance = module.running_mean, module.running_var
    others = [axis for axis in range(values.dim()) if axis != 1]
    seen = values.var(others, correction=0)
    seen = seen + 0.1 * seen.mean() + 1e-6
    variance.copy_(seen * torch.empty_like(seen).uniform_(0.5, 2.0))
    mean.copy_(values.mean(others) + seen.sqrt() * torch.empty_like(seen).uniform_(-0.5, 0.5))


def conv_modules_called(model: nn.Module, inputs: tuple[Any, ...]) -> int:
    """Return how many convolution modules one call of the model runs."""
    called: set[int] = set()
    convs = [m for m in model.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    handles = [conv.register_forward_hook(lambda m, *_: called.add(id(m))) for conv in convs]
    with torch.no_grad():
        model(*inputs)
    for handle in handles:
        handle.remove()
    return len(called)
