"""An autograd.Function of the user's own is one layer of the graph, with its own backward."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from tracing_helpers import Sign, conv, images, opaque

import fxprune
from fxprune import passes
from fxprune.errors import EmitError
from fxprune.ir.applied import Applied
from fxprune.ir.trace_notes import opaque_modules, tier_of

Function = torch.autograd.Function


class Scaled(Function):
    """Takes more than tensors, and saves in a method of its own."""

    @staticmethod
    def forward(x: torch.Tensor, factor: float) -> torch.Tensor:
        return x * factor

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.shape, ctx.factor = inputs[0].shape, inputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0].reshape(ctx.shape) * ctx.factor * 3, None


class Derived(Sign):
    """Has a forward by inheritance, and another backward."""

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0] * 2


class Halves(Function):
    """Returns two tensors."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * 0.5, x * 0.25

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0] - gradients[1]


class ByNumPy(Function):
    """Fake tensors have no values for NumPy."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(x.detach().numpy() * 2)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0] * 2


class Overwrites(Function):
    """Changes its input."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0] * 2


class Calls(Function):
    """Takes a function."""

    @staticmethod
    def forward(ctx: Any, function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return function(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, gradients[0]


sign_at_import: Any = Sign.apply


class Net(nn.Module):
    """Convs around what ``use`` does."""

    def __init__(self, use: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.first, self.use, self.last = conv(), use, conv()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.use(self, self.first(x)))  # type: ignore[no-any-return]


def by_size(m: Any, x: Any) -> Any:
    """Go on by the size of what a function returned, as TensorFlow's padding does."""
    y = Sign.apply(x)
    return functional.pad(y, (1, 1)) if y.shape[-1] % 2 == 0 else y


def without_gradient(m: Any, x: Any) -> Any:
    with torch.no_grad():
        y = Derived.apply(x)
    return Sign.apply(x) + y


USES: dict[str, Callable[[Any, Any], Any]] = {
    "apply": lambda m, x: Sign.apply(x),
    "imported apply": lambda m, x: sign_at_import(x) * 2,
    "with setup_context": lambda m, x: Scaled.apply(x, 0.5),
    "by keyword": lambda m, x: Scaled.apply(x, factor=0.5),
    "inherited": lambda m, x: Derived.apply(x) + Sign.apply(x),
    "two outputs": lambda m, x: torch.cat(Halves.apply(x), 1)[:, ::2],
    "unpacked": lambda m, x: (lambda a, b: a - b)(*Halves.apply(x)),
    "NumPy": lambda m, x: ByNumPy.apply(x),
    "of a weight": lambda m, x: x * Sign.apply(m.last.weight).mean(),
    "by size": by_size,
    "without gradient": without_gradient,
}


def gradients(model: nn.Module) -> list[torch.Tensor]:
    own = copy.deepcopy(model)
    x = images(1).requires_grad_()
    own(x).square().sum().backward()
    assert x.grad is not None
    return [x.grad, *(p.grad for p in own.parameters() if p.grad is not None)]


@pytest.mark.parametrize("use", USES)
def test_values_and_gradients_are_the_models(use: str) -> None:
    model = Net(USES[use])
    graph = fxprune.trace(model, images())
    assert opaque(graph) == []
    assert any(isinstance(module, Applied) for module in graph.modules())
    result = fxprune.Pipeline([passes.InsertResConv(), passes.FuseResConv(), passes.Simplify()])(graph)
    for stage, tensors in ((graph, None), (result.graph_module, 1)):  # whose weights may be others
        torch.testing.assert_close(stage(images(1)), model(images(1)))
        for found, expected in zip(gradients(stage)[:tensors], gradients(model)[:tensors], strict=True):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("reentrant", [False, True])
def test_what_is_computed_again_for_the_backward_is_in_the_graph(reentrant: bool) -> None:
    model = Net(lambda m, x: checkpoint(lambda y: torch.relu(m.last(y)), x, use_reentrant=reentrant))
    graph = fxprune.trace(model, images())
    assert opaque(graph) == []
    for found, expected in zip(gradients(graph), gradients(model), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_classes_work_as_before() -> None:
    for use in USES.values():
        fxprune.trace(Net(use), images())
    x = images().requires_grad_()
    Scaled.apply(x, 0.5).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.full_like(x, 1.5))
    assert "forward" not in vars(Derived)


def test_a_branch_around_one_is_removed() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = conv(), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.norm(self.conv(by_size(self, x))[..., 1:-1])  # type: ignore[no-any-return]

    graph = fxprune.trace(nn.Sequential(conv(), Block()).eval(), images())
    assert tier_of(graph) == "values"
    inserted = passes.InsertBranchScale()(graph)
    assert len(inserted.rewritten) == 1
    with pytest.warns(fxprune.FxpruneWarning, match="1 op unknown: sign"):
        removed = passes.RemoveLayers(target_macs=0.6)(inserted.graph_module).graph_module
    assert not any(isinstance(module, Applied) for module in removed.modules())


def test_names_are_free() -> None:
    class Sign(Function):
        """Another one of that name; made here, so that tracing sees it too."""

        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return -x.sign()

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
            return gradients[0]

    both: Callable[[Any, Any], Any] = lambda m, x: Sign.apply(x) * 2 + sign_at_import(x)  # noqa: E731
    model = Net(both)
    model.Sign = nn.Identity()
    graph = fxprune.trace(model, images())
    torch.testing.assert_close(graph(images(1)), model(images(1)))
    assert sum(isinstance(module, Applied) for module in graph.modules()) == 2


@pytest.mark.parametrize("stripped", [False, True])
def test_it_is_saved(stripped: bool, tmp_path: Path) -> None:
    model = Net(USES["with setup_context"]).eval()
    graph = fxprune.trace(model, images())
    file = io.BytesIO()
    torch.save(fxprune.strip(graph) if stripped else graph, file)
    assert (b"fxprune" in file.getvalue()) is not stripped
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for found, expected in zip(gradients(loaded), gradients(model), strict=True):
        torch.testing.assert_close(found, expected)
    with pytest.raises(EmitError, match=r"Scaled applies the autograd.Function Scaled, which source cannot hold"):
        fxprune.emit(graph, tmp_path)


REFUSED: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "it writes": (lambda m, x: Overwrites.apply(x * 1), "writes into its arguments"),
    "it takes functions": (lambda m, x: Calls.apply(torch.relu, x), "what a graph cannot hold"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_graph_cannot_hold_is_opaque(case: str) -> None:
    use, reason = REFUSED[case]
    model = nn.Sequential(conv(), Around(use), conv())
    graph: fx.GraphModule = fxprune.trace(model, images())
    (one,) = opaque_modules(graph)
    assert one.path == "1"
    assert reason in one.reason
    torch.testing.assert_close(graph(images(1)), model(images(1)))


class Around(nn.Module):
    """Calls ``use``."""

    def __init__(self, use: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.use = use

    def forward(self, x: torch.Tensor) -> Any:
        return self.use(self, x)
