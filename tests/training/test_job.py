"""The whole job: what is refused or said before any training, what cannot be source, and what is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fxprune.choosing.targets import Targets
from fxprune.costs.macs import total_macs, total_params
from fxprune.emission.emit import load_emitted
from fxprune.emission.formats import Exports
from fxprune.errors import FxpruneError, FxpruneWarning, LoadError, TargetError
from fxprune.pruning.choose import choose
from fxprune.pruning.pruning_plan import PruningPlan
from fxprune.run_results import results_text
from fxprune.tracing.trace import trace
from fxprune.training.data import ImageData, sample_inputs
from fxprune.training.goal import Goal
from fxprune.training.job import Run, prune_on_data
from fxprune.training.preprocessing import read_preprocessing
from fxprune.training.recipe import train
from fxprune.training.settings import Settings

QUICK = Settings(epochs=1, batch_size=512, device="cpu")


class Jumpy(nn.Module):
    """Branches on its values: opaque to tracing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x)
        return y + 1 if y.abs().sum() > 1e9 else y


def network(middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    convs = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(2)]
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), middle, *convs, nn.Flatten(), nn.Linear(256, 10))


def test_a_target_that_cannot_be_met_is_refused_before_the_first_evaluation(data: ImageData, tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(TargetError, match="ask for at least"):
        prune_on_data(
            network(nn.ReLU()), data, tmp_path / "out", QUICK, goal=Goal(Targets(macs=0.01)), run=Run(said.append)
        )
    assert said == []


def test_a_checkpoint_of_a_run_that_kept_other_layers_is_refused(data: ImageData, tmp_path: Path) -> None:
    goal = Goal(Targets(macs=0.8), keep=["2"])
    prune_on_data(network(nn.ReLU()), data, tmp_path / "out", QUICK, goal=goal)
    with pytest.raises(LoadError, match="is of another model"):
        prune_on_data(network(nn.ReLU()), data, tmp_path / "out", QUICK, goal=replace(goal, keep=["3"]))


def test_old_keywords_warn_once_and_do_the_same(data: ImageData, tmp_path: Path) -> None:
    said: list[str] = []
    any_job: Any = prune_on_data
    goal = r"goal=fxprune\.training\.goal\.Goal\(targets=fxprune\.Targets\(macs=0\.8\), keep=\.\.\.\)"
    run = r"run=fxprune\.training\.job\.Run\(say=\.\.\.\)"
    with pytest.warns(
        DeprecationWarning, match=f"^targets, say, keep of prune_on_data .*: give {goal}, {run}$"
    ) as told:
        report = any_job(
            network(nn.ReLU()), data, tmp_path / "out", QUICK, targets=Targets(macs=0.8), say=said.append, keep=["2"]
        )
    assert [one.filename for one in told] == [__file__]
    assert said
    assert (report["settings"]["target_macs"], report["settings"]["keep"]) == (0.8, ["2"])


def test_what_returns_no_logits_is_refused_at_once(data: ImageData, tmp_path: Path) -> None:
    class Detects(nn.Module):
        calls = 0

        def forward(self, x: torch.Tensor) -> list[dict[str, torch.Tensor]]:
            Detects.calls += len(x)
            return [{"boxes": image} for image in x]

    with pytest.raises(FxpruneError, match="does not return logits of shape"):
        prune_on_data(Detects(), data, tmp_path / "out", QUICK, goal=Goal(Targets(macs=0.7)))
    assert Detects.calls == 2


def test_images_of_another_size_name_the_option(data: ImageData, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(49, 10))
    with pytest.raises(FxpruneError, match=r"Sequential does not take images of 1x8x8: .*; --image-size"):
        prune_on_data(model, data, tmp_path / "out", QUICK, goal=Goal(Targets(macs=0.7)))


def test_what_has_no_source_is_saved_for_torch_load(data: ImageData, tmp_path: Path) -> None:
    said: list[str] = []
    options: dict[str, Any] = {"goal": Goal(Targets(macs=0.7)), "run": Run(said.append)}
    report = prune_on_data(network(Jumpy()), data, tmp_path / "out", QUICK, **options)
    assert said[0].startswith("there will be a model.pt and no model.py: 1 is an opaque call of a ")
    assert not (tmp_path / "out" / "model.py").exists()
    loaded = torch.load(tmp_path / "out" / "model.pt", weights_only=False)
    assert loaded(sample_inputs(data, 4)).shape == (4, 10)
    assert report["macs_after"] < report["macs_before"]
    assert (tmp_path / "out" / "diff.html").exists()


@pytest.mark.usefixtures("fresh_engine")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("finetune_epochs", [0, 1])
@pytest.mark.parametrize("middle", [Jumpy(), nn.GroupNorm(2, 4), nn.PReLU()])
def test_graphs_that_share_weights_are_measured_on_one_device(
    data: ImageData, tmp_path: Path, middle: nn.Module, finetune_epochs: int
) -> None:
    settings = replace(QUICK, device="cuda", finetune_epochs=finetune_epochs)
    options: dict[str, Any] = {"goal": Goal(Targets(macs=0.7))}
    report = prune_on_data(network(middle), data, tmp_path / "out", settings, **options)
    assert report["activation_bytes_after"] <= report["activation_bytes_before"]
    assert report["hardware"]["gpu"]


def test_outputs_beyond_the_classes_are_said(data: ImageData, tmp_path: Path) -> None:
    said: list[str] = []
    wide = network(nn.ReLU())
    wide[-1] = nn.Linear(256, 12)  # type: ignore[operator]  # a Sequential
    prune_on_data(wide, data, tmp_path / "out", QUICK, goal=Goal(Targets(macs=0.7)), run=Run(said.append))
    assert said[0].startswith("the model has 12 outputs for 10 classes")


def test_a_teacher_of_other_weights_teaches_its_maps_in_fine_tuning_too(data: ImageData, tmp_path: Path) -> None:
    teacher = network(nn.ReLU())
    train(teacher, data, replace(QUICK, batch_size=64), lambda _: None)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    settings = replace(QUICK, batch_size=64, distill=0.5, distill_features=1.0, finetune_epochs=1)
    options: dict[str, Any] = {"goal": Goal(Targets(macs=0.7)), "teacher": teacher}
    report = prune_on_data(network(nn.ReLU()), data, tmp_path / "out", settings, **options)
    assert report["settings"]["distill_features"] == 1.0
    assert report["macs_after"] < report["macs_before"]
    assert teacher.training
    assert all(torch.equal(value, teacher.state_dict()[name]) for name, value in before.items())


class WithAuxiliary(nn.Module):
    """A second classifier while it trains, as GoogLeNet has."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.aux, self.head = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(64, 10), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> Any:
        y = self.head((x + self.conv(x)).flatten(1))
        return (y, self.aux(x.flatten(1))) if self.training else y


def test_an_auxiliary_classifier_is_trained_too(data: ImageData, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = WithAuxiliary()
    prune_on_data(model, data, tmp_path / "out", QUICK, goal=Goal(Targets(macs=0.99)))
    trained = load_emitted(tmp_path / "out")
    assert not torch.equal(trained.get_parameter("aux.weight"), model.aux.weight)
    assert [tuple(one.shape) for one in trained.train()(torch.zeros(3, 1, 8, 8))] == [(3, 10), (3, 10)]


@pytest.mark.parametrize("finetune_epochs", [0, 1])
def test_a_network_with_kept_norms_trains_on(data: ImageData, tmp_path: Path, finetune_epochs: int) -> None:
    torch.manual_seed(0)
    model, kept, folded = network(nn.BatchNorm2d(4)), tmp_path / "kept", tmp_path / "folded"
    settings = replace(QUICK, finetune_epochs=finetune_epochs)
    report = prune_on_data(model, data, kept, settings, goal=Goal(Targets(macs=0.9), norms="keep"))
    assert report["settings"]["norms"] == "keep"
    assert "BatchNorm2d" in (kept / "model.py").read_text()
    for source, out in ((kept, folded), (folded, tmp_path / "again")):
        said: list[str] = []
        prune_on_data(load_emitted(source), data, out, QUICK, goal=Goal(Targets(macs=1.0)), run=Run(said.append))
        assert any("were folded into its weights" in line for line in said) == (source is folded)


def test_a_baseline_is_trained_as_long_and_resumed(data: ImageData, tmp_path: Path) -> None:
    said: list[str] = []
    settings = replace(QUICK, finetune_epochs=1, baseline=True)
    options: dict[str, Any] = {"goal": Goal(Targets(macs=0.7)), "run": Run(said.append)}
    report = prune_on_data(network(nn.ReLU()), data, tmp_path, settings, **options)
    unpruned = network(nn.ReLU())
    train(unpruned, data, replace(settings, epochs=2), lambda _: None)
    images, labels = next(iter(torch.utils.data.DataLoader(data.held_out, 450)))
    top1 = (unpruned.eval()(images).argmax(1) == labels).double().mean()
    assert report["accuracy_baseline"] == pytest.approx(float(top1), abs=0.005)
    assert len((tmp_path / "unpruned.jsonl").read_text().splitlines()) == 2
    assert "top-1 with both trained as long" in results_text(report)
    assert prune_on_data(network(nn.ReLU()), data, tmp_path, settings, **options)[
        "accuracy_baseline"
    ] == pytest.approx(report["accuracy_baseline"])
    del report["accuracy_baseline"]
    assert "no unpruned one was trained as long" in results_text(report)
    assert "(before: unpruned, norms folded)" in results_text(report)


def test_how_digits_are_prepared_is_told_in_the_folder(data: ImageData, tmp_path: Path) -> None:
    report = prune_on_data(network(nn.ReLU()), data, tmp_path / "out", QUICK, goal=Goal(Targets(macs=0.8)))
    assert read_preprocessing(tmp_path / "out") == data.preprocessing
    assert data.preprocessing is not None
    assert report["preprocessing"] == data.preprocessing.to_config()
    assert report["preprocessing"]["id2label"]["7"] == "7"


def test_what_cannot_be_exported_as_asked_is_left_out_with_a_warning(data: ImageData, tmp_path: Path) -> None:
    unknown = replace(data, preprocessing=None)
    around = Run(exports=Exports(("pt2",), dynamic=True))
    with pytest.warns(FxpruneWarning, match="is written: the network takes images of 8x8 alone"):
        prune_on_data(network(nn.ReLU()), unknown, tmp_path / "out", QUICK, goal=Goal(Targets(macs=0.8)), run=around)
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    assert program(sample_inputs(data, 3)).shape == (3, 10)
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize(
    ("goal", "finetune_epochs"),
    [
        (Goal(Targets(macs=0.8)), 0),
        (Goal(Targets(macs=0.6), what="channels"), 1),
        (Goal(Targets(macs=0.6), what="all"), 0),
        (Goal(Targets(macs=0.8), strength=1e-3), 0),
    ],
)
def test_a_run_leaves_a_plan_that_cuts_the_same(
    data: ImageData, tmp_path: Path, goal: Goal, finetune_epochs: int
) -> None:
    model = network(nn.ReLU())
    settings = replace(QUICK, finetune_epochs=finetune_epochs)
    report = prune_on_data(model, data, tmp_path, settings, goal=replace(goal, norms="keep"))
    plan = PruningPlan.load(tmp_path / "plan.json")
    assert plan.sites
    assert plan.targets == goal.targets
    cut = plan.apply(trace(model, sample_inputs(data, 4))).graph_module
    assert (total_macs(cut), total_params(cut)) == (report["macs_after"], report["params_after"])


def test_a_plan_is_trained_to_zero_and_gone_on_with(data: ImageData, tmp_path: Path) -> None:
    model, said = network(nn.ReLU()), list[str]()
    traced = trace(model, sample_inputs(data, 4))
    plan = choose(traced, "channels", Targets(macs=0.6))
    goal, out = Goal(Targets(), plan=plan, norms="keep"), tmp_path / "out"
    report = prune_on_data(model, data, out, QUICK, goal=goal)
    assert report["macs_after"] == total_macs(plan.apply(traced).graph_module)
    assert report["accuracy_after_removal"] == pytest.approx(report["accuracy_before_removal"])
    left = PruningPlan.load(out / "plan.json")
    assert {path: sorted(places) for path, places in left.indices.items()} == plan.indices
    again = prune_on_data(model, data, out, QUICK, goal=goal, run=Run(said.append))
    assert again["macs_after"] == report["macs_after"]
    assert any("resuming after epoch 1" in line for line in said)
    other = replace(plan, sites=[replace(one, indices=one.indices[:1]) for one in plan.sites])
    with pytest.raises(LoadError, match="is of a run with plan"):
        prune_on_data(model, data, out, QUICK, goal=replace(goal, plan=other))


def test_a_plan_for_another_network_or_beside_a_target_is_refused(data: ImageData, tmp_path: Path) -> None:
    plan = choose(trace(network(nn.Conv2d(4, 4, 1)), sample_inputs(data, 4)), "channels", Targets(macs=0.6))
    with pytest.raises(LoadError, match="plan is for another network: its layer 2 is 1 Conv2d 4x4x1x1"):
        prune_on_data(network(nn.ReLU()), data, tmp_path / "out", QUICK, goal=Goal(Targets(), plan=plan))
    with pytest.raises(FxpruneError, match="a plan says what goes: leave targets and keep out"):
        Goal(Targets(macs=0.5), plan=plan, keep=["2"])
