"""What an emitted forward says: inputs and outputs of every form, constants, functions, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from emit_helpers import rewrite
from helpers import Wrapped, emitted
from torch import fx, nn
from torch.fx._symbolic_trace import PH
from torch.nn import functional

import fxprune
from fxprune.emission.vocabulary import functions
from fxprune.errors import EmitError, LoadError
from fxprune.ir.trace_notes import assumptions_of


def symbolic(function: Callable[..., Any]) -> fx.GraphModule:
    """Trace a function of tensors with torch.fx alone, which does not ask what its inputs are."""
    return fx.symbolic_trace(function)


def test_inputs_may_be_named_like_imports(tmp_path: Path) -> None:
    def shadows(F: Any, operator: Any) -> Any:
        return functional.pad(F, (1, 1))[..., 1:-1] + functional.relu(operator)

    x, y = torch.randn(2, 2, 4).unbind()
    for model in emitted(symbolic(shadows), tmp_path, x, y):
        assert torch.equal(model(F=x, operator=y), model(x, y))
    assert "def forward(self, F, operator):" in (tmp_path / "model.py").read_text()


def test_starred_inputs_and_defaults(tmp_path: Path) -> None:
    graph = symbolic(lambda *parts: parts[0] + parts[1])
    emitted(graph, tmp_path / "starred", torch.randn(2), torch.randn(2))
    graph = symbolic(lambda **parts: parts["a"] * 2)
    for model in emitted(graph, tmp_path / "named"):
        assert model(a=torch.ones(1)) == 2

    def scaled(x: torch.Tensor, scale: float = 0.5) -> torch.Tensor:
        return x * scale

    emitted(symbolic(scaled), tmp_path / "default", torch.randn(2))


def test_inputs_that_are_lists_and_dicts(tmp_path: Path) -> None:
    graph = symbolic(lambda batch, sizes: batch["image"] * sizes[0] + batch.get("shift"))
    emitted(graph, tmp_path, {"image": torch.randn(2), "shift": torch.randn(2)}, [3.0])


class Pair(NamedTuple):
    low: Any
    high: Any


@dataclass
class Result:
    out: Any
    pair: Any


def test_outputs_of_every_form(tmp_path: Path) -> None:
    def function(x: torch.Tensor) -> Any:
        return {0: x + 1, "one": [x * 2, None], (2, 3): (x,)}, Pair(x, x - 1), Result(x * 3, Pair(x, 4))

    x = torch.randn(2)
    for model in emitted(symbolic(function), tmp_path, x):
        outputs, pair, result = model(x)
        assert list(outputs) == [0, "one", (2, 3)]
        assert torch.equal(pair.high, x - 1)
        assert torch.equal(result.out, x * 3)
        assert result.pair.high == 4
    assert 'Pair = namedtuple("Pair", ["low", "high"])' in (tmp_path / "model.py").read_text()


def constants(x: torch.Tensor) -> Any:
    y = (
        x.clamp(min=float("-inf"), max=1e30)
        .to(torch.device("cpu"))
        .to(torch.float64, memory_format=torch.preserve_format)
    )
    y = y[..., None, ::2][:, slice(0, 2)].expand(torch.Size([2, 2, 1, 2]))
    return torch.nan_to_num(y, nan=float("nan")) * complex(1, -2), range(2, 5), 'a "quoted"\n\\text', torch.strided


def test_constants_of_every_kind(tmp_path: Path) -> None:
    x = torch.randn(2, 2, 4)
    for model in emitted(symbolic(constants), tmp_path, x):
        assert model(x)[1:] == constants(x)[1:]


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    wrapped = Wrapped(lambda m, x: m.drop(x), drop=nn.Dropout(numpy.float64(0.25)))
    emitted(fxprune.trace(wrapped.eval(), torch.randn(2)), tmp_path, torch.randn(2))
    assert "nn.Dropout(p=0.25)" in (tmp_path / "model.py").read_text()


def test_sizes_and_checks(tmp_path: Path) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        torch._assert(x.shape[0] == 2, "two rows")
        return x.reshape(x.size(0), -1).type(x.dtype) / x.shape[1]

    emitted(symbolic(function), tmp_path, torch.randn(2, 3))
    with pytest.raises(AssertionError, match="two rows"):
        fxprune.load_emitted(tmp_path)(torch.randn(3, 3))


def test_the_grad_mode_is_switched_readably(tmp_path: Path) -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.call_function(torch._C._set_grad_enabled, (False,))
    y = graph.call_function(torch.mul, (x, 2))
    graph.call_function(torch._C._set_grad_enabled, (True,))
    graph.output(graph.call_function(torch.add, (y, x)))
    for model in emitted(fx.GraphModule(nn.Module(), graph), tmp_path, torch.ones(2)):
        leaf = torch.ones(2, requires_grad=True)
        model(leaf).sum().backward()
        assert leaf.grad is not None
        assert leaf.grad.tolist() == [1, 1]
    assert "        torch.set_grad_enabled(False)\n" in (tmp_path / "model.py").read_text()


def test_functions_of_torchvision_are_known(tmp_path: Path) -> None:
    from torchvision.ops import StochasticDepth

    graph = fx.symbolic_trace(StochasticDepth(0.5, "row").eval())
    emitted(graph, tmp_path, torch.randn(2, 3))
    assert "torchvision.ops.stochastic_depth(input, 0.5" in (tmp_path / "model.py").read_text()


def test_every_function_that_torchvision_keeps_whole_is_known() -> None:
    import torchvision

    root = Path(torchvision.__file__).parent
    known = {(f.__module__, name.rpartition(".")[2]) for name, f in functions().items() if "torchvision" in name}
    wrapped = {
        (".".join(path.relative_to(root.parent).with_suffix("").parts), name)
        for path in root.rglob("*.py")
        for name in re.findall(r'^torch\.fx\.wrap\("(\w+)"\)', path.read_text(), re.MULTILINE)
    }
    assert wrapped
    assert wrapped <= known


def unknown(x: Any) -> Any:
    return x


@dataclass
class Checked:
    out: Any

    def __post_init__(self) -> None:
        self.size = 1


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.untyped_storage(), "untyped_storage: it calls the method untyped_storage"),
        (lambda x: x.type("torch.FloatTensor"), "method type, which is no tensor method that takes a dtype only"),
        (lambda x: x.anything(), "anything: it calls the method anything"),
        (lambda x: x.grad_fn, "it reads the attribute grad_fn, which is not one of"),
        (lambda x: Checked(x), "it makes a .*Checked, which source without that package cannot"),
    ],
)
def test_what_cannot_be_read_back_is_refused_with_the_node(
    tmp_path: Path, function: Callable[..., Any], message: str
) -> None:
    with pytest.raises(EmitError, match=message):
        fxprune.emit(symbolic(function), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", [unknown, torch.load, print])
def test_functions_that_do_more_than_compute_are_refused_with_the_node(tmp_path: Path, target: Any) -> None:
    graph = fx.Graph()
    graph.output(graph.create_node("call_function", target, (graph.placeholder("x"),), name="the_call"))
    with pytest.raises(EmitError, match=rf"the_call: it calls .*{target.__name__}, which is no function of torch"):
        fxprune.emit(fx.GraphModule(nn.Module(), graph), tmp_path / "out")


def test_constants_without_source_are_refused_with_the_node(tmp_path: Path) -> None:
    graph = symbolic(lambda x: x.mul(2))
    node = next(node for node in graph.graph.nodes if node.op == "call_method")
    node.args = (node.args[0], Pair)
    with pytest.raises(EmitError, match=r"mul: the constant .*Pair.* of type type cannot be written"):
        fxprune.emit(graph, tmp_path / "out")


def test_pytree_inputs_are_refused(tmp_path: Path) -> None:
    class Nested(nn.Module):
        def forward(self, batch: Any) -> Any:
            return batch["a"] + batch["b"]

    graph = fx.symbolic_trace(Nested(), concrete_args={"batch": {"a": PH, "b": PH}})
    with pytest.raises(EmitError, match="takes nested inputs apart"):
        fxprune.emit(graph, tmp_path / "out")


def test_a_graph_file_may_not_read_what_is_no_tensor(tmp_path: Path) -> None:
    wrapped = Wrapped(lambda m, x: m.layer.weight * x, layer=nn.Linear(4, 4))
    fxprune.emit(fxprune.trace(wrapped.eval(), torch.randn(4, 4)), tmp_path)

    def change(data: dict[str, Any]) -> None:
        next(entry for entry in data["nodes"] if entry["op"] == "get_attr")["target"] = "forward"

    rewrite(tmp_path, change)
    with pytest.raises(LoadError, match="reads 'forward', which is no tensor"):
        fxprune.load_emitted(tmp_path)


class Awkward(nn.Module):
    """Branches on a size, computes without gradients, fills a tensor, takes a dict and returns one with numbers."""

    def forward(self, batch: dict[str, Any], scale: float, *rest: torch.Tensor) -> dict[Any, Any]:
        x = batch["image"]
        y = x * 2 if x.shape[-1] % 2 == 0 else x * 3
        with torch.no_grad():
            limit = torch.finfo(y.dtype).max / 2
        y = y.clamp(max=limit) + rest[0]
        return {0: y * scale, "sizes": (max(y.shape[0], 1), y.shape[-1])}


def test_what_the_front_end_records_is_written_and_read_back(tmp_path: Path) -> None:
    inputs = ({"image": torch.randn(2, 4)}, 0.5, torch.randn(2, 4))
    graph = fxprune.trace(Awkward().eval(), inputs)
    assert assumptions_of(graph)
    for model in emitted(graph, tmp_path, {"image": torch.randn(2, 6)}, 0.5, torch.randn(2, 6)):
        with pytest.raises(AssertionError, match="these inputs differ"):
            model({"image": torch.randn(2, 5)}, 0.5, torch.randn(2, 5))
    again = fxprune.load_emitted(tmp_path)
    assert assumptions_of(again) == assumptions_of(graph)
    fxprune.emit(again, tmp_path / "again")


class Told(nn.Module):
    """A block with an assertion that says which it is."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.conv, self.name = nn.Conv2d(4, 4, 3, padding=1), name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch._assert(x.shape[1] == 4, f"the block, {self.name}, takes four channels, and no others, of any image")
        return torch.relu(self.conv(x))


class Tellers(nn.Module):
    """Such blocks in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Told(f"{name}, of all") for name in ("first", "second", "third", "fourth")))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.blocks(x)
        return y


def test_texts_with_commas_that_differ_between_blocks_stay_whole(tmp_path: Path) -> None:
    x = torch.randn(2, 4, 8, 8)
    for model in emitted(fxprune.trace(Tellers().eval(), x), tmp_path, x):
        assert model(x).shape == x.shape
    assert "for message in (" in (tmp_path / "model.py").read_text()


class Parted(nn.Module):
    """A block that leaves a part of its channels as it is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, rest = torch.split(x, [4, 12], dim=1)
        second, last = rest.split((4, 8), 1)  # type: ignore[no-untyped-call]
        y: torch.Tensor = first + second + last[:, :4]
        return y


def test_parts_of_written_sizes_are_not_counted(tmp_path: Path) -> None:
    traced = fxprune.trace(Parted().eval(), torch.randn(2, 16, 8, 8))
    assert not [node for node in traced.graph.nodes if node.target is torch._assert]
