"""What most tests need: random models in float64, and a check that a pass did what it says."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import fx, nn

import fxprune
from fxprune import passes
from fxprune.gates.resconv import ResConv
from fxprune.ir.nodes import called_module, graphs_of, origins
from fxprune.ir.pytrees import tensors_in
from fxprune.rewriting.contract import Contract, Pass, PassResult
from fxprune.rewriting.verify import difference

_Model = TypeVar("_Model", bound=nn.Module)


def resconvs(graph_module: fx.GraphModule) -> list[tuple[fx.Node, ResConv]]:
    """Return the nodes that call a ResConv which can be removed, with the modules, in graph order."""
    calls = ((node, called_module(node)) for node in graph_module.graph.nodes)
    return [(node, module) for node, module in calls if isinstance(module, ResConv) and module.removable]


def randomize(model: _Model, seed: int = 0) -> _Model:
    """Give every norm of ``model`` random statistics and weights; return it in float64 and eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            for name, low, high in (
                ("weight", 0.5, 1.5),
                ("bias", -0.5, 0.5),
                ("running_mean", -0.5, 0.5),
                ("running_var", 0.5, 2.0),
            ):
                tensor = getattr(module, name)
                if tensor is not None:
                    tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return model.double().eval()


def traced(model: nn.Module, *inputs: torch.Tensor) -> fx.GraphModule:
    """Randomize and trace ``model`` in float64."""
    return fxprune.trace(randomize(model), tuple(x.double() for x in inputs))


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of the state dict."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_state_equal(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Assert that ``model`` still holds exactly ``state``."""
    assert list(model.state_dict()) == list(state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def assert_rewrites(graph: fx.GraphModule, one: Pass, *, count: int, tolerance: float = 1e-12) -> PassResult:
    """Apply ``one`` and assert all that holds for every pass.

    It rewrites ``count`` sites; its input stays as it was; equal values if it promises them; every node keeps an
    origin; the diff accounts for every node; applied to its own result it does nothing more, and the diff is empty.
    """
    code, state = graph.code, state_of(graph)
    result = one(graph)
    assert len(result.rewritten) == count, [str(site) for site in (*result.rewritten, *result.declined)]
    assert result.modified == (count > 0)
    assert (result.graph_module is graph) == (count == 0)
    assert graph.code == code
    assert_state_equal(graph, state)
    assert all(origins(node) for node in result.graph_module.graph.nodes)
    result.graph_module.graph.lint()
    if one.contract is Contract.VALUES:
        found = fxprune.verify(graph, result.graph_module, graph.meta["fxprune_example_inputs"], tolerance=tolerance)
        assert found.equal, str(found)
    again = one(result.graph_module)
    assert not again.modified, [str(site) for site in again.rewritten]
    assert_accounts(graph, result.graph_module, fxprune.diff(graph, result.graph_module, results=[result]))
    assert not fxprune.diff(result.graph_module, copy.deepcopy(again.graph_module), results=[again]).differs
    return result


def assert_accounts(before: fx.GraphModule, after: fx.GraphModule, found: fxprune.GraphDiff) -> None:
    """Assert that every node of both graphs, and of the regions in them, is in exactly one entry of their diff."""
    sides = {"before": before, "after": after}
    told: dict[str, list[str]] = {"before": [], "after": []}
    for change in found.changes:
        told["before"] += [node.name for node in change.before]
        told["after"] += [change.after.name] if change.after else []
        if change.kind == "unchanged":
            assert change.what == ()
            assert change.macs[0] == change.macs[1]
    for side, graph_module in sides.items():
        names = [f"{path}.{n.name}" if path else n.name for path, g in graphs_of(graph_module) for n in g.graph.nodes]
        assert sorted(told[side]) == sorted(names), side
    assert told["after"] == names  # in graph order
    assert (found.before.nodes, found.after.nodes) == (len(told["before"]), len(told["after"]))


def with_scales(graph: fx.GraphModule, *scales: tuple[float, float]) -> fx.GraphModule:
    """Insert ResConvs and assign (scale, shortcut) in graph order, the last pair to all that are left."""
    sparse = passes.InsertResConv()(graph).graph_module
    for index, (_, layer) in enumerate(resconvs(sparse)):
        scale, shortcut = scales[min(index, len(scales) - 1)]
        layer.assign(scale=scale, shortcut=shortcut)
    return sparse


def targets(graph: fx.GraphModule) -> list[str]:
    """Return what the graph calls, in order: module class names, function and method names."""
    found = []
    for node in graph.graph.nodes:
        if node.op == "call_module":
            found.append(type(graph.get_submodule(node.target)).__name__)
        elif node.op in ("call_function", "call_method"):
            found.append(str(getattr(node.target, "__name__", node.target)))
    return found


def example(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return normal random numbers in float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def load_source(folder: Path) -> Any:
    """Return what load() of the folder's model.py gives."""
    spec = importlib.util.spec_from_file_location("emitted_model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load()


def emitted(graph: fx.GraphModule, folder: Path, *inputs: Any) -> tuple[Any, Any]:
    """Emit ``graph``; return the model of model.py and the graph read back, both equal to it on ``inputs``."""
    fxprune.emit(graph, folder)
    models = (load_source(folder), fxprune.load_emitted(folder))
    for model in models if inputs else ():
        expected, found = tensors_in(graph(*inputs)), tensors_in(model(*inputs))
        assert [t.dtype for t in found] == [t.dtype for t in expected]
        assert difference(expected, found) == (0, 0)
    return models


class Block(nn.Module):
    """A basic residual block, with in-place ReLUs as torchvision writes them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x
        z: torch.Tensor = self.relu(y)
        return z


class Wrapped(nn.Module):
    """A function of the module and x as a module, with some layers."""

    def __init__(self, function: Callable[[Any, torch.Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)  # type: ignore[no-any-return]


class TinyNet(nn.Module):
    """A stem, two residual blocks, a classifier: 4 removable convs."""

    def __init__(self, channels: int = 6, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )
        self.block1 = Block(channels)
        self.block2 = Block(channels)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block2(self.block1(self.stem(x)))
        y: torch.Tensor = self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))
        return y


def tiny() -> fx.GraphModule:
    """Return TinyNet traced in float64 on two images of 8 x 8."""
    torch.manual_seed(0)
    return traced(TinyNet(), example(2, 3, 8, 8))


def module_at(graph: fx.GraphModule, path: str) -> Any:
    """Return a submodule, untyped."""
    return graph.get_submodule(path)


def quiet(message: str) -> None:
    """Take what a run says; it must say something."""
    assert message
