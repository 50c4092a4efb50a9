"""Random small networks with random scales: the whole pipeline in float64 against the scaled graph.

FXPRUNE_GRAPHS sets how many (1000 for a thorough run).
"""

from __future__ import annotations

import os
import random

import torch
from helpers import assert_accounts, assert_state_equal, randomize, state_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_nets import RandomNet

import fxprune
from fxprune import passes
from fxprune.chains import AFTER_TRAINING
from fxprune.facts.layers import layers
from fxprune.resconv import ResConv

GRAPHS = int(os.environ.get("FXPRUNE_GRAPHS", "60"))
COMPILE = [passes.RemoveLayers(threshold=0.0), *AFTER_TRAINING]
SCALES = (0.0, 0.0, 0.0, 1.0, 0.5, -0.7, 1e-3)
SHORTCUTS = (0.0, 0.0, 1.0, 1.0, 0.3, -0.4, 2.0)


def check(seed: int) -> None:
    """Trace, insert, set random scales, compile, compare, diff; all in float64."""
    torch.manual_seed(seed)
    chance = random.Random(seed)
    model = randomize(RandomNet(seed), seed)
    state = state_of(model)
    x = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    expected = model(x.clone())
    try:
        graph = fxprune.trace(model, x)
    except fxprune.FxpruneError as error:
        assert "write it out of place" in str(error)  # noqa: PT017  # a decline, with the reason
        return
    torch.testing.assert_close(graph(x.clone()), expected, rtol=1e-12, atol=1e-12)
    inserted = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(graph)
    sparse = inserted.graph_module
    for layer in layers(sparse):
        scale = chance.choice(SCALES)
        if isinstance(layer.module, ResConv):
            layer.module.assign(scale=scale, shortcut=chance.choice(SHORTCUTS))
        else:
            layer.module.assign(scale=scale)
    result = fxprune.Pipeline(COMPILE)(sparse)
    assert not layers(result.graph_module)
    found = fxprune.verify(sparse, result.graph_module, torch.randn(3, 4, 7, 7, dtype=torch.float64))
    assert found.equal, (seed, str(found))
    assert_state_equal(model, state)
    again = fxprune.Pipeline([passes.Simplify()])(result.graph_module)
    assert not again.modified
    assert not again.diff.differs
    for step in (*inserted.steps, *result.steps):
        assert_accounts(step.before, step.result.graph_module, step.diff)
    for one, other in ((graph, sparse), (sparse, result.graph_module), (graph, result.graph_module)):
        assert_accounts(one, other, fxprune.diff(one, other))
        assert_accounts(other, one, fxprune.diff(other, one))


@settings(max_examples=GRAPHS, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**9))
def test_the_whole_pipeline_on_random_networks(seed: int) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using padding='same' with even kernel lengths")
        warnings.filterwarnings("ignore", ".* is opaque and hides")  # in-place ops on views
        check(seed)
