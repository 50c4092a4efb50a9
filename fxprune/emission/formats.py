"""What an emitted folder also holds on request: model.pt2 (torch.export) and model.onnx, both with a free batch size.

On request heights and widths are free too. That is shown, not believed: the network and its exports are run at other
sizes, and must agree (torch writes some ops to ONNX for one size alone without a word, adaptive pooling for one).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from fxprune.emission.seal import EXPORTS
from fxprune.errors import EmitError, first_line
from fxprune.ir.pytrees import copy_tensors, tensors_in
from fxprune.rewriting.verify import difference

Format = Literal["pt2", "onnx"]
_LONGER = ({0: 1, 2: 256, 3: 320}, {0: 1, 2: 13, 3: 27})  # axes in runs at other sizes; nets may ask for round ones
_AXES = {0: "batch", 2: "height", 3: "width"}


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


def require_exporter(wanted: Exports) -> None:
    """Raise EmitError if what is ``wanted`` needs a package that is not installed."""
    needed = ("onnx", "onnxscript", *(["onnxruntime"] if wanted.dynamic else []))
    for package in needed if "onnx" in wanted.formats else ():
        if importlib.util.find_spec(package) is None:
            raise EmitError(f"ONNX needs {package}; pip install 'fxprune[onnx]'")


def export(model: nn.Module, examples: Sequence[Any], out: Path, wanted: Exports) -> None:
    """Write ``model`` to files in ``out``, for inputs like ``examples`` with any batch size.

    If that is ``wanted``, heights and widths, axes 2 and 3 of images (N, C, H, W), may be any too. In ONNX inputs
    have the names of ``forward``'s parameters, outputs the keys of what it returns.

    Raises EmitError if torch cannot export it, or it does not take other sizes where it should; says why.
    """
    require_exporter(wanted)
    inputs = tuple(x.cpu() if isinstance(x, torch.Tensor) else x for x in examples)
    inputs = tuple(torch.cat([x, x]) if isinstance(x, torch.Tensor) and len(x) == 1 else x for x in inputs)
    if wanted.dynamic and all(isinstance(x, torch.Tensor) and x.dim() == 4 for x in inputs):
        inputs = tuple(x[:2] for x in inputs)  # runs at larger sizes take long
    axes = tuple(_free_axes(x, wanted.dynamic) for x in inputs)
    shown = _at_other_sizes(model, inputs) if wanted.dynamic else []
    try:
        with torch.no_grad():
            outputs = model(*copy_tensors(inputs))
        shapes = tuple(None if free is None else dict.fromkeys(free, torch.export.Dim.DYNAMIC) for free in axes)
        program = torch.export.export(model, inputs, dynamic_shapes=shapes)
        for one in shown:
            one.require(program.module(), "torch.export")
        if "pt2" in wanted.formats:
            torch.export.save(program, out / EXPORTS["pt2"])
        if "onnx" in wanted.formats:
            _save_onnx(program, outputs, axes, out / EXPORTS["onnx"])
            for one in shown:
                one.require(_run_by_onnxruntime(out / EXPORTS["onnx"]), "ONNX")
    except EmitError:
        raise
    except Exception as error:
        raise EmitError(
            f"torch cannot export the model{' with free sizes' * wanted.dynamic}: {_reason(error)}"
        ) from error


def _free_axes(value: Any, dynamic: bool) -> tuple[int, ...] | None:
    """Return the axes of an input that are to be free; None of what is no tensor with a batch axis."""
    if not isinstance(value, torch.Tensor) or not value.dim():
        return None
    return (0, 2, 3) if dynamic and value.dim() == 4 else (0,)


class _Shown(NamedTuple):
    """Inputs of another size, and what a network returns for them."""

    inputs: tuple[Any, ...]
    expected: list[torch.Tensor]

    def require(self, exported: Callable[..., Any], name: str) -> None:
        """Raise EmitError unless ``exported`` returns that too, but for rounding."""
        with torch.no_grad():
            found = tensors_in(exported(*copy_tensors(self.inputs)))
        _, relative = difference(self.expected, found)
        roundings = [torch.finfo(one.dtype).eps for one in self.expected if one.is_floating_point()]
        if not relative <= max(roundings, default=0.0) ** 0.5:
            raise EmitError(
                f"what torch makes of the network for {name} computes something else for images of another size "
                f"(by {relative:.2g}, relative); leave out dynamic"
            )


def _at_other_sizes(model: nn.Module, inputs: Sequence[Any]) -> list[_Shown]:
    """Return more and larger images, and what ``model`` returns for them; of odd sizes where it takes such.

    Raises EmitError, saying why, if it takes none but those of ``inputs``.
    """
    sizes = ["x".join(map(str, x.shape[2:])) for x in inputs if isinstance(x, torch.Tensor) and x.dim() == 4]
    if not sizes:
        raise EmitError("no input is of shape (N, C, H, W), whose height and width could be free; leave out dynamic")
    shown: list[_Shown] = []
    for longer in _LONGER:
        others = tuple(_larger(x, longer) for x in inputs)
        try:
            with torch.no_grad():
                shown.append(_Shown(others, tensors_in(model(*copy_tensors(others)))))
        except Exception as error:
            if not shown:
                raise EmitError(
                    f"the network takes images of {' and '.join(sizes)} alone, so their size cannot be free: "
                    f"{first_line(error)}; leave out dynamic"
                ) from error
    return shown


def _larger(value: Any, longer: Mapping[int, int]) -> Any:
    """Return random numbers in the place of images, more of them and larger ones; of other tensors just more rows."""
    if not isinstance(value, torch.Tensor) or not value.dim():
        return value
    if value.dim() != 4 or not value.is_floating_point():
        more = torch.cat([value, value[: longer[0]]])
        return more if value.dim() != 4 else functional.pad(more, (0, longer[3], 0, longer[2]))
    shape = [side + longer.get(axis, 0) for axis, side in enumerate(value.shape)]
    return torch.randn(shape, dtype=value.dtype, generator=torch.Generator().manual_seed(0))


def _run_by_onnxruntime(file: Path) -> Callable[..., list[torch.Tensor]]:
    """Return a function of tensors that computes what ``file`` says."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def run(*inputs: Any) -> list[torch.Tensor]:
        tensors = [x.numpy() for x in inputs if isinstance(x, torch.Tensor)]
        found = session.run(None, dict(zip(names, tensors, strict=True)))
        return [torch.from_numpy(one) for one in found]

    return run


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
        names += output_names(outputs, [*names, *graph.initializers]) or [str(value.name) for value in graph.outputs]
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
