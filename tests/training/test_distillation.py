"""What a pruned network learns from its teacher: outputs, feature maps, and where those can be compared."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from helpers import quiet
from torch import fx, nn
from torchvision.models import mobilenet_v2, resnet50

import fxprune
from fxprune.errors import FxpruneError
from fxprune.passes import RemoveLayers
from fxprune.pipelines.chains import insert_scales
from fxprune.training.cifar_resnet import CifarResNet
from fxprune.training.data import ImageData, sample_inputs
from fxprune.training.distillation import (
    Ensemble,
    distillation,
    feature_distance,
    stage_ends,
    with_feature_maps,
)
from fxprune.training.engine import make_accelerator
from fxprune.training.loop import Trainer
from fxprune.training.metrics import Metrics
from fxprune.training.recipe import train
from fxprune.training.settings import Settings

QUICK = Settings(epochs=2, lr=0.01, batch_size=64, shrink_share=0.5, device="cpu")


def network() -> nn.Module:
    torch.manual_seed(0)
    return CifarResNet(depth=8, in_channels=1)


def traced(model: nn.Module, data: ImageData) -> fx.GraphModule:
    return fxprune.trace(model, sample_inputs(data, 8))


def with_inputs_of(
    model: nn.Module, paths: tuple[str, ...], images: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    read: list[torch.Tensor] = []
    layers = [model.get_submodule(path) for path in paths]
    hooks = [layer.register_forward_pre_hook(lambda _, args: read.append(args[0])) for layer in layers]
    outputs = model(images)
    for hook in hooks:
        hook.remove()
    return outputs, read


def test_the_outputs_distance_is_hintons() -> None:
    logits = torch.randn(5, 10)
    assert float(distillation(logits, logits + 3, 4.0)) == pytest.approx(0, abs=1e-5)
    expected = nn.functional.kl_div((logits / 2).log_softmax(1), (2 * logits / 2).softmax(1), reduction="batchmean")
    torch.testing.assert_close(distillation(logits, 2 * logits, 2.0), 4 * expected)


def test_outputs_are_learned_and_the_teacher_stays(data: ImageData) -> None:
    teacher = network()
    train(teacher, data, replace(QUICK, epochs=4, lr=0.05), quiet)
    kept = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = network()
    train(student, data, replace(QUICK, epochs=4, lr=0.05, distill=1.0), quiet, teacher=teacher)
    assert all(torch.equal(kept[name], value) for name, value in teacher.state_dict().items())
    images = sample_inputs(data, 256)
    student.eval()
    agreement = (student(images).argmax(1) == teacher(images).argmax(1)).float().mean()
    assert agreement > 0.85


def test_several_teachers_are_their_mean() -> None:
    first, second = nn.Linear(4, 3), nn.Linear(4, 3)
    images = torch.randn(2, 4)
    torch.testing.assert_close(Ensemble([first, second])(images), (first(images) + second(images)) / 2)


def test_the_features_distance_is_relative_to_the_teachers() -> None:
    maps, known = [torch.randn(2, 3), torch.randn(2, 4, 5)], [torch.randn(2, 3), torch.randn(2, 4, 5)]
    pairs = [(a[i], b[i]) for a, b in zip(maps, known, strict=True) for i in (0, 1)]
    apart = [((a - b).norm() / b.norm()) ** 2 for a, b in pairs]
    distance = feature_distance(maps, known)
    torch.testing.assert_close(distance, sum(apart) / 4)
    torch.testing.assert_close(feature_distance([10 * a for a in maps], [10 * b for b in known]), distance)
    parts = [feature_distance([a[i : i + 1] for a in maps], [b[i : i + 1] for b in known]) for i in (0, 1)]
    torch.testing.assert_close(sum(parts) / 2, distance)  # so that processes may share the images
    known[0][0] = 0  # says nothing of how far off the first image's map is
    torch.testing.assert_close(feature_distance(maps, known), sum(apart[1:]) / 4)


def test_maps_are_compared_at_the_ends_of_stages() -> None:
    found = {}
    for make in (resnet50, mobilenet_v2):
        graph = fxprune.trace(make(), torch.randn(2, 3, 64, 64))
        found[make] = stage_ends(insert_scales(graph, "all", verify=False).graph_module, graph)
    stages = ["layer1_0_downsample_0", "layer2_0_conv1", "layer3_0_conv1", "layer4_0_conv1", "fc"]
    assert found[resnet50] == stages  # none inside of the blocks with a projection
    blocks = [name.split("_")[1] for name in found[mobilenet_v2][:-1]]  # those that no shortcut goes around
    assert list(dict.fromkeys(blocks)) == ["1", "2", "4", "7", "11", "14", "17", "18"]
    assert found[mobilenet_v2][-2:] == ["features_18_0", "classifier_1"]


def test_gates_of_channels_leave_the_ends_of_stages_where_they_are(data: ImageData) -> None:
    teacher = traced(network().eval(), data)
    gated = insert_scales(teacher, what="channels").graph_module
    readers = stage_ends(gated, teacher)
    assert readers == stage_ends(insert_scales(teacher, what="branches").graph_module, teacher)
    images = sample_inputs(data, 8)
    for mine, known in zip(*(with_feature_maps(one, readers)(images)[1] for one in (gated, teacher)), strict=True):
        torch.testing.assert_close(mine, known)


def test_the_maps_are_those_of_the_graph_and_layers_may_go(data: ImageData) -> None:
    teacher = traced(network(), data)
    sparse = insert_scales(teacher, "all").graph_module
    readers = stage_ends(sparse, teacher)
    assert readers == ["layer2_0_conv1", "layer3_0_conv1", "linear"]
    images = sample_inputs(data, 4)
    for training in (True, False):
        teacher.train(training)
        logits, expected = with_inputs_of(teacher, ("layer2.0.conv1", "layer3.0.conv1", "linear"), images)
        found, maps = with_feature_maps(teacher, readers)(images)
        assert torch.equal(found, logits)
        assert all(torch.equal(a, b) for a, b in zip(maps, expected, strict=True))
    removed = RemoveLayers(target_macs=0.6)(sparse).graph_module
    shapes = [one.shape for one in with_feature_maps(removed, readers)(images)[1]]
    assert shapes == [one.shape for one in maps]
    assert torch.equal(teacher(images), logits)  # it still returns logits alone


class Scaled(nn.Module):
    """A factor that passes may fold into the classifier, so that it reads something else."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()
        self.body.linear = nn.Identity()
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.classifier(self.body(x) * 0.1)
        return y


def test_a_compiled_teacher_has_the_same_maps(data: ImageData) -> None:
    teacher = traced(Scaled().eval(), data)
    sparse = insert_scales(copy.deepcopy(teacher), "all").graph_module
    settings = replace(QUICK, distill_features=1.0)
    accelerator = make_accelerator(settings)
    trainer = Trainer(sparse, data, settings, Metrics(None, accelerator), teacher=teacher)
    assert isinstance(trainer.teacher, fx.GraphModule)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in trainer.teacher.modules())
    images = sample_inputs(data, 8)
    logits, maps = trainer.teacher(images)
    torch.testing.assert_close(logits, teacher(images))
    known = with_feature_maps(teacher, stage_ends(sparse, teacher))(images)[1]
    assert len(maps) == 3
    assert float(feature_distance(maps, known).detach()) < 1e-9


def test_the_weight_of_maps_falls_with_the_learning_rate(data: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxprune.training.loop.feature_distance", lambda maps, known: torch.ones(()))
    teacher = traced(network().eval(), data)
    settings = replace(QUICK, distill_features=2.0)
    accelerator = make_accelerator(settings)
    sparse = insert_scales(copy.deepcopy(teacher), "all").graph_module
    trainer = Trainer(sparse, data, settings, Metrics(None, accelerator), teacher=teacher)
    trainer.prepare()
    images, labels = sample_inputs(data, 8), torch.zeros(8, dtype=torch.long)
    losses = []
    steps = (trainer.schedule.total_steps // 2, trainer.schedule.total_steps)
    for trainer.step in steps:
        torch.manual_seed(0)
        losses.append(float(trainer._backward(images, labels, 8)))
    assert trainer.schedule.at(steps[1]) == pytest.approx(0, abs=1e-9)
    assert losses[0] - losses[1] == pytest.approx(2.0 * trainer.schedule.at(steps[0]) / settings.lr, rel=1e-3)


def test_maps_are_learned_while_layers_go(data: ImageData) -> None:
    model = network()
    train(model, data, replace(QUICK, lr=0.05), quiet)
    model.cpu().eval()
    teacher = traced(model, data)
    distances = {}
    for weight in (0.0, 5.0):
        student = insert_scales(copy.deepcopy(teacher), "all").graph_module
        settings = replace(QUICK, epochs=4, lr=0.05, distill_features=weight)
        rows = train(student, data, settings, quiet, shrink=fxprune.Targets(macs=0.6), teacher=teacher)
        assert rows[-1]["macs_left"] <= 0.6
        readers = stage_ends(student, teacher)
        images = sample_inputs(data, 256)
        (_, maps), (_, known) = (with_feature_maps(one.eval(), readers)(images) for one in (student, teacher))
        distances[weight] = float(feature_distance(maps, known).detach())
    assert distances[5.0] < 0.7 * distances[0.0]


def test_teachers_that_will_not_do_are_refused(data: ImageData) -> None:
    graph = traced(network(), data)
    sparse = insert_scales(graph, "all").graph_module
    other = traced(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10)), data)
    with pytest.raises(FxpruneError, match=r"none of the model's feature maps .*what layer2_0_conv1,"):
        stage_ends(sparse, other)
    plain = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
    with pytest.raises(FxpruneError, match="nothing to compare"):
        stage_ends(insert_scales(traced(plain, data), "all").graph_module, other)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(64, 12))
    with pytest.raises(FxpruneError, match="need a teacher"):
        train(sparse, data, replace(QUICK, distill=1.0), quiet, shrink=fxprune.Targets(macs=0.6))
    with pytest.raises(FxpruneError, match=r"returns \(64, 12\), the model \(64, 10\): give one"):
        train(sparse, data, replace(QUICK, distill=1.0), quiet, teacher=wide)
    with pytest.raises(FxpruneError, match="at least 0"):
        replace(QUICK, distill_features=-1.0)
    with pytest.raises(FxpruneError, match="shares weights with the model"):
        train(sparse, data, replace(QUICK, distill=1.0), quiet, shrink=fxprune.Targets(macs=0.6), teacher=graph)
    with pytest.raises(FxpruneError, match="trace the model and its teacher"):
        train(
            sparse,
            data,
            replace(QUICK, distill_features=1.0),
            quiet,
            shrink=fxprune.Targets(macs=0.6),
            teacher=network(),
        )
