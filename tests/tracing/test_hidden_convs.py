"""What cannot be traced and hides convs is told when it is traced, and by all that misses those convs later."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
from torch import nn
from tracing_helpers import conv, images

import fxprune
from fxprune import passes
from fxprune.choosing.inspection import inspect_graph
from fxprune.errors import FxpruneError, FxpruneWarning
from fxprune.pipelines.chains import insert_scales

HIDES = r"body is opaque and hides 2 convs: .*test_hidden_convs\.py:\d+: `if .*`: .*; what is moved into a module"


class Decides(nn.Module):
    """Goes where its own weights and data lead it, so that no conv in it can be compiled alone."""

    def __init__(self, convs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(conv() for _ in range(convs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            assert isinstance(layer, nn.Conv2d)
            if (x.mean() * layer.weight).sum() > -1e9:
                x = layer(x)
        return x


class Net(nn.Module):
    def __init__(self, convs: int = 2) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(4, 4, 3), Decides(convs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(self.stem(x))  # type: ignore[no-any-return]


def told(model: nn.Module) -> list[str]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        fxprune.trace(model.eval(), images())
    return [str(one.message) for one in seen if issubclass(one.category, FxpruneWarning)]


def test_it_is_told_once() -> None:
    (message,) = told(Net())
    assert re.match(HIDES, message)
    assert "\n" not in message


def test_the_root_too() -> None:
    (message,) = told(Decides(3))
    assert message.startswith("model is opaque and hides 3 convs: ")


def test_those_with_one_reason_are_told_together() -> None:
    (message,) = told(nn.Sequential(Decides(1), conv(), Decides(2)))
    assert message.startswith("0 is opaque and hides 1 conv: ")
    assert message.endswith("; so do 1 more, 2 convs")


def test_what_hides_no_convs_is_not_told() -> None:
    class Choosy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > -1e9 else -x

    assert told(nn.Sequential(conv(), Choosy(), conv())) == []


@pytest.mark.filterwarnings("ignore:body is opaque")
def test_what_misses_scales_names_it() -> None:
    graph = fxprune.trace(Net().eval(), images())
    inserted = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(graph)
    assert not inserted.modified
    graph = inserted.graph_module
    removed = passes.RemoveLayers()(graph)
    assert re.match(f"nothing can be removed: .*; none can have one: {HIDES}", removed.warnings[0])
    for act in (
        lambda: passes.RemoveLayers(target_macs=0.5)(graph),
        lambda: fxprune.ProximalL1(graph),
        lambda: fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.5), meet_after=10),
        lambda: insert_scales(graph, "all"),
    ):
        with pytest.raises(FxpruneError, match=HIDES):
            act()
    assert re.search(r"opaque: body, which hides 2 convs: ", str(inspect_graph(graph)))


def test_where_scales_can_be_put_in_that_is_advised() -> None:
    graph = fxprune.trace(nn.Sequential(conv()).eval(), images())
    with pytest.raises(FxpruneError, match="put scales in first, with insert-resconv"):
        fxprune.ProximalL1(graph)
    graph = fxprune.trace(nn.Sequential(nn.Conv2d(4, 3, 1)).eval(), images())
    with pytest.raises(FxpruneError, match="none of its convs and branches can have one"):
        fxprune.ProximalL1(graph)
