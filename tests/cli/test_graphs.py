"""fxprune run: images for passes that look at data; criteria of other packages."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from cli_helpers import NET, run
from torch import fx

import fxprune
from fxprune.choosing.channel_scores import channel_scores
from fxprune.choosing.criteria.base import ChannelCriterion
from fxprune.choosing.named import known_criteria
from fxprune.choosing.samples import Samples
from fxprune.choosing.sites import channel_sites
from fxprune.cli.options import CRITERIA
from fxprune.pipelines.registry import known_passes
from fxprune.rewriting.contract import Contract, Log, Pass
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.running import Worth
from fxprune.structures.gated_layers import Gate

SEEN: list[tuple[str, float]] = []


class Latest(ChannelCriterion):
    """What comes last in the graph goes first."""

    name = "latest"

    def by_class(self, channels: Channels, samples: Samples) -> Worth:
        return 1.0 / (1 + np.arange(len(channels.labels), dtype=np.float64))

    def of_layer(self, layer: Gate) -> float:
        return 1e9 if layer.path.startswith("layer1") else 1.0


@dataclass(frozen=True)
class Look(Pass):
    """Score the channels, and change nothing."""

    name: ClassVar[str] = "look"
    contract: ClassVar[Contract] = Contract.VALUES
    criterion: str = "l1"
    data: Any = None

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        samples = Samples.of(graph_module, self.data)
        channel_scores(graph_module, self.criterion, samples)
        SEEN.append((samples.advice, sum(batch.size for batch in samples)))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let another package have a criterion, and a pass that looks at data."""
    package = types.ModuleType("another_package")
    package.Latest, package.Look = Latest, Look  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "another_package", package)
    points = {
        "fxprune.criteria": [EntryPoint("latest", "another_package:Latest", "fxprune.criteria")],
        "fxprune.passes": [EntryPoint("look", "another_package:Look", "fxprune.passes")],
    }
    monkeypatch.setattr("fxprune.joined.entry_points", lambda group: points.get(group, []))
    caches: list[Any] = [one for one in (known_criteria, known_passes) if hasattr(one, "cache_clear")]
    for cache in caches:
        cache.cache_clear()
    SEEN.clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_a_pass_that_looks_at_data_gets_images_with_labels(
    installed: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "network.py"
    file.write_text(
        "from torch import nn\n\n\ndef network():\n"
        "    layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)\n"
        "    return nn.Sequential(*layers)\n"
    )
    data = ("--data", "digits", "--images", "70", "--no-verify")
    code, _, err = run(capsys, "run", f"{file}:network", *data, "--passes", "look{criterion=taylor}")
    assert (code, err) == (0, "")
    assert SEEN == [("", 70)]


def test_without_images_the_example_inputs_are_looked_at(installed: None, capsys: pytest.CaptureFixture[str]) -> None:
    chain = ("--passes", "look{criterion=apoz}", "--input", "2,3,16,16", "--no-verify")
    assert run(capsys, "run", NET, *chain)[0] == 0
    assert SEEN == [("the graph's 2 example inputs; give data= (fxprune run --data)", 2)]
    code, _, err = run(capsys, "run", NET, *chain, "--images", "8")
    assert (code, err) == (2, "fxprune: error: --images needs --data\n")
    code, _, err = run(capsys, "run", NET, *chain[2:], "--passes", "look{criterion=taylor}")
    assert (code, err.count("\n")) == (1, 1)
    assert "criterion taylor needs labels: give data= as pairs of inputs and labels (fxprune run --data)" in err


def test_a_criterion_of_another_package_ranks_layers_and_channels(
    installed: None, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = ("--input", "2,3,16,16", "--no-verify")
    assert run(capsys, "run", NET, *shape, "--passes", "look{criterion=latest}")[0] == 0
    chain = "insert-branch-scale,remove-layers{target_macs=0.9,rank=latest}"
    code, out, err = run(capsys, "run", NET, *shape, "--passes", chain)
    assert code == 0, err
    assert "remove-layers" in out


def test_the_help_knows_all_criteria_of_channels() -> None:
    graph = fxprune.trace(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)), torch.randn(2, 3))
    assert channel_sites(graph)
    assert set(known_criteria()) - {"weight-norm", "half-gate"} == set(CRITERIA)
