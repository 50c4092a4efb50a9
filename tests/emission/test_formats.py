"""Exports: free batch, height and width, shown by running them; names of inputs and outputs; what is declined."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional

import fxprune
from fxprune.emission.formats import Exports, output_names
from fxprune.errors import EmitError
from fxprune.ir.pytrees import tensors_in


def emitted(model: nn.Module, folder: Path, *inputs: torch.Tensor, dynamic: bool = True) -> Any:
    """Return a session of onnxruntime with ``model``, and its graph."""
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    torch.manual_seed(0)
    graph = fxprune.trace(model.eval(), inputs)
    fxprune.emit(graph, folder, formats=["onnx", "pt2"], dynamic=dynamic)
    return graph, runtime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


def assert_same(graph: Any, session: Any, folder: Path, *inputs: torch.Tensor) -> None:
    """Assert that both exports compute of ``inputs`` what the graph does."""
    expected = tensors_in(graph(*inputs))
    names = [one.name for one in session.get_inputs()]
    found = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(torch.from_numpy(other), one, rtol=1e-4, atol=1e-5)
    program = torch.export.load(folder / "model.pt2").module()
    for one, other in zip(expected, tensors_in(program(*inputs)), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


def names_of(values: Any) -> list[str]:
    return [value.name for value in values]


class Segments(nn.Module):
    """Returns a dict, with keys that values inside, an input and a weight may be called too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1, stride=2), nn.Linear(4, 5)

    def forward(self, image: torch.Tensor) -> dict[str, Any]:
        y = torch.relu(self.conv(image))
        mask = functional.interpolate(y, size=image.shape[2:])
        return {"relu": mask, "image": self.head(y.mean((2, 3))), "head.bias": y, "more": [y, image]}


def test_any_height_width_and_batch(tmp_path: Path) -> None:
    graph, session = emitted(Segments(), tmp_path, torch.randn(2, 3, 16, 16))
    assert [(one.name, one.shape) for one in session.get_inputs()] == [("image", ["batch", 3, "height", "width"])]
    for shape in ((2, 3, 16, 16), (1, 3, 24, 40), (5, 3, 9, 8)):
        found = session.run(None, {"image": torch.randn(shape).numpy()})
        assert found[0].shape == (shape[0], 4, *shape[2:])
    for shape in ((2, 3, 16, 16), (3, 3, 24, 40)):
        assert_same(graph, session, tmp_path, torch.randn(shape))


def test_outputs_are_named_by_their_keys(tmp_path: Path) -> None:
    _, session = emitted(Segments(), tmp_path, torch.randn(2, 3, 16, 16))
    assert names_of(session.get_outputs()) == ["relu", "image_output", "head.bias_output", "more.0", "more.1"]


class Sides(NamedTuple):
    left: Any
    right: Any


def test_names_of_outputs() -> None:
    x = torch.zeros(1)
    assert output_names(x) == ["output"]
    assert output_names((x, x)) == ["output_0", "output_1"]
    assert output_names({"out": x, "aux": {"a": x}}) == ["out", "aux.a"]
    assert output_names(Sides(x, (x, x))) == ["left", "right.0", "right.1"]
    assert output_names({"out": x}, ["out"]) == ["out_output"]
    assert output_names((x, 3)) is None


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.conv(left).mean((2, 3)), self.conv(right)


def test_two_images_of_sizes_of_their_own(tmp_path: Path) -> None:
    graph, session = emitted(Pair(), tmp_path, torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8))
    assert names_of(session.get_inputs()) == ["left", "right"]
    assert names_of(session.get_outputs()) == ["output_0", "output_1"]
    assert_same(graph, session, tmp_path, torch.randn(3, 3, 12, 9), torch.randn(3, 3, 10, 20))


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 2, 3, padding=1), nn.Linear(128, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.conv(x).flatten(1))
        return y


def test_a_network_of_one_size_is_declined_with_the_reason(tmp_path: Path) -> None:
    graph = fxprune.trace(Flat().eval(), torch.randn(2, 3, 8, 8))
    fxprune.emit(graph, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(
        EmitError, match=r"takes images of 8x8 alone, so their size cannot be free: mat1 and mat2"
    ) as t:
        fxprune.emit(graph, tmp_path, formats=["pt2"], dynamic=True)
    assert "\n" not in str(t.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    graph, session = emitted(Flat(), tmp_path, torch.randn(2, 3, 8, 8), dynamic=False)
    assert session.get_inputs()[0].shape[1:] == [3, 8, 8]
    assert_same(graph, session, tmp_path, torch.randn(3, 3, 8, 8))


def test_a_size_that_the_graph_takes_for_granted_is_declined(tmp_path: Path) -> None:
    class Asks(Pair):
        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            y: torch.Tensor = self.conv(x)
            return y * 2 if x.shape[2] == 8 else y

    graph = fxprune.trace(Asks().eval(), torch.randn(2, 3, 8, 8))
    with pytest.raises(EmitError, match=r"takes images of 8x8 alone, so their size cannot be free: .*traced where"):
        fxprune.emit(graph, tmp_path, formats=["pt2"], dynamic=True)


@pytest.mark.parametrize(("stride", "size", "pooled"), [(1, 10, 2), (32, 64, 7)])
def test_what_torch_writes_for_one_size_alone_is_declined(
    tmp_path: Path, stride: int, size: int, pooled: int
) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride, padding=1), nn.AdaptiveAvgPool2d(pooled), nn.Flatten())
    graph = fxprune.trace(model.eval(), torch.randn(2, 3, size, size))
    fxprune.emit(graph, tmp_path, formats=["pt2"], dynamic=True)
    with pytest.raises(EmitError, match="for ONNX computes something else for images of another size"):
        fxprune.emit(graph, tmp_path, formats=["onnx"], dynamic=True)
    assert not (tmp_path / "model.onnx").exists()
    fxprune.emit(graph, tmp_path, formats=["onnx"])


def test_what_has_no_images_is_declined(tmp_path: Path) -> None:
    graph = fxprune.trace(nn.Linear(4, 4).eval(), torch.randn(2, 4))
    with pytest.raises(EmitError, match="no input is of shape"):
        fxprune.emit(graph, tmp_path, formats=["pt2"], dynamic=True)
    with pytest.raises(EmitError, match="give a format too"):
        fxprune.emit(graph, tmp_path, dynamic=True)
    with pytest.raises(EmitError, match="unknown format 'tflite'"):
        Exports(("tflite",))  # type: ignore[arg-type]
    assert not any(tmp_path.iterdir())


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    graph = fxprune.trace(nn.Linear(4, 4).eval(), torch.randn(2, 4))
    with pytest.raises(EmitError, match=r"ONNX needs onnx; pip install 'fxprune\[onnx\]'"):
        fxprune.emit(graph, tmp_path, formats=["onnx"])
