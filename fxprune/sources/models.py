"""Find a model by the name that a user gives in the shell, and load weights into it."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fxprune.emission.emit import is_emitted, load_emitted
from fxprune.errors import LoadError, did_you_mean, first_line
from fxprune.ir.copies import unwrapped
from fxprune.ir.nodes import EXAMPLE_INPUTS
from fxprune.ir.wrappers import without_prefixes
from fxprune.sources import FORMS

_LIBRARIES = ("torchvision", "timm")
_CONTAINER_KEYS = ("state_dict", "model_state_dict", "model")


@dataclass(frozen=True)
class LoadedModel:
    """A model and what is known of it.

    Attributes:
        model: with its weights.
        input_shape: of its inputs, (N, C, H, W), where the source says so.
        is_random: whether all its weights are random: a model of a library, without weights of its own or a file.
        left_random: names of the tensors that a file of weights holds for another number of classes.
    """

    model: nn.Module
    input_shape: tuple[int, ...] | None = None
    is_random: bool = False
    left_random: tuple[str, ...] = ()


def load_model(
    spec: str, weights: str | Path | None = None, classes: int | None = None, *, pretrained: bool = False
) -> LoadedModel:
    """Build the model that ``spec`` names, and load ``weights`` into it if given.

    Args:
        spec: one of the forms in ``FORMS``. ``torchvision:`` and ``timm:`` models are built with random weights.
        weights: a .safetensors file, or a .pt/.pth/.th state dict (read without executing anything).
        classes: number of outputs, for torchvision and timm models; with weights of another number of classes the
            classifier stays random, and ``left_random`` names it.
        pretrained: load the weights that torchvision or timm have for the model, by their own loaders.

    Raises:
        LoadError: there is no such model, the weights do not fit it (names the keys), or they cannot be downloaded.
    """
    if pretrained and weights is not None:
        raise LoadError(f"there are two kinds of weights for {spec}: give --pretrained or --weights, not both")
    loaded = _build(spec, classes)
    if pretrained:
        return _pretrained(loaded, spec, classes)
    if weights is None:
        return loaded
    left = load_weights(loaded.model, Path(weights), classes=classes)
    return replace(loaded, is_random=False, left_random=left)


def _build(spec: str, classes: int | None) -> LoadedModel:
    if is_emitted(Path(spec)):
        _refuse_classes(spec, classes)
        graph_module = load_emitted(Path(spec))
        example = (graph_module.meta.get(EXAMPLE_INPUTS) or (None,))[0]
        return LoadedModel(graph_module, tuple(example.shape) if isinstance(example, torch.Tensor) else None)
    source, colon, name = spec.rpartition(":")
    if not colon or not name:
        if Path(spec).is_file() and spec.endswith(".py"):
            raise LoadError(f"{spec} is a file; name the function or class in it that makes the model: {spec}:NAME")
        raise LoadError(f"no model {spec!r}: give {FORMS}")
    options = {} if classes is None else {"num_classes": classes}
    if source == "torchvision":
        return LoadedModel(_torchvision_model(name, options), is_random=True)
    if source == "timm":
        return _timm_model(name, options)
    hint = did_you_mean(source, _LIBRARIES, cutoff=0.8)
    if hint and source not in _LIBRARIES and not _is_importable(source):
        raise LoadError(f"no model {spec!r}{hint}")
    _refuse_classes(spec, classes)
    return LoadedModel(unwrapped(_from_factory(source, name)))


def _pretrained(loaded: LoadedModel, spec: str, classes: int | None) -> LoadedModel:
    """Return ``loaded`` with what the library of ``spec`` downloads; a classifier for other classes stays."""
    library, _, name = spec.partition(":")
    if library not in _LIBRARIES or not loaded.is_random:
        raise LoadError(f"--pretrained is for models of torchvision: and timm:, not for {spec}; give --weights FILE")
    try:
        model = _from_torchvision(name) if library == "torchvision" else _from_timm(name)
    except LoadError:
        raise
    except Exception as error:  # whatever a network, a proxy or a full disk may cause
        why = f"{type(error).__name__}: {first_line(error)}"
        raise LoadError(
            f"cannot get the pretrained weights of {spec}: {why}; offline, give a file of them with --weights"
        ) from error
    if classes is None:
        return replace(loaded, model=model, is_random=False)
    left = _load_state(loaded.model, model.state_dict(), f"the pretrained {name}", classes)
    return replace(loaded, is_random=False, left_random=left)


def _from_torchvision(name: str) -> nn.Module:
    import torchvision

    if not list(torchvision.models.get_model_weights(name)):
        raise LoadError(f"torchvision has no pretrained weights of {name}; give --weights FILE")
    model: nn.Module = torchvision.models.get_model(name, weights="DEFAULT")
    return model


def _from_timm(name: str) -> nn.Module:
    import timm

    if not timm.is_model_pretrained(name):
        raise LoadError(f"timm has no pretrained weights of {name}; give --weights FILE")
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)  # it tells of each of ten attempts
    try:
        model: nn.Module = timm.create_model(name, pretrained=True)
        return model
    finally:
        hub.setLevel(level)


def _is_importable(source: str) -> bool:
    _look_also_in(Path())
    return importlib.util.find_spec(source.partition(".")[0]) is not None


def _refuse_classes(spec: str, classes: int | None) -> None:
    if classes is not None:
        raise LoadError(f"--classes is for models of torchvision: and timm:, not for {spec}: it fixes its own")


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
    return LoadedModel(model, None if size is None else (1, *size), is_random=True)


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
        _look_also_in(path.parent)  # for what it imports from beside it, as if it were run
        try:
            module_spec.loader.exec_module(module)
        except ImportError as error:
            raise LoadError(f"cannot import {source}: {error}") from error
    else:
        _look_also_in(Path())  # as ``python -m`` does
        try:
            module = importlib.import_module(source)
        except ImportError as error:
            raise LoadError(f"cannot import {source}, from here or PYTHONPATH: {error}; give {FORMS}") from error
    factory = getattr(module, name, None)
    if factory is None:
        raise LoadError(f"{source} has no {name}{did_you_mean(name, dir(module))}")
    model = factory if isinstance(factory, nn.Module) else _called(factory, f"{source}:{name}")
    if not isinstance(model, nn.Module):
        raise LoadError(f"{source}:{name} returned {type(model).__name__}, not an nn.Module")
    return model


def _look_also_in(folder: Path) -> None:
    """Let imports find what is in ``folder`` and nowhere else."""
    if str(folder.resolve()) not in sys.path:
        sys.path.append(str(folder.resolve()))


def _called(factory: Any, spec: str) -> Any:
    if not callable(factory):
        raise LoadError(f"{spec} is a {type(factory).__name__}, neither an nn.Module nor something that makes one")
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise LoadError(f"{spec} cannot be called without arguments: {error}; write a function that can") from error
    except ValueError:
        pass  # it has no signature to look at
    try:
        return factory()
    except Exception as error:
        raise LoadError(f"{spec} failed: {type(error).__name__}: {first_line(error)}") from error


def load_weights(model: nn.Module, path: Path, *, classes: int | None = None) -> tuple[str, ...]:
    """Load a state dict from ``path`` into ``model``; return the names of the tensors that were left as they are.

    A dict inside ``state_dict`` or ``model`` is unwrapped, and prefixes of wrappers (``module.``, ``_orig_mod.``) are
    taken off, in any order and in the middle of names too, as training scripts leave them. Where ``classes`` is
    given, tensors with that many rows, and another number in the file, are left: a classifier for other classes.
    Raises LoadError naming the keys if anything else does not fit; the model is then unchanged.
    """
    return _load_state(model, _read_state_dict(path), str(path), classes)


def _load_state(
    model: nn.Module, given: Mapping[str, torch.Tensor], source: str, classes: int | None
) -> tuple[str, ...]:
    """Do what :func:`load_weights` does with a state dict that was read from ``source``."""
    model = unwrapped(model)  # it shares the tensors
    own = model.state_dict()
    state = without_prefixes(dict(given), own)
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    if missing or unexpected:
        parts = [_listed("lacks", missing), _listed("has unknown", unexpected)]
        raise LoadError(f"{source} does not fit {type(model).__name__}: it {' and '.join(p for p in parts if p)}")
    others = [key for key, value in state.items() if value.shape != own[key].shape]
    for key in others:
        rows, *rest = own[key].shape or (0,)
        if rows != classes or list(state[key].shape[1:]) != rest:
            raise LoadError(
                f"{source} does not fit {type(model).__name__}: {key} has shape {tuple(state[key].shape)}, "
                f"the model's has {tuple(own[key].shape)}"
            )
    model.load_state_dict({key: value for key, value in state.items() if key not in others}, strict=False)
    return tuple(others)


def _listed(verb: str, keys: list[str]) -> str:
    more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
    return f"{verb} {', '.join(keys[:4])}{more}" if keys else ""


def _read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read tensors by name from a .safetensors or a torch file; raises LoadError if it is neither, or damaged."""
    if not path.is_file():
        is_folder = path.is_dir()
        raise LoadError(f"{path} is a folder; give a file of weights" if is_folder else f"there is no file {path}")
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
        why = f"{type(error).__name__}: {first_line(error)}"
        raise LoadError(
            f"cannot read weights from {path}, as torch.save or safetensors writes them: {why}"
        ) from error
    for key in _CONTAINER_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise LoadError(f"{path} holds no state dict; save model.state_dict() and give that file")
    return {str(key): value for key, value in content.items()}
