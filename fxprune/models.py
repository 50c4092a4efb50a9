"""Find a model by the name that a user gives in the shell, and load weights into it."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fxprune.emit import is_emitted, load_emitted
from fxprune.errors import LoadError, did_you_mean, first_line
from fxprune.graph import EXAMPLE_INPUTS

FORMS = "torchvision:NAME, timm:NAME, package.module:factory, path/file.py:factory, or a folder that fxprune wrote"
_CONTAINER_KEYS = ("state_dict", "model_state_dict", "model")


@dataclass(frozen=True)
class LoadedModel:
    """A model and the shape of its inputs (N, C, H, W), where the source says so."""

    model: nn.Module
    input_shape: tuple[int, ...] | None = None


def load_model(spec: str, weights: str | Path | None = None, classes: int | None = None) -> LoadedModel:
    """Build the model that ``spec`` names, and load ``weights`` into it if given.

    Args:
        spec: one of the forms in ``FORMS``. ``torchvision:`` and ``timm:`` models are built with random weights.
        weights: a .safetensors file, or a .pt/.pth/.th state dict (read without executing anything).
        classes: number of outputs, for torchvision and timm models.

    Raises:
        LoadError: there is no such model, or the weights do not fit it (names the keys).
    """
    loaded = _build(spec, classes)
    if weights is not None:
        load_weights(loaded.model, Path(weights))
    return loaded


def _build(spec: str, classes: int | None) -> LoadedModel:
    if is_emitted(Path(spec)):
        graph_module = load_emitted(Path(spec))
        example = (graph_module.meta.get(EXAMPLE_INPUTS) or (None,))[0]
        return LoadedModel(graph_module, tuple(example.shape) if isinstance(example, torch.Tensor) else None)
    source, colon, name = spec.rpartition(":")
    if not colon or not name:
        raise LoadError(f"no model {spec!r}: give {FORMS}")
    options = {} if classes is None else {"num_classes": classes}
    if source == "torchvision":
        return LoadedModel(_torchvision_model(name, options))
    if source == "timm":
        return _timm_model(name, options)
    return LoadedModel(_from_factory(source, name))


def _torchvision_model(name: str, options: dict[str, Any]) -> nn.Module:
    import torchvision

    if name not in torchvision.models.list_models():
        raise LoadError(f"torchvision has no model {name!r}{did_you_mean(name, torchvision.models.list_models())}")
    takes = inspect.signature(torchvision.models.get_model_builder(name)).parameters
    if "weights_backbone" in takes:
        options = {**options, "weights_backbone": None}
    if name in ("googlenet", "inception_v3"):
        options = {**options, "init_weights": False}
    model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return model


def _timm_model(name: str, options: dict[str, Any]) -> LoadedModel:
    try:
        import timm
    except ImportError as error:
        raise LoadError(f"timm:{name} needs timm; pip install 'fxprune[timm]'") from error
    if not timm.is_model(name):
        raise LoadError(f"timm has no model {name!r}{did_you_mean(name, timm.list_models())}")
    model = timm.create_model(name, pretrained=False, **options)
    size = (getattr(model, "default_cfg", None) or {}).get("input_size")
    return LoadedModel(model, None if size is None else (1, *size))


def _from_factory(source: str, name: str) -> nn.Module:
    if source.endswith(".py"):
        path = Path(source)
        if not path.is_file():
            raise LoadError(f"there is no file {source}")
        module_spec = importlib.util.spec_from_file_location(path.stem, path)
        assert module_spec is not None
        assert module_spec.loader is not None
        module = importlib.util.module_from_spec(module_spec)
        sys.modules.setdefault(path.stem, module)
        module_spec.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(source)
        except ImportError as error:
            raise LoadError(f"cannot import {source}: {error}; give {FORMS}") from error
    factory = getattr(module, name, None)
    if factory is None:
        raise LoadError(f"{source} has no {name}{did_you_mean(name, dir(module))}")
    model = factory if isinstance(factory, nn.Module) else factory()
    if not isinstance(model, nn.Module):
        raise LoadError(f"{source}:{name} returned {type(model).__name__}, not an nn.Module")
    return model


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a state dict from ``path`` into ``model``.

    A dict inside ``state_dict`` or ``model`` is unwrapped and a ``module.`` prefix taken off, as training
    scripts leave them. Raises LoadError naming the keys if it does not fit; the model is then unchanged.
    """
    state = read_state_dict(path)
    own = model.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    if missing or unexpected:
        parts = [_listed("lacks", missing), _listed("has unknown", unexpected)]
        raise LoadError(f"{path} does not fit {type(model).__name__}: it {' and '.join(p for p in parts if p)}")
    for key, value in state.items():
        if value.shape != own[key].shape:
            raise LoadError(
                f"{path} does not fit {type(model).__name__}: {key} has shape {tuple(value.shape)}, "
                f"the model's has {tuple(own[key].shape)}"
            )
    model.load_state_dict(state, strict=False)


def _listed(verb: str, keys: list[str]) -> str:
    more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
    return f"{verb} {', '.join(keys[:4])}{more}" if keys else ""


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read tensors by name from a .safetensors or a torch file; raises LoadError if it is neither, or damaged."""
    if not path.is_file():
        raise LoadError(f"there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise LoadError(
            f"{path} holds more than tensors, or is damaged; save model.state_dict() and give that file"
        ) from error
    except Exception as error:
        raise LoadError(f"cannot read weights from {path}: {first_line(error)}") from error
    for key in _CONTAINER_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise LoadError(f"{path} holds no state dict; save model.state_dict() and give that file")
    return {str(key).removeprefix("module."): value for key, value in content.items()}
