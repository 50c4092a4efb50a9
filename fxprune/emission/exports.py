"""What an emitted folder also holds on request: model.pt2 (torch.export) and model.onnx, both with a free batch size.

On request heights and widths are free too. That is shown, not believed: the network and its export are run at another
size, and must agree.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.utils import _pytree as pytree

from fxprune.emission.seal import EXPORTS
from fxprune.errors import EmitError, first_line
from fxprune.ir.pytrees import copy_tensors, tensors_in
from fxprune.rewriting.verify import difference

Format = Literal["pt2", "onnx"]
_OTHER = {0: 1, 2: 64, 3: 128}  # how much longer each axis is in a run at another size: what nets divide by goes on
_AXES = {0: "batch", 2: "height", 3: "width"}
_SAME_OPERATIONS = 1e-4  # relative, in float32: other sizes may take other kernels


@dataclass(frozen=True)
class Exports:
    """What is written beside the source: in which formats, and whether for images of any height and width.

    Raises EmitError for an unknown format, and for ``dynamic`` without any.
    """

    formats: tuple[Format, ...] = ()
    dynamic: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.formats if name not in get_args(Format)]
        if unknown:
            raise EmitError(f"unknown format {unknown[0]!r}; use {' or '.join(get_args(Format))}")
        if self.dynamic and not self.formats:
            raise EmitError("dynamic is for exports, and none is asked for; give a format too, onnx or pt2")


SOURCE_ONLY = Exports()


def require_exporter(formats: Sequence[Format]) -> None:
    """Raise EmitError if a format needs a package that is not installed."""
    needed = ("onnx", "onnxscript") if "onnx" in formats else ()
    for package in needed:
        if importlib.util.find_spec(package) is None:
            raise EmitError(f"ONNX needs {package}; pip install 'fxprune[onnx]'")


def export(model: nn.Module, examples: Sequence[Any], out: Path, wanted: Exports) -> None:
    """Write ``model`` to files in ``out``, for inputs like ``examples`` with any batch size.

    If that is ``wanted``, heights and widths, axes 2 and 3 of images (N, C, H, W), may be any too. In ONNX inputs
    have the names of ``forward``'s parameters, outputs the keys of what it returns.

    Raises EmitError if torch cannot export it, or it does not take other sizes where it should; says why.
    """
    require_exporter(wanted.formats)
    dynamic = wanted.dynamic
    inputs = tuple(x.cpu() if isinstance(x, torch.Tensor) else x for x in examples)
    inputs = tuple(torch.cat([x, x]) if isinstance(x, torch.Tensor) and len(x) == 1 else x for x in inputs)
    axes = tuple(_free_axes(x, dynamic) for x in inputs)
    if dynamic:
        _require_images(inputs)
        others, expected = _at_another_size(model, inputs)
    try:
        with torch.no_grad():
            outputs = model(*copy_tensors(inputs))
        shapes = tuple(None if free is None else dict.fromkeys(free, torch.export.Dim.DYNAMIC) for free in axes)
        program = torch.export.export(model, inputs, dynamic_shapes=shapes)
        if dynamic:
            _require_same(program, others, expected)
        if "pt2" in wanted.formats:
            torch.export.save(program, out / EXPORTS["pt2"])
        if "onnx" in wanted.formats:
            _save_onnx(program, outputs, axes, out / EXPORTS["onnx"])
    except EmitError:
        raise
    except Exception as error:
        raise EmitError(f"torch cannot export the model{' with free sizes' * dynamic}: {_reason(error)}") from error


def _free_axes(value: Any, dynamic: bool) -> tuple[int, ...] | None:
    """Return the axes of an input that are to be free; None of what is no tensor with a batch axis."""
    if not isinstance(value, torch.Tensor) or not value.dim():
        return None
    return (0, 2, 3) if dynamic and value.dim() == 4 else (0,)


def _require_images(inputs: Sequence[Any]) -> None:
    if not any(isinstance(x, torch.Tensor) and x.dim() == 4 for x in inputs):
        raise EmitError("no input is of shape (N, C, H, W), whose height and width could be free; leave out dynamic")


def _at_another_size(model: nn.Module, inputs: Sequence[Any]) -> tuple[tuple[Any, ...], list[torch.Tensor]]:
    """Return inputs with more and larger images, and what ``model`` returns for them."""
    others = tuple(_larger(x) for x in inputs)
    try:
        with torch.no_grad():
            return others, tensors_in(model(*copy_tensors(others)))
    except Exception as error:
        sizes = " and ".join("x".join(map(str, x.shape[2:])) for x in inputs if _free_axes(x, True) == (0, 2, 3))
        raise EmitError(
            f"the network takes images of {sizes} alone, so their size cannot be free: {first_line(error)}; "
            "leave out dynamic"
        ) from error


def _larger(value: Any) -> Any:
    """Return random numbers in the place of images, one more of them, each with more rows and columns."""
    axes = _free_axes(value, True)
    if axes is None:
        return value
    shape = [side + _OTHER.get(axis, 0) for axis, side in enumerate(value.shape)] if axes != (0,) else None
    if shape is not None and value.is_floating_point():
        with torch.random.fork_rng(devices=[]):
            return torch.randn(shape, dtype=value.dtype, generator=torch.Generator().manual_seed(0))
    return torch.cat([value, value[:1]]) if shape is None else value.new_zeros(shape)


def _require_same(program: Any, inputs: tuple[Any, ...], expected: list[torch.Tensor]) -> None:
    """Raise EmitError unless the export computes ``expected`` of ``inputs``."""
    with torch.no_grad():
        found = tensors_in(program.module()(*copy_tensors(inputs)))
    _, relative = difference(expected, found)
    if not relative <= _SAME_OPERATIONS:
        raise EmitError(f"what torch exports computes something else at another size (by {relative:.2g}, relative)")


def _reason(error: Exception) -> str:
    """Return the first line of what torch says; of violated constraints the second, which says what was fixed."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines[1:] if "specialized" in line), None)
    return told or first_line(error)


def _save_onnx(program: Any, outputs: Any, axes: Sequence[tuple[int, ...] | None], file: Path) -> None:
    """Write ``program`` as ONNX, with names for its inputs, their axes, and its outputs."""
    exported = torch.onnx.export(program, dynamo=True, verbose=False, dynamic_shapes=_axis_names(program, axes))
    assert exported is not None
    graph, names = exported.model.graph, _input_names(program)
    if len(names) == len(graph.inputs):
        names += output_names(outputs, [*names, *graph.initializers]) or [value.name for value in graph.outputs]
        _rename(graph, names)
    exported.save(str(file))


def _input_names(program: Any) -> list[str]:
    return [str(name) for name in program.graph_signature.user_inputs if isinstance(name, str)]


def _rename(graph: Any, names: Sequence[str]) -> None:
    """Give the inputs and then the outputs of an ONNX graph these names; values that have one of them get another."""
    for node in graph:
        for value in node.outputs:
            value.name = f"{value.name}.inner" if value.name in names else value.name
    for value, name in zip([*graph.inputs, *graph.outputs], names, strict=True):
        value.name = name


def output_names(outputs: Any, taken: Sequence[str] = ()) -> list[str] | None:
    """Return a name for each tensor in what a model returned, none of them ``taken``; None if it holds other things.

    A lone tensor is "output", those of a tuple are "output_0" and so on, others have the keys under which they lie.
    """
    found, _ = pytree.tree_flatten_with_path(outputs)
    if not all(isinstance(leaf, torch.Tensor) for _, leaf in found):
        return None
    names = []
    for path, _ in found:
        keys = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path]
        name = ".".join(keys)
        name = "_".join(["output", *keys]) if not name or name[0].isdigit() else name
        names.append(f"{name}_output" if name in taken else name)
    return names


def _axis_names(program: Any, axes: Sequence[tuple[int, ...] | None]) -> tuple[dict[int, str] | None, ...]:
    """Return what the free axes of each input are called, with its name if it is not the only one; each size once."""
    inputs = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in _input_names(program)]
    alone = len(inputs) == 1
    seen: set[str] = set()
    named: list[dict[int, str] | None] = []
    for node, free in zip(inputs, axes, strict=True):
        sizes = {axis: str(node.meta["val"].shape[axis]) for axis in free or ()}
        new = {axis: size for axis, size in sizes.items() if size not in seen}
        seen.update(new.values())
        named.append({axis: _AXES[axis] if alone else f"{node.name}_{_AXES[axis]}" for axis in new} or None)
    return tuple(named)
