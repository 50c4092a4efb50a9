"""Random small networks with random scales: the whole pipeline in float64 against the scaled graph.

FXPRUNE_GRAPHS sets how many (1000 for a thorough run), FXPRUNE_SEED the first one's seed.
"""

from __future__ import annotations

import copy
import os
import random
from typing import Any

import torch
from helpers import assert_accounts, assert_state_equal, randomize, state_of
from random_nets import RandomNet, Residual, masks_of
from torch import fx, nn
from torch.optim.swa_utils import AveragedModel

import fxprune
from fxprune import passes
from fxprune.gates.branch_scale import BranchScale
from fxprune.gates.resconv import ResConv
from fxprune.ir.copies import copy_module
from fxprune.ir.trace_notes import opaque_modules
from fxprune.passes.chains import AFTER_TRAINING, AFTER_TRAINING_KEEPING_NORMS
from fxprune.structures.gated_layers import layers

GRAPHS = int(os.environ.get("FXPRUNE_GRAPHS", "40"))
FIRST = int(os.environ.get("FXPRUNE_SEED", "0"))
COMPILE = [passes.RemoveLayers(threshold=0.0), *AFTER_TRAINING]
COMPILE_KEEPING_NORMS = [passes.RemoveLayers(threshold=0.0), *AFTER_TRAINING_KEEPING_NORMS]
SCALES = (0.0, 0.0, 0.0, 1.0, 0.5, -0.7, 1e-3)
SHORTCUTS = (0.0, 0.0, 1.0, 1.0, 0.3, -0.4, 2.0)


def check(seed: int) -> None:
    """Trace, insert, set random scales, compile, compare, diff; all in float64."""
    torch.manual_seed(seed)
    chance = random.Random(seed)
    model = randomize(RandomNet(seed), seed)
    state = state_of(model)
    inputs = images((2, 7), (2, 7))
    expected = copy_module(model)(*inputs)
    try:
        graph = fxprune.trace(model, inputs)
    except fxprune.FxpruneError as error:
        assert "write it out of place" in str(error)  # noqa: PT017  # a decline, with the reason
        return
    if opaque_modules(graph):
        return  # an in-place op that has no other form: told, and not looked into
    torch.testing.assert_close(copy_module(graph)(*inputs), expected, rtol=1e-12, atol=1e-12)
    inserted = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(graph)
    sparse = inserted.graph_module
    require_gates_in_their_places(sparse, model, inputs, seed)
    average = AveragedModel(sparse, use_buffers=True)
    set_scales(sparse, chance)
    average.update_parameters(sparse)
    kept = fxprune.Pipeline(COMPILE_KEEPING_NORMS)(sparse)
    require_equal_at_all_sizes(sparse, kept.graph_module, seed)
    result = fxprune.Pipeline(COMPILE)(sparse)
    assert not [layer for layer in layers(result.graph_module) if not isinstance(layer.module, ResConv)]
    require_equal_at_all_sizes(sparse, result.graph_module, seed)
    copies = [copy_module(graph) for graph in (sparse, result.graph_module, copy.deepcopy(sparse), average.module)]
    for given in (inputs, images((2, 7), (2, 7)), inputs):  # buffers that forward updates go on
        first, *others = (one(*given) for one in copies)
        for other in others:
            torch.testing.assert_close(other, first, rtol=1e-8, atol=1e-8, msg=f"{seed}: called again")
    assert_state_equal(model, state)
    again = fxprune.Pipeline([passes.Simplify()])(result.graph_module)
    assert not again.modified
    assert not again.diff.differs
    for step in (*inserted.steps, *result.steps):
        assert_accounts(step.before, step.result.graph_module, step.diff)
    for one, other in ((graph, sparse), (sparse, result.graph_module), (graph, result.graph_module)):
        assert_accounts(one, other, fxprune.diff(one, other))
        assert_accounts(other, one, fxprune.diff(other, one))


def images(*sizes: tuple[int, int]) -> tuple[torch.Tensor, ...]:
    """Return random images, so many of each size."""
    return tuple(torch.randn(count, 4, size, size, dtype=torch.float64) for count, size in sizes)


def set_scales(sparse: fx.GraphModule, chance: random.Random) -> None:
    """Assign random scales and shortcuts."""
    for layer in layers(sparse):
        scale = chance.choice(SCALES)
        if isinstance(layer.module, ResConv):
            layer.assign(scale=scale, shortcut=chance.choice(SHORTCUTS))
        else:
            layer.assign(scale=scale)


def require_gates_in_their_places(sparse: fx.GraphModule, model: nn.Module, inputs: Any, seed: int) -> None:
    """Close each gate of a residual block alone: the same as the model masked by hand."""
    gates = {layer.path: layer.module for layer in layers(sparse) if isinstance(layer.module, BranchScale)}
    for path, (module, number) in masks_of(model).items():
        own = {f"{path.removesuffix('_1')}{end}" for end in ("", "_1")} & gates.keys()
        if not isinstance(module, Residual) or len(own) != len(module.masks):
            continue
        gates[path].assign(scale=0.0)
        module.masks[number] = 0.0
        expected, found = copy_module(model)(*inputs), copy_module(sparse)(*inputs)
        torch.testing.assert_close(
            found, expected, rtol=1e-9, atol=1e-9, msg=f"{seed}: {path} takes out something else"
        )
        gates[path].assign(scale=1.0)
        module.masks[number] = 1.0


def require_equal_at_all_sizes(sparse: fx.GraphModule, compiled: fx.GraphModule, seed: int) -> None:
    """Compare both at all sizes that the first takes: a batch of one beside others, smaller images, no batch."""
    found = fxprune.verify(sparse, compiled, images((3, 7), (3, 7)))
    assert found.equal, (seed, str(found))
    for sizes in (((1, 7), (3, 7)), ((3, 7), (1, 7)), ((2, 4), (2, 4)), ((2, 1), (2, 7))):
        given = images(*sizes)
        try:
            expected = copy_module(sparse)(*given)
        except RuntimeError:
            continue  # these do not fit
        message = f"{seed}: other sizes: {sizes}"
        torch.testing.assert_close(copy_module(compiled)(*given), expected, rtol=1e-8, atol=1e-8, msg=message)


def test_the_whole_pipeline_on_random_networks() -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using padding='same' with even kernel lengths")
        warnings.filterwarnings("ignore", ".* is opaque and hides")  # in-place ops on views
        for seed in range(FIRST, FIRST + GRAPHS):
            check(seed)
