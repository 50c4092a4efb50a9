"""ReLUs and sums of emitted source overwrite what nobody else reads, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Wrapped, emitted, tiny
from torch import nn
from torch.nn import functional

import fxprune
from fxprune.sources.exported import load_exported


def source_of(model: nn.Module, folder: Path) -> str:
    """Emit ``model``, which must compute the same then, and return its source."""
    x = torch.randn(2, 3, 8, 8)
    emitted(fxprune.trace(model.eval(), x), folder, x)
    return (folder / "model.py").read_text()


@dataclass
class Flagged:
    value: Any
    inplace: bool


def conv() -> nn.Module:
    return nn.Conv2d(3, 3, 3, padding=1)


def test_a_layer_with_several_safe_sites(tmp_path: Path) -> None:
    graph = tiny()
    source_model, read_back = emitted(graph, tmp_path)
    text = (tmp_path / "model.py").read_text()
    assert text.count("nn.ReLU(inplace=True)") == 2  # of the stem and of the blocks, as the traced model had them
    assert not any(m.inplace for m in read_back.modules() if isinstance(m, nn.ReLU))  # for passes: a functional graph
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    gradients = []
    for model in (source_model.train(), read_back.train()):
        model(x).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_functions(tmp_path: Path) -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.conv(x))
        return functional.relu6(y + x)

    text = source_of(Wrapped(forward, conv=conv()), tmp_path)
    assert text.count("F.relu") == text.count("inplace=True") == 2


def test_a_residual_block_holds_two_tensors_at_a_time(tmp_path: Path) -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.conv(x))
        x = functional.relu(x + self.conv(x))
        return functional.relu(self.conv(x) + x)

    text = source_of(Wrapped(forward, conv=conv()), tmp_path)
    block = """        y = self.conv(x)
        y += x
        {} F.relu(y, inplace=True)
"""
    assert (
        block.format("x =") + block.format("return") in text
    )  # the memory of the old x is free before the next conv runs
    model = Wrapped(forward, conv=conv()).double()
    graph = fxprune.trace(model.eval(), torch.randn(2, 3, 8, 8).double())
    source_model, _ = emitted(graph, tmp_path / "float64", torch.randn(2, 3, 8, 8).double())
    given = torch.randn(2, 3, 8, 8).double().requires_grad_()
    ours, theirs = (torch.autograd.grad(one(given).square().sum(), given)[0] for one in (source_model, model))
    assert torch.allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize(
    "addition",
    [
        lambda conv, x: torch.relu(conv(x)) + torch.relu(conv(x)),  # a ReLU keeps its output for its gradient
        lambda conv, x: conv(x) + x,  # under autocast, x may be wider than what the conv makes
        lambda conv, x: conv(x) + torch.softmax(conv(x), 1),
        lambda conv, x: conv(conv(x)) + functional.pad(conv(conv(x)), (1, 1, 0, 0), "replicate")[:, :, :, 1:-1],
        lambda conv, x: conv(x) + conv(x).mean(1, keepdim=True),  # spreads
        lambda conv, x: conv(x[:, :, :2, :2]) + conv(x[:, :, 2:4, 2:4]),  # with other sizes one may spread
        lambda conv, x: conv(x[:, :, ::2, ::2]) + conv(x[:, :, :4, :4]),
        lambda conv, x: conv(x)[:, ::3] + conv(x)[:, :1],  # views
        lambda conv, x: torch.relu(conv(x)) + conv(x.permute(0, 1, 3, 2)),  # another layout
        lambda conv, x: functional.max_pool2d(conv(x), 2) + conv(x[:, :, :4, :4]),
        lambda conv, x: conv(conv(x)) + conv(x) * conv(x).mean(),
        lambda conv, x: conv(conv(x)) + functional.adaptive_avg_pool2d(conv(x[:, :, :1, :1]), 1) * conv(x),
        lambda conv, x: (lambda y: y + y)(conv(x)),
        lambda conv, x: torch.add(torch.relu(conv(x)), conv(x), alpha=2),
    ],
)
def test_sums_that_need_memory_of_their_own(addition: Any, tmp_path: Path) -> None:
    model = Wrapped(lambda self, x: addition(self.conv, x), conv=conv())
    assert " += " not in source_of(model, tmp_path)


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        ({"kernel_size": 3, "padding": 1}, {"kernel_size": 1}, True),
        ({"kernel_size": 3, "padding": "same"}, {"kernel_size": 3, "padding": 2, "dilation": 2}, True),
        ({"kernel_size": 3, "padding": 1, "stride": 2}, {"kernel_size": 1, "stride": 2, "padding": "valid"}, True),
        ({"kernel_size": 3, "padding": 1, "stride": 2}, {"kernel_size": 2, "stride": 2}, False),  # but for 8 x 8
    ],
)
def test_shapes_that_are_equal_whatever_the_image(left: Any, right: Any, equal: bool, tmp_path: Path) -> None:
    model = Wrapped(
        lambda self, x: self.left(x) + self.right(x), left=nn.Conv2d(3, 4, **left), right=nn.Conv2d(3, 4, **right)
    )
    x = torch.randn(1, 3, 8, 8)
    source_model, _ = emitted(fxprune.trace(model.eval(), x), tmp_path, x)
    assert (" += " in (tmp_path / "model.py").read_text()) == equal
    for side in (3, 5, 6) if equal else (3,):  # where they differ, one has a single position, and spreads
        other = torch.randn(5, 3, side, side)
        assert torch.equal(source_model(other), model(other))


def test_inputs_of_several_batch_sizes(tmp_path: Path) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return self.layer(a) + self.layer(b)  # type: ignore[no-any-return]

    model = Pair().eval()
    a, b = torch.randn(5, 4), torch.randn(1, 4)
    source_model, _ = emitted(fxprune.trace(model, (a, a)), tmp_path, a, a)
    assert torch.equal(source_model(b, a), model(b, a))


def test_a_block_that_shrinks_and_pads_its_shortcut(tmp_path: Path) -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.conv(x) + functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2))  # type: ignore[no-any-return]

    model = Wrapped(forward, stem=conv(), conv=nn.Conv2d(3, 6, 3, stride=2, padding=1))
    assert " += " in source_of(model, tmp_path)


def test_a_gated_block(tmp_path: Path) -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        y = functional.silu(self.conv(x))
        y = torch.sigmoid(self.gate(functional.adaptive_avg_pool2d(y, 1))) * y
        return self.conv(y) + x  # type: ignore[no-any-return]

    model = Wrapped(forward, conv=conv(), gate=nn.Conv2d(3, 3, 1))
    assert " += " in source_of(model, tmp_path)
    x = torch.randn(2, 3, 8, 8)
    source_model, graph = emitted(fxprune.trace(model, x), tmp_path / "again")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(source_model(x), graph(x))
    assert torch.equal(source_model(x[:, :, :1, :1]), graph(x[:, :, :1, :1]))


def test_a_sum_has_the_dtype_that_it_had_under_autocast(tmp_path: Path) -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(functional.relu(self.norm(self.conv(x))))
        return self.norm(self.conv(x)) + x[:, :]  # type: ignore[no-any-return]

    model = Wrapped(forward, conv=conv(), norm=nn.BatchNorm2d(3), pool=nn.MaxPool2d(3, 2, padding=1))
    assert " += " in source_of(model, tmp_path)
    x = torch.randn(2, 3, 8, 8)
    graph = fxprune.trace(model, x)
    source_model, _ = emitted(graph, tmp_path / "again", x)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = source_model(x), graph(x)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "make",
    [
        nn.Conv2d(3, 3, 1),
        nn.ConvTranspose2d(3, 3, 1),
        nn.BatchNorm2d(3),
        nn.Linear(8, 8),
        lambda x: functional.linear(x, torch.eye(8)),
        lambda x: functional.conv2d(x, torch.ones(3, 3, 1, 1)),
        lambda x: functional.batch_norm(x, torch.zeros(3), torch.ones(3)),
        lambda x: torch.add(x, 1),
    ],
)
def test_what_makes_new_memory(make: Any, tmp_path: Path) -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(make(x) if not isinstance(make, nn.Module) else self.layer(x))

    model = Wrapped(forward, layer=make if isinstance(make, nn.Module) else nn.Identity()).eval()
    x, given = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8).requires_grad_()
    source_model, _ = emitted(fxprune.trace(model, x), tmp_path, x)
    assert "inplace=True" in (tmp_path / "model.py").read_text()
    gradients = [torch.autograd.grad(one(given).square().sum(), given)[0] for one in (model, source_model)]
    assert torch.equal(*gradients)


def test_without_gradient_nothing_is_overwritten(tmp_path: Path) -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        with torch.no_grad():
            z = functional.relu(y)
        return z + self.other(x)  # type: ignore[no-any-return]

    x = torch.randn(2, 3, 8, 8)
    model, _ = emitted(fxprune.trace(Wrapped(forward, conv=conv(), other=conv()), x), tmp_path)
    model(x).sum().backward()
    assert model.conv.weight.grad is None


def test_a_buffer_is_not_overwritten(tmp_path: Path) -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(torch.add(self.total, x, out=self.total))

    model = Wrapped(forward)
    model.register_buffer("total", torch.zeros(4))
    source_model, _ = emitted(fxprune.trace(model.eval(), torch.randn(4)), tmp_path)
    for x in (torch.tensor([-1.0, 2, -3, 4]), torch.tensor([-2.0, 1, 4, -9])):
        assert torch.equal(source_model(x), model(x))


def test_only_functions_of_torch_have_a_default_to_leave_out(tmp_path: Path) -> None:
    x = torch.randn(2, 3)

    def forward(self: Any, x: torch.Tensor) -> Any:
        return Flagged(value=x + 1, inplace=False)

    model, _ = emitted(fxprune.trace(Wrapped(forward), x), tmp_path)
    assert model(x).inplace is False


def test_exported_files_are_functional(tmp_path: Path) -> None:
    graph = fxprune.trace(
        Wrapped(lambda self, x: functional.relu(self.conv(x)), conv=conv()), torch.randn(2, 3, 8, 8)
    )
    fxprune.emit(graph, tmp_path, formats=["pt2"])
    assert "inplace=True" in (tmp_path / "model.py").read_text()
    read = load_exported(tmp_path / "model.pt2", trust=True)
    assert [node.name for node in read.graph.nodes if "relu" in node.name] == ["relu"]


def test_what_others_read_or_own_is_not_overwritten(tmp_path: Path) -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        before = self.conv(x)
        shared = functional.relu(before) + before  # read again
        given = functional.relu(x)  # an input
        view = functional.relu(self.conv(shared).flatten(1))  # not for certain new memory
        kept = functional.relu(torch.sigmoid(self.conv(given)))  # sigmoid keeps its output for its gradient
        total: torch.Tensor = shared + given + view.view_as(kept) + kept
        return total

    text = source_of(Wrapped(forward, conv=conv()), tmp_path)
    assert text.count("F.relu(") == 4
    assert "inplace" not in text


def test_a_layer_with_one_unsafe_site(tmp_path: Path) -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.conv(x)) + self.relu(x)  # type: ignore[no-any-return]

    model = Wrapped(forward, conv=conv(), relu=nn.ReLU())
    assert "nn.ReLU()" in source_of(model, tmp_path)


def test_what_is_dead_gives_its_memory_back_before_as_much_is_needed(tmp_path: Path) -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = torch.sigmoid(self.conv(x)) * torch.tanh(self.conv(x))
        return self.conv(torch.exp(y))  # type: ignore[no-any-return]

    text = source_of(Wrapped(forward, conv=conv()), tmp_path)
    assert (
        """        y = y * x
        del x
        y = torch.exp(y)
        return self.conv(y)
"""
        in text
    )
    assert text.count("  del ") == 1
