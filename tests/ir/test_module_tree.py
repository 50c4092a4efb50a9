"""Walks through a tree of modules."""

from __future__ import annotations

from torch import nn

from fxprune.ir.module_tree import every_path


def test_every_path_of_every_module() -> None:
    shared = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(2, 2)))
    model = nn.Sequential(shared, nn.ModuleDict({"again": shared, "own": nn.Tanh()}))
    assert list(every_path(model).items()) == list(model.named_modules(remove_duplicate=False))


def test_a_circle_is_left() -> None:
    model = nn.Module()
    model.child = nn.Module()
    model.child.parent = model
    model.child.leaf = nn.ReLU()
    model.self = model
    assert list(every_path(model)) == ["", "child", "child.leaf"]
