"""Emitted source has a class for the blocks of one structure, and says nothing twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from emit_helpers import rewrite
from helpers import Wrapped, emitted
from torch import nn
from torch.nn import functional

import fxprune
from fxprune import passes
from fxprune.pipelines.chains import AFTER_TRAINING
from fxprune.structures.gated_layers import layers


def source_of(model: nn.Module, folder: Path, *inputs: torch.Tensor) -> str:
    """Emit ``model``, which must compute the same then, and return its source, without what loads it."""
    emitted(fxprune.trace(model.eval(), inputs), folder, *inputs)
    return text_of(folder)


def text_of(folder: Path) -> str:
    return (folder / "model.py").read_text().partition("\n\n\ndef load(")[0]


class Block(nn.Module):
    def __init__(self, channels: int, stride: int = 1, power: float = 2.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels * stride, 3, stride=stride, padding=1)
        self.power = power

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.conv(x)).abs() ** self.power


def test_what_differs_between_blocks_is_an_argument(tmp_path: Path) -> None:
    model = nn.Sequential(Block(3), Block(3, 2), Block(6, power=3.0))
    text = source_of(model, tmp_path, torch.randn(1, 3, 8, 8))
    assert (
        """class Block(nn.Module):
    \"\"\"0, 1, 2.\"\"\"

    def __init__(self, in_channels, out_channels, stride=1, exponent=2.0):
        super().__init__()
        self.exponent = exponent
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)

    def forward(self, x):
        x = self.conv(x)
        x = torch.tanh(x)
        x = x.abs()
        return x ** self.exponent
"""
        in text
    )


def test_blocks_of_one_class_may_have_several_structures(tmp_path: Path) -> None:
    model = nn.Sequential(Block(3), Block(3), Block(3), Block(3))
    graph = fxprune.trace(model.eval(), torch.randn(1, 3, 8, 8))
    for node in list(graph.graph.nodes)[-3:-1]:  # of the last block
        node.replace_all_uses_with(node.args[0])
        graph.graph.erase_node(node)
    graph.graph.find_nodes(op="call_function", target=torch.tanh)[1].target = torch.sin
    graph.recompile()
    emitted(graph, tmp_path, torch.randn(1, 3, 8, 8))
    text = text_of(tmp_path)
    assert text.count("class Block") == 2
    assert text.count("Block2(") == 2
    again = fxprune.load_emitted(tmp_path)
    fxprune.emit(again, tmp_path / "again")
    assert text_of(tmp_path / "again").count("class Block") == 2  # under the names that the file tells


def test_a_module_whose_nodes_lie_apart_is_no_block(tmp_path: Path) -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.block.conv(x)
        return self.block(self.other(y) + x) + self.block.conv(y)  # type: ignore[no-any-return]

    text = source_of(Wrapped(forward, block=Block(3), other=Block(3)), tmp_path, torch.randn(1, 3, 8, 8))
    assert "self.block.conv(" in text
    assert "= self.block(" not in text


def test_a_layer_that_two_blocks_share(tmp_path: Path) -> None:
    first, second = Block(3), Block(3)
    second.conv = first.conv
    model = nn.Sequential(first, nn.ReLU(), second)
    graph = fxprune.trace(model.eval(), torch.randn(1, 3, 8, 8))
    for found in emitted(graph, tmp_path, torch.randn(1, 3, 8, 8)):
        assert len(list(found.parameters())) == 2


def test_a_weight_that_is_read_from_another_block(tmp_path: Path) -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.layers(x)
        return functional.linear(y, self.layers[0].weight)

    model = Wrapped(forward, layers=nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)))
    text = source_of(model, tmp_path, torch.randn(2, 4))
    assert 'self.get_submodule("layers.0").weight' in text


class Recast(nn.Module):
    """Enters an autocast that the next one leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Block(3), Block(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            x = self.first(x)
        y: torch.Tensor = self.second(x.float())
        return y


def test_blocks_under_autocast(tmp_path: Path) -> None:
    text = source_of(Recast(), tmp_path, torch.randn(1, 3, 8, 8))
    assert "            x = self.first(x)\n" in text
    assert "        x = x.float()\n        return self.second(x)" in text


class ByMode(nn.Module):
    """Adds noise in train mode only, inside one block, and calls another in train mode alone."""

    def __init__(self) -> None:
        super().__init__()
        self.noisy, self.plain, self.extra = Noisy(), Block(3), Block(3)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.plain(self.noisy(x))
        return (x, self.extra(x)) if self.training else x


class Noisy(Block):
    def __init__(self) -> None:
        super().__init__(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return torch.tanh(x * 2 if self.training else x)


def test_blocks_that_differ_between_the_modes_are_none(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 8, 8)
    model = ByMode().eval()
    found, _ = emitted(fxprune.trace(model, x), tmp_path, x)
    text = text_of(tmp_path)
    assert text.count("self.plain(x)") == 2
    assert text.count("self.extra(") == 1
    assert "self.noisy(" not in text
    expected = model.train()(x)
    assert all(torch.equal(a, b) for a, b in zip(found.train()(x), expected, strict=True))


class Dense(nn.Module):
    def __init__(self, layers: int, growth: int = 2) -> None:
        super().__init__()
        for index in range(layers):
            setattr(self, f"layer{index + 1}", Joined(3 + growth * index, growth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [x]
        for layer in self.children():
            parts.append(layer(parts))
        return torch.cat(parts, 1)


class Joined(nn.Module):
    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(channels, growth, 1), nn.ReLU()

    def forward(self, parts: list[torch.Tensor]) -> torch.Tensor:
        y: torch.Tensor = self.relu(self.conv(torch.cat(parts, 1)))
        return y


def test_a_list_that_grows_is_a_loop(tmp_path: Path) -> None:
    text = source_of(nn.Sequential(Dense(3), nn.Conv2d(9, 3, 1), Dense(5)), tmp_path, torch.randn(1, 3, 8, 8))
    assert "        for i, in_channels in enumerate(channels, 1):\n" in text
    assert "            features.append(layer(features))\n        return torch.cat(features, 1)\n" in text
    assert "Dense(range(3, 9, 2))" in text
    assert "Dense(range(3, 13, 2))" in text


def test_a_list_that_grows_otherwise_is_written_out(tmp_path: Path) -> None:
    class Reversed(Dense):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            parts = [x]
            for layer in self.children():
                parts.append(layer(parts))
            return torch.cat(parts[::-1], 1)

    assert "append" not in source_of(Reversed(3), tmp_path, torch.randn(1, 3, 8, 8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_training_found_is_in_the_weights_file(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)

    def forward(self: Any, x: torch.Tensor) -> Any:
        return self.norm(x + torch.sigmoid(self.conv(x)) * 0.5)

    model: Any = Wrapped(forward, conv=nn.Conv2d(3, 3, 1), norm=nn.InstanceNorm2d(3)).to(dtype)
    x = torch.randn(2, 3, 8, 8, dtype=dtype)
    sparse = passes.InsertBranchScale()(fxprune.trace(model.eval(), x)).graph_module
    for layer in layers(sparse):
        gate: Any = layer.module
        gate.assign(scale=4.3397)
    graph = fxprune.Pipeline(AFTER_TRAINING)(sparse).graph_module
    found, _ = emitted(graph, tmp_path, x)
    text = text_of(tmp_path)
    assert "* self.scale" in text
    assert "2.1" not in text
    assert "4.3" not in text
    assert found.scale.dtype == dtype
    again = fxprune.load_emitted(tmp_path)
    assert again.state_dict().keys() == graph.state_dict().keys()  # passes see the number


def test_folders_of_before_are_read(tmp_path: Path) -> None:
    x = torch.randn(1, 3, 8, 8)
    graph = fxprune.trace(nn.Sequential(Block(3), Block(3)).eval(), x)
    fxprune.emit(graph, tmp_path)

    def change(data: dict[str, Any]) -> None:
        del data["classes"], data["scales"]

    rewrite(tmp_path, change)
    again = fxprune.load_emitted(tmp_path)
    assert torch.equal(again(x), graph(x))
    emitted(again, tmp_path / "again", x)


@pytest.mark.parametrize("name", ["print(1)", "class", "__x", "nn", "Model", "list"])
def test_names_of_classes_cannot_be_code(name: str, tmp_path: Path) -> None:
    x = torch.randn(1, 3, 8, 8)
    fxprune.emit(fxprune.trace(nn.Sequential(Block(3), Block(3), Block(3)).eval(), x), tmp_path)
    rewrite(tmp_path, lambda data: data.update(classes={"0": name, "1": name}))
    emitted(fxprune.load_emitted(tmp_path), tmp_path / "again", x)
    assert f"class {name}(" not in text_of(tmp_path / "again").replace("class Model(", "")


def test_defaults_are_not_written(tmp_path: Path) -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        x = functional.pad(self.pool(x), (1, 1), mode="constant", value=None)
        return functional.max_pool2d(functional.dropout(x, 0.5, False), 2)

    text = source_of(Wrapped(forward, pool=nn.MaxPool2d(2)), tmp_path, torch.randn(1, 3, 8, 8))
    assert "nn.MaxPool2d(2)" in text
    assert "F.pad(x, (1, 1))" in text
    assert "return F.max_pool2d(x, 2)" in text
    assert "None" not in text
