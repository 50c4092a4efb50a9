"""Tracing, passes, verification, emission, diffs leave no trace in what a user's own code keeps, wherever it is."""

from __future__ import annotations

import copy
import random
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.nn.utils import parametrize
from tracing_helpers import conv, images

import fxprune
from fxprune import passes
from fxprune.choosing.inspection import inspect_graph
from fxprune.costs.latency.measured_latency import compare_latency
from fxprune.errors import EmitError, FxpruneError

Use = Callable[[Any, torch.Tensor], Any]


class Keeps(nn.Module):
    """Goes where data lead it, so that it is opaque; ``use`` returns what it keeps, and changes that."""

    total: torch.Tensor

    def __init__(self, use: Use, **kept: Any) -> None:
        super().__init__()
        self.conv = conv()
        self.use = use
        self.register_buffer("total", torch.ones(1))
        for name, value in kept.items():
            setattr(self, name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = self.use(self, x)  # before it turns out that this cannot be traced
        if x.sum() > 1e9:
            x = x * 2
        return self.conv(x) + kept  # type: ignore[no-any-return]


class Times(nn.Module):
    """A parametrization that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return weight * self.calls


def first_mean(m: Any, x: torch.Tensor) -> Any:
    return m.kept.setdefault("mean", x.mean())


def in_depth(m: Any, x: torch.Tensor) -> Any:
    entries = m.kept.inner[0]["list"]
    entries.append(x.mean())
    return sum(entries)


def in_list(m: Any, x: torch.Tensor) -> Any:
    return m.kept[0].add_(x.mean())


def last_means(m: Any, x: torch.Tensor) -> Any:
    m.kept.append(x.mean())
    return sum(m.kept)


def in_place(m: Any, x: torch.Tensor) -> Any:
    return m.kept.mul_(0.5).add_(x.mean())


def counted(m: Any, x: torch.Tensor) -> Any:
    m.kept.count += 1
    return m.kept.count


def buffer_in_place(m: Any, x: torch.Tensor) -> Any:
    return m.total.add_(x.mean()).clone()


def buffer_replaced(m: Any, x: torch.Tensor) -> Any:
    m.total = m.total + x.mean()
    return m.total


def buffer_resized(m: Any, x: torch.Tensor) -> Any:
    m.total = torch.cat([m.total, x.mean()[None]])
    return m.total.sum()


def parameter_written(m: Any, x: torch.Tensor) -> Any:
    with torch.no_grad():
        m.conv.weight.mul_(0.5)
    return 0


def hook_on_first_call(m: Any, x: torch.Tensor) -> Any:
    if not m.conv._forward_hooks:
        m.conv.register_forward_hook(lambda module, args, output: output * 2)
        return 1
    return 0


def hook_taken_off(m: Any, x: torch.Tensor) -> Any:
    if m.kept is None:
        m.kept = m.conv.register_forward_hook(lambda module, args, output: output * 2)
    else:
        m.kept.remove()
    return 0


def built_on_first_call(m: Any, x: torch.Tensor) -> Any:
    if "extra" not in m._modules:
        m.extra = nn.Conv2d(4, 4, 1)
        nn.init.constant_(m.extra.weight, 0.1)
        nn.init.zeros_(m.extra.bias)
        return 1
    return m.extra(x)


def drawn(m: Any, x: torch.Tensor) -> Any:
    return m.kept.random()


def drawn_by_torch(m: Any, x: torch.Tensor) -> Any:
    return torch.rand(1, generator=m.kept)


def nothing_more(m: Any, x: torch.Tensor) -> Any:
    return 0


def keeps(use: Use, **kept: Any) -> Callable[[], nn.Module]:
    return lambda: Keeps(use, **copy.deepcopy(kept))


def with_a_parametrization_that_counts() -> nn.Module:
    module = Keeps(nothing_more)
    parametrize.register_parametrization(module.conv, "weight", Times())
    return module


def a_layer_with_such_a_parametrization() -> nn.Module:
    return parametrize.register_parametrization(conv(), "weight", Times())


HOLDERS = {
    "dict": keeps(first_mean, kept={}),
    "list in a dict in a list in an object": keeps(in_depth, kept=SimpleNamespace(inner=[{"list": []}])),
    "tensor in a list": keeps(in_list, kept=[torch.zeros(1)]),
    "tensor": keeps(in_place, kept=torch.ones(1)),
    "deque": keeps(last_means, kept=deque(maxlen=3)),
    "object": keeps(counted, kept=SimpleNamespace(count=0)),
    "buffer in place": keeps(buffer_in_place),
    "buffer replaced": keeps(buffer_replaced),
    "buffer resized": keeps(buffer_resized),
    "parameter": keeps(parameter_written),
    "hook on the first call": keeps(hook_on_first_call),
    "hook taken off": keeps(hook_taken_off, kept=None),
    "submodule on the first call": keeps(built_on_first_call),
    "random.Random": keeps(drawn, kept=random.Random(0)),
    "torch.Generator": keeps(drawn_by_torch, kept=torch.Generator().manual_seed(0)),
    "parametrization": with_a_parametrization_that_counts,
    "parametrization of a layer": a_layer_with_such_a_parametrization,
}


def outputs(model: nn.Module) -> list[torch.Tensor]:
    """What a copy of ``model`` returns in its next three calls."""
    own = copy.deepcopy(model)
    with torch.no_grad():
        return [own(images(seed)).clone() for seed in (1, 2, 3)]


def assert_same(model: nn.Module, expected: list[torch.Tensor]) -> None:
    for found, wanted in zip(outputs(model), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def stages_of(traced: fx.GraphModule, folder: Path) -> list[fx.GraphModule]:
    """Apply all that there is to ``traced``, and return it and what was made of it."""
    inserted = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(traced)
    sparse = inserted.graph_module
    removed = fxprune.Pipeline([passes.RemoveLayers(threshold=0.0), *fxprune.AFTER_TRAINING])(sparse)
    graphs = [traced, sparse, removed.graph_module]
    fxprune.verify(traced, removed.graph_module, (images(),))
    fxprune.diff(traced, removed.graph_module, results=[inserted, removed])
    inspect_graph(traced)
    compare_latency({"a": traced, "b": removed.graph_module}, 2, repeats=1)
    with pytest.raises(EmitError):
        fxprune.emit(removed.graph_module, folder)
    return graphs


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.filterwarnings("ignore")
def test_nothing_leaves_a_trace(holder: str, inside: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    keeping = HOLDERS[holder]()
    model = (nn.Sequential(conv(), nn.BatchNorm2d(4), keeping, conv()) if inside else keeping).eval()
    before, expected = copy.deepcopy(model), outputs(model)
    traced = fxprune.trace(model, images())
    for graph in stages_of(traced, tmp_path) if inside else [traced]:
        assert_same(graph, expected)
    assert_same(model, outputs(before))


def count_of(graph: nn.Module) -> int:
    kept: Any = next(one for one in graph.modules() if isinstance(one, Keeps)).kept
    return int(kept.count)


def test_choosing_layers_leaves_no_trace() -> None:
    model = nn.Sequential(conv(), nn.BatchNorm2d(4), keeps(counted, kept=SimpleNamespace(count=0))(), conv()).eval()
    sparse = passes.InsertResConv()(fxprune.trace(model, images())).graph_module
    shrink = fxprune.SteeredL1(sparse, targets=fxprune.Targets(macs=0.6), meet_after=2)
    for _ in range(2):
        shrink.step(0.1)
    assert shrink.order
    assert count_of(sparse) == 0


def test_what_one_graph_keeps_another_does_not_see() -> None:
    model = nn.Sequential(conv(), nn.BatchNorm2d(4), keeps(counted, kept=SimpleNamespace(count=0))()).eval()
    traced = fxprune.trace(model, images())
    folded = passes.FoldBatchNorm()(traced).graph_module
    folded(images())
    assert (count_of(folded), count_of(traced), count_of(model)) == (1, 0, 0)
    assert {id(p) for p in traced.get_submodule("2").parameters()} == (
        {id(p) for p in folded.get_submodule("2").parameters()}
    )


def test_what_training_left_is_copied() -> None:
    model = nn.Sequential(conv(), nn.BatchNorm2d(4), keeps(last_means, kept=deque())()).eval()
    traced = fxprune.trace(model, images())
    traced(images())  # what it keeps is part of the computation now
    result = fxprune.Pipeline([passes.FoldBatchNorm()])(traced)
    torch.testing.assert_close(result.graph_module(images(1)), traced(images(1)))


def test_what_cannot_be_copied_is_named() -> None:
    def use(m: Any, x: torch.Tensor) -> Any:
        m.lock = threading.Lock()
        return 0

    traced = fxprune.trace(nn.Sequential(conv(), nn.BatchNorm2d(4), Keeps(use)).eval(), images())
    traced(images())
    with pytest.raises(FxpruneError, match=r"the opaque module 2 cannot be copied: .*lock.*; keep that outside"):
        fxprune.Pipeline([passes.FoldBatchNorm()])(traced)


def test_models_may_be_traced_in_threads() -> None:
    def make_and_trace(seed: int) -> None:
        model = nn.Sequential(conv(), nn.Dropout(), Keeps(counted, kept=SimpleNamespace(count=seed))).eval()
        try:
            fxprune.trace(model, images())
        except Exception as error:
            failed.append(error)

    failed: list[Exception] = []
    torch_s = (torch.randn, torch._C._set_grad_enabled)
    before = {name: vars(nn.Module).get(name) for name in ("__getattr__", "__call__", "training", "__setattr__")}
    threads = [threading.Thread(target=make_and_trace, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert torch_s == (torch.randn, torch._C._set_grad_enabled)
    assert before == {name: vars(nn.Module).get(name) for name in before}
