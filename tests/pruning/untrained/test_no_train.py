from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Block, randomize, state_of
from torch import nn

import fxprune
from fxprune.choosing.samples import Samples
from fxprune.choosing.sites import channel_sites
from fxprune.costs.macs import total_macs
from fxprune.errors import FxpruneError, FxpruneTypeError, FxpruneValueError, FxpruneWarning, TargetError
from fxprune.pruning.pruning_plan import PruningPlan
from fxprune.pruning.surgery import Surgery
from fxprune.pruning.untrained import no_train, repaired_damage
from fxprune.pruning.untrained.no_train import choose_untrained, prune_untrained
from fxprune.pruning.untrained.quality import Quality
from fxprune.pruning.untrained.repaired_damage import RepairedDamage, _scores
from fxprune.rewriting.repairing import Repairing
from fxprune.weights.least_squares import Moments

X = torch.randn(96, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(96) % 5
CHANNELS = Surgery(what="channels")
pytestmark = pytest.mark.filterwarnings("ignore:.*of the MACs are left where")


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), Block(12), Block(12), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return randomize(nn.Sequential(*layers, nn.Linear(12, 5))).float()


def traced() -> Any:
    return fxprune.trace(network(), X[:4])


@pytest.mark.parametrize("what", ["channels", "branches", "all"])
def test_what_is_repaired_moves_outputs_less_than_the_cut(what: Any) -> None:
    graph = traced()
    before = state_of(graph)
    found = prune_untrained(graph, [(X, Y)], fxprune.Targets(macs=0.7), surgery=Surgery(what=what))
    stages = found.stages
    assert stages[no_train.UNPRUNED].moved == 0
    assert min(stages[no_train.REPAIRED].moved, stages[no_train.BOTH].moved) < stages[no_train.CUT].moved
    assert found.repaired
    assert found.plan.sites
    assert all(torch.equal(before[name], value) for name, value in graph.state_dict().items())
    assert total_macs(found.result.graph_module) <= 0.7 * total_macs(graph)
    assert "repaired" in str(found)


def test_top1_and_agreement_are_told_of_what_is_held_out() -> None:
    found = prune_untrained(traced(), [(X, Y)], fxprune.Targets(macs=0.8), surgery=CHANNELS, criterion="l1")
    whole = found.stages[no_train.UNPRUNED]
    with torch.no_grad():
        choices = network()(X[3::4]).argmax(1)
    assert whole.top1 == pytest.approx(float((choices == Y[3::4]).float().mean()))
    assert whole.agreement == 1
    without = prune_untrained(traced(), [X], fxprune.Targets(macs=0.8), surgery=CHANNELS, criterion="l1")
    assert without.stages[no_train.UNPRUNED].top1 is None
    assert without.stages[no_train.REPAIRED].moved == found.stages[no_train.REPAIRED].moved


def test_labels_choose_nothing_and_a_plan_goes_as_it_is() -> None:
    plan = choose_untrained(traced(), [X], fxprune.Targets(macs=0.7), surgery=CHANNELS)
    assert plan.criterion == "repaired-damage"
    found = prune_untrained(traced(), [(X, Y)], plan)
    assert found.plan is plan


def test_prune_without_fit() -> None:
    model = network()
    result = fxprune.prune(model, X, targets=fxprune.Targets(macs=0.7), labels=Y, surgery=CHANNELS)
    assert result.modified
    assert not result.graph_module.training
    batches = [(X[:64], Y[:64]), (X[64:], Y[64:])]
    again = fxprune.prune(model, batches, targets=fxprune.Targets(macs=0.7), surgery=CHANNELS)
    with torch.no_grad():
        torch.testing.assert_close(again.graph_module(X), result.graph_module(X))


def test_outputs_that_are_no_logits() -> None:
    model = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 4, 3))
    result = fxprune.prune(model.eval(), X, targets=fxprune.Targets(macs=0.7))
    assert result.modified


def test_norms_are_kept_where_that_is_asked_for() -> None:
    surgery = Surgery(what="channels", norms="keep")
    result = fxprune.prune(network(), X, targets=fxprune.Targets(macs=0.7), surgery=surgery)
    assert any(isinstance(one, nn.BatchNorm2d) for one in result.graph_module.modules())


@pytest.mark.parametrize("size", [1, 3])
def test_of_small_batches_every_fourth_is_held_out(size: int) -> None:
    parts = torch.split(X[:48], size)
    fitted, held_out = no_train.parted(traced(), parts)
    assert torch.equal(torch.cat([one.inputs[0] for one in held_out]), torch.cat(parts[3::4]))
    assert sum(one.size for one in fitted) == 36
    result = fxprune.prune(network(), parts, targets=fxprune.Targets(macs=0.7), surgery=CHANNELS)
    assert result.modified


def test_labels_that_are_no_classes_are_not_looked_at() -> None:
    found = prune_untrained(traced(), [(X, Y.float())], fxprune.Targets(macs=0.8), surgery=CHANNELS, criterion="l1")
    assert found.stages[no_train.UNPRUNED].top1 is None


def test_what_returns_nan_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(no_train, "quality", lambda *_: Quality(float("inf")))
    with pytest.raises(FxpruneError, match="the pruned network returns NaN or infinity"):
        prune_untrained(traced(), [X], fxprune.Targets(macs=0.8), surgery=CHANNELS, criterion="l1")


def test_slopes_are_of_the_convex_curve_below() -> None:
    assert _scores([0, 2, 4], [0.0, 1.0, 4.0], 5).tolist() == [0.5, 0.5, 1.5, 1.5, 3.0]
    assert _scores([0, 2, 4], [0.0, 3.0, 4.0], 4).tolist() == [1.0] * 4
    assert _scores([0, 2], [0.0, -1.0], 3).tolist() == [0.0] * 3


def test_the_criterion_is_at_hand_in_choose() -> None:
    graph = traced()
    plan = fxprune.choose(
        graph, "all", fxprune.Targets(macs=0.7), criterion=RepairedDamage(graph), data=[X[:32]], scope="global"
    )
    assert plan.sites


def test_damages_are_told_from_a_part_of_the_places(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    graph = fxprune.trace(network(), images[:4])
    seen: list[int] = []
    added = Moments.add

    def noting(self: Moments, x: torch.Tensor, r: torch.Tensor, y: torch.Tensor) -> None:
        seen.append(x.shape[1])
        added(self, x, r, y)

    monkeypatch.setattr(Moments, "add", noting)
    damages, sites = {}, channel_sites(graph)
    for samples in (None, 32):
        monkeypatch.setattr(repaired_damage, "_SAMPLES", samples)
        with RepairedDamage(graph).measuring(graph, sites, Samples([images])) as score:
            damages[samples] = np.concatenate([score(site) for site in sites])
    assert {64, 9363, 65536} <= set(seen)  # of seven places one: 8,192 are enough for 108 inputs, 64 images not
    np.testing.assert_allclose(damages[32], damages[None], atol=0.03 * damages[None].max())


def test_damages_are_kept_and_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, state, targets = traced(), tmp_path / "state.json", fxprune.Targets(macs=0.7)

    def plan() -> fxprune.PruningPlan:
        criterion = RepairedDamage(graph, state=state)
        return fxprune.choose(graph, "branches,channels", targets, criterion=criterion, data=[X[:32]], scope="global")

    first = plan()
    monkeypatch.setattr(Repairing, "fit", None)
    assert plan().to_json() == first.to_json()
    state.write_text("{")
    with pytest.raises(FxpruneError, match="is damaged"):
        plan()


def test_the_old_name_of_what_means_layers() -> None:
    plan = choose_untrained(
        traced(), [X], fxprune.Targets(macs=0.8), surgery=Surgery(layers="all"), criterion="half-gate"
    )
    assert {one.kind for one in plan.sites} <= {"conv", "branch"}


def test_damages_are_of_these_weights_and_images(tmp_path: Path) -> None:
    state, sites = tmp_path / "state.json", None
    found = []
    for images, seed in ((X[:8], 0), (X[:8], 1), (X[8:16], 1), (X[:8], 0)):
        graph = traced()
        with torch.no_grad():
            next(iter(graph.parameters())).mul_(1 + seed)
        sites = channel_sites(graph)
        with RepairedDamage(graph, state=state).measuring(graph, sites, Samples([images])) as score:
            found.append([float(score(site)[0]) for site in sites])
    assert found[0] == found[3]
    assert found[0] != found[1] != found[2]


def test_what_cannot_go_alone_stays_and_why_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    graph, state = traced(), tmp_path / "state.json"

    def apply(*_: Any, **__: Any) -> None:
        raise FxpruneError("it is read elsewhere")

    monkeypatch.setattr(PruningPlan, "apply", apply)
    sites = channel_sites(graph)
    telling = pytest.warns(FxpruneWarning, match="cannot be removed and repaired alone, and stays: it is read elsew")
    with telling, RepairedDamage(graph, state=state).measuring(graph, sites, Samples([X[:8]])) as score:
        assert all(np.isinf(score(site)).any() for site in sites)
    assert not state.exists()


def test_bad_input() -> None:
    targets = fxprune.Targets(macs=0.7)
    with pytest.raises(FxpruneError, match="in train mode"):
        prune_untrained(traced().train(), [X], targets)
    with pytest.raises(FxpruneValueError, match="give some hundred"):
        prune_untrained(traced(), [X[:2]], targets)
    with pytest.raises(FxpruneError, match="NaN or infinity"):
        prune_untrained(traced(), [X * float("nan")], targets)
    with pytest.raises(FxpruneError, match="does not take a batch"):
        prune_untrained(traced(), [X[:, :2]], targets)
    with pytest.raises(TargetError, match="cannot be met"):
        prune_untrained(traced(), [X], fxprune.Targets(macs=0.001), surgery=CHANNELS, criterion="l1")
    with pytest.raises(FxpruneValueError, match="targets says how much"):
        fxprune.prune(network(), X)
    with pytest.raises(FxpruneTypeError, match="give pairs"):
        fxprune.prune(network(), [X], labels=Y, targets=targets)
    with pytest.raises(FxpruneValueError, match="one label an image"):
        fxprune.prune(network(), X, labels=Y[:3], targets=targets)
    with pytest.raises(FxpruneValueError, match="labels are 5 to 9, and the network knows classes 0 to 4"):
        fxprune.prune(network(), X, labels=Y + 5, targets=targets)
    with pytest.raises(FxpruneTypeError, match="images are a tensor or batches; got a int"):
        fxprune.prune(network(), 5, targets=targets)
    with pytest.raises(FxpruneValueError, match="no images"):
        fxprune.prune(network(), [], targets=targets)
    with pytest.raises(FxpruneError, match="of a training"):
        fxprune.prune(network(), X, targets=targets, meet_after=5)
