"""CaP's search: channels of each group, in forward order, as many as a falling line of accuracy allows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn

import fxprune
from fxprune.choosing.channel_ranking import Field
from fxprune.choosing.samples import Batch
from fxprune.costs.macs import total_macs
from fxprune.errors import FxpruneTypeError, TargetError
from fxprune.passes import RemoveChannels
from fxprune.pruning.untrained import step_constraint
from fxprune.pruning.untrained.step_constraint import Progress, Session, search
from fxprune.pruning.untrained.step_network import StepNetwork
from fxprune.rewriting.contract import Log


class Net(nn.Module):
    """Three groups, in a row: a conv with a norm, a grouped conv, and a conv in front of a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.two = nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False)
        self.three = nn.Conv2d(8, 6, 3, padding=1)
        self.head = nn.Linear(24, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.three(torch.relu(self.two(torch.relu(self.norm(self.one(x)))))))
        logits: torch.Tensor = self.head(nn.functional.adaptive_avg_pool2d(y, 2).flatten(1))
        return logits


@pytest.fixture(scope="module")
def given() -> tuple[fx.GraphModule, torch.Tensor, torch.Tensor]:
    """Return a graph, images, and labels: what it says of them."""
    torch.manual_seed(0)
    model, images = Net().double().eval(), torch.randn(200, 2, 6, 6).double()
    with torch.no_grad():
        logits = model(images)
        model.head.weight *= 10 / logits.std()
        model.head.bias.copy_(-model(images).mean(0) + model.head.bias)
        labels = model(images).argmax(1)
    assert len(labels.unique()) == 4
    return fxprune.trace(model, images[:2]), images, labels


def top1(graph: fx.GraphModule, images: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.no_grad():
        return float((graph(images).argmax(1) == labels).double().mean())


def test_each_group_stays_above_the_line(given: Any) -> None:
    graph, images, labels = given
    told: list[Progress] = []
    plan = search(graph, [images], [(images, labels)], 0.7, session=Session(told.append))
    gone = {path: len(places) for path, places in plan.indices.items()}
    assert sum(gone.values()) > 1
    _, names = step_constraint.orders_of(field_of(graph, images))
    numbers: tuple[int, ...] = ()
    network = StepNetwork(graph, names, [batch_of(images)])
    for place, order in enumerate(names):
        least = 1 - (place + 1) * 0.3 / len(names)
        number = sum(gone.get(path, 0) for path in {path for path, _ in order})
        assert top1(network.at((*numbers, number)), images, labels) >= least
        numbers = (*numbers, number)
    assert told[-1].evaluations <= told[-1].at_most
    assert {one.group for one in told} <= {"one", "two", "three"}
    assert all(one.seconds_left >= 0 for one in told)


def field_of(graph: fx.GraphModule, images: torch.Tensor) -> Field:
    step = RemoveChannels(ratio=0.5, criterion="cap", data=[images])
    return step.chosen([("", graph)], Log())[0].field


def batch_of(images: torch.Tensor) -> Batch:
    return Batch((images,))


def test_targets_are_met_by_the_least_drop(given: Any) -> None:
    graph, images, labels = given
    plan = search(graph, [images], [(images, labels)], fxprune.Targets(macs=0.5, params=0.6))
    after = plan.apply(graph).graph_module
    assert 0.3 < total_macs(after) / total_macs(graph) <= 0.5
    assert plan.criterion == "cap"
    assert plan.targets == fxprune.Targets(macs=0.5, params=0.6)


def test_activation_memory_can_be_the_target(given: Any) -> None:
    graph, images, labels = given
    plan = search(graph, [images], [(images, labels)], fxprune.Targets(memory=0.7), criterion="l1", repair=False)
    assert plan.indices


def test_a_repaired_cut_is_nearer_to_what_the_network_was(given: Any) -> None:
    graph, images, _ = given
    _, names = step_constraint.orders_of(field_of(graph, images))
    numbers = tuple(len(order) // 2 for order in names)
    with torch.no_grad():
        wanted = graph(images)
        off = [
            float((StepNetwork(graph, names, batches).at(numbers)(images) - wanted).norm())
            for batches in (None, [batch_of(images)])
        ]
    assert off[1] < 0.7 * off[0]
    assert all(len(order) for order in names)


def test_a_copy_goes_without_loss(given: Any) -> None:
    _, images, _ = given
    torch.manual_seed(1)
    model = Net().double().eval()
    with torch.no_grad():
        copied = nn.Conv2d(8, 6, 3, padding=1).double()
        copied.weight[1], copied.bias[1] = 2 * copied.weight[4], 2 * copied.bias[4]  # type: ignore[index]
        copied.weight *= 20  # so that what it computes varies more than the ridge hides
        model.three = copied
    graph = fxprune.trace(model, images[:2])
    orders = [[(path, 1)] for path in ("one", "two", "three")]
    with torch.no_grad():
        wanted = graph(images)
        off = [
            float((StepNetwork(graph, orders, batches, ridge=1e-3).at((0, 0, 1))(images) - wanted).norm())
            for batches in (None, [batch_of(images)])
        ]
    assert off[1] < 0.05 * off[0]


class Residual(nn.Module):
    """Blocks that add to one stream, whose channels several layers make."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1)) for _ in range(2)
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


@pytest.mark.parametrize("repair", [True, False])
def test_channels_that_several_layers_make_are_cut_of_all_of_them(repair: bool) -> None:
    torch.manual_seed(0)
    images = torch.randn(100, 2, 6, 6).double()
    graph = fxprune.trace(Residual().double().eval(), images[:2])
    _, names = step_constraint.orders_of(field_of(graph, images))
    network = StepNetwork(graph, names, [batch_of(images)] if repair else None)
    found, before = network.at((4, 0, 2)), total_macs(graph)
    weights = {name: tuple(one.shape[:2]) for name, one in found.named_parameters() if one.dim() == 4}
    assert len(names) == 3
    assert sorted(weights.values()) == [(4, 2), (4, 4), (4, 4), (4, 6), (6, 4)]
    assert total_macs(found) < 0.5 * before


def test_goes_on_where_it_was_killed(given: Any, tmp_path: Path) -> None:
    graph, images, labels = given
    state, data, held_out = tmp_path / "state.json", [images], [(images, labels)]

    class Killed(Exception):
        pass

    def kill(told: Progress) -> None:
        if told.evaluations == 5:
            raise Killed

    half = fxprune.Targets(macs=0.5)
    with pytest.raises(Killed):
        search(graph, data, held_out, half, session=Session(kill, state))
    before = json.loads(state.read_text())["step_constraint"]
    assert [len(rows) for rows in before.values()] == [5]
    resumed = search(graph, data, held_out, half, session=Session(state=state))
    assert resumed == search(graph, data, held_out, half)
    after = json.loads(state.read_text())["step_constraint"]
    (key,) = before
    assert after[key][:5] == before[key]
    assert len({tuple(numbers) for numbers, _ in after[key]}) == len(after[key])
    search(graph, data, held_out, half, session=Session(state=state), criterion="l1")
    assert len(json.loads(state.read_text())["step_constraint"]) == 2


def test_only_what_is_asked_for_goes(given: Any) -> None:
    graph, images, labels = given
    plan = search(graph, [images], [(images, labels)], 0.5, only=["three"])
    assert set(plan.indices) == {"three"}


def test_bad_input(given: Any, tmp_path: Path) -> None:
    graph, images, labels = given
    pairs = [(images, labels)]
    with pytest.raises(fxprune.FxpruneError, match="how much is to go"):
        search(graph, [images], pairs, fxprune.Targets())
    with pytest.raises(fxprune.FxpruneError, match="is a held-out accuracy, above 0 and at most 1; got 93"):
        search(graph, [images], pairs, 93.0)
    with pytest.raises(fxprune.FxpruneError, match=r"search takes .* for targets, got str"):
        search(graph, [images], pairs, "half")  # type: ignore[arg-type]
    with pytest.raises(fxprune.FxpruneError, match="held_out has no labels"):
        search(graph, [images], [images], 0.5)
    with pytest.raises(TargetError, match=r"target_macs=0.001 cannot be met: without all \d+ channels"):
        search(graph, [images], pairs, fxprune.Targets(macs=0.001))
    with pytest.raises(FxpruneTypeError, match="search has no option 'criterium'"):
        search(graph, [images], pairs, 0.5, criterium="l1")
    with pytest.raises(FxpruneTypeError, match="search has no option 'multiple_of'"):
        search(graph, [images], pairs, 0.5, multiple_of=4)
    file = tmp_path / "other.json"
    file.write_text("[]")
    with pytest.raises(fxprune.FxpruneError, match="is no state of a search"):
        search(graph, [images], pairs, 0.5, session=Session(state=file))
