"""Finding models by name, and weights that fit or do not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from helpers import TinyNet, assert_state_equal, state_of
from safetensors.torch import save_file

import fxprune
from fxprune.errors import LoadError
from fxprune.sources.models import load_model, load_weights

FACTORY = """
import torch
def make():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3, padding=1))
def wrong():
    return 3
def wants(classes):
    return make()
def fails():
    return 1 / 0
number = 3
instance = make()
"""


@pytest.fixture
def factory(tmp_path: Path) -> Path:
    path = tmp_path / "some_factory.py"
    path.write_text(FACTORY)
    return path


def test_a_factory_in_a_file(factory: Path) -> None:
    assert isinstance(load_model(f"{factory}:make").model, torch.nn.Sequential)
    assert isinstance(load_model(f"{factory}:instance").model, torch.nn.Sequential)


def test_a_factory_in_a_package() -> None:
    model = load_model("fxprune.training.cifar_resnet:CifarResNet").model
    assert sum(p.numel() for p in model.parameters()) == 269_722


def test_torchvision_and_timm() -> None:
    pytest.importorskip("timm", reason="the extra timm is not installed")
    assert load_model("torchvision:resnet18", classes=7).model.get_parameter("fc.bias").shape == (7,)
    load_model("torchvision:fcn_resnet50")  # its backbone's weights are not downloaded
    loaded = load_model("timm:resnet10t", classes=7)
    assert loaded.input_shape is not None
    assert loaded.input_shape[:2] == (1, 3)


def test_an_emitted_folder(tmp_path: Path) -> None:
    graph = fxprune.trace(TinyNet().eval(), torch.randn(2, 3, 8, 8))
    fxprune.emit(graph, tmp_path / "out")
    assert load_model(str(tmp_path / "out")).input_shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchvision:resnet19", "did you mean 'resnet1"),
        ("timm:resnet10_t", "did you mean 'resnet10t'"),
        ("resnet18", "no model 'resnet18'"),
        ("no_such_package.x:make", "cannot import no_such_package"),
        ("no/such/file.py:make", "there is no file"),
        ("{file}:mak", "did you mean 'make'"),
        ("{file}:wrong", r"returned int, not an nn\.Module"),
        ("{file}:wants", "cannot be called without arguments: missing a required argument: 'classes'"),
        ("{file}:number", "is a int, neither an nn.Module nor something that makes one"),
        ("{file}", "is a file; name the function or class in it"),
        ("{file}:fails", "fails failed: ZeroDivisionError: division by zero"),
        ("torchvison:resnet18", "no model 'torchvison:resnet18'; did you mean 'torchvision'"),
    ],
)
def test_errors_say_what_to_write(factory: Path, spec: str, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        load_model(spec.format(file=factory))


def test_a_package_with_a_name_like_timm_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "timm2.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    assert isinstance(load_model("timm2:make").model, torch.nn.Module)


def test_weights_of_every_usual_kind(tmp_path: Path) -> None:
    source = TinyNet()
    state = source.state_dict()
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pt")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pt", "w.pth"):
        model = TinyNet()
        load_weights(model, tmp_path / name)
        assert_state_equal(model, state)


def test_weights_that_do_not_fit_name_the_keys_and_change_nothing(tmp_path: Path) -> None:
    model = TinyNet()
    before = state_of(model)
    state = dict(model.state_dict())
    state["extra.weight"] = state.pop("head.bias")
    save_file(state, tmp_path / "keys.safetensors")
    with pytest.raises(LoadError, match=r"lacks head\.bias and has unknown extra\.weight"):
        load_weights(model, tmp_path / "keys.safetensors")
    save_file(TinyNet(classes=9).state_dict(), tmp_path / "shape.safetensors")
    with pytest.raises(LoadError, match=r"head\.bias has shape \(9,\), the model's has \(5,\)"):
        load_weights(model, tmp_path / "shape.safetensors")
    assert_state_equal(model, before)


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="there is no file"):
        load_weights(TinyNet(), tmp_path / "none.pt")
    with pytest.raises(LoadError, match="is a folder; give a file of weights"):
        load_weights(TinyNet(), tmp_path)
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(LoadError, match=r"text\.pt, as torch\.save or safetensors writes them: [A-Z]\w+: "):
        load_weights(TinyNet(), tmp_path / "text.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\x00\x00")
    with pytest.raises(LoadError, match="cannot read weights"):
        load_weights(TinyNet(), tmp_path / "cut.safetensors")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "pickle.pt")
    with pytest.raises(LoadError, match="holds more than tensors"):
        load_weights(TinyNet(), tmp_path / "pickle.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    with pytest.raises(LoadError, match="holds no state dict"):
        load_weights(TinyNet(), tmp_path / "empty.pt")


def test_a_file_may_import_what_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "lies_beside.py").write_text(FACTORY)
    (tmp_path / "imports_it.py").write_text("from lies_beside import make")
    assert isinstance(load_model(f"{tmp_path}/imports_it.py:make").model, torch.nn.Sequential)
    (tmp_path / "imports_nothing.py").write_text("import no_such_module")
    with pytest.raises(LoadError, match=r"cannot import .*imports_nothing.py: No module named 'no_such_module'"):
        load_model(f"{tmp_path}/imports_nothing.py:make")


def test_a_package_may_lie_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lies_here").mkdir()
    (tmp_path / "lies_here" / "models.py").write_text(FACTORY)
    assert isinstance(load_model("lies_here.models:make").model, torch.nn.Sequential)


def test_weights_for_other_classes_leave_the_classifier_random(tmp_path: Path) -> None:
    state = load_model("torchvision:squeezenet1_1", classes=7).model.state_dict()
    save_file(state, tmp_path / "seven.safetensors")
    loaded = load_model("torchvision:squeezenet1_1", tmp_path / "seven.safetensors", classes=3)
    assert set(loaded.left_random) == {"classifier.1.weight", "classifier.1.bias"}
    assert torch.equal(loaded.model.get_parameter("features.0.weight"), state["features.0.weight"])
    with pytest.raises(LoadError, match=r"classifier\.1\.\w+ has shape"):
        load_model("torchvision:squeezenet1_1", tmp_path / "seven.safetensors")


def test_only_library_models_without_weights_are_random(factory: Path) -> None:
    assert load_model("torchvision:squeezenet1_1").is_random
    assert not load_model(f"{factory}:make").is_random
    with pytest.raises(LoadError, match="--classes is for models of torchvision: and timm:"):
        load_model(f"{factory}:make", classes=3)


def test_pretrained_weights_come_from_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    theirs = torchvision.models.resnet18(weights=None)
    urls: list[str] = []

    def download(url: str, **_: Any) -> dict[str, torch.Tensor]:
        urls.append(url)
        return dict(theirs.state_dict())

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", download)
    loaded = load_model("torchvision:resnet18", pretrained=True)
    assert_state_equal(loaded.model, state_of(theirs))
    assert (loaded.is_random, loaded.left_random) == (False, ())
    loaded = load_model("torchvision:resnet18", classes=5, pretrained=True)
    assert loaded.left_random == ("fc.weight", "fc.bias")
    assert torch.equal(loaded.model.get_parameter("conv1.weight"), theirs.conv1.weight)
    assert all("resnet18" in url for url in urls)


def test_what_cannot_be_downloaded_is_one_line(monkeypatch: pytest.MonkeyPatch, factory: Path) -> None:
    import torchvision

    def offline(url: str, **_: Any) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", offline)
    with pytest.raises(LoadError, match=r"Name or service not known.*; offline, give a file of them with --weights"):
        load_model("torchvision:resnet18", pretrained=True)
    with pytest.raises(LoadError, match="cannot get the pretrained weights of torchvision:mnasnet1_3"):
        load_model("torchvision:mnasnet1_3", pretrained=True)
    with pytest.raises(LoadError, match="is for models of torchvision: and timm:"):
        load_model(f"{factory}:make", pretrained=True)
    with pytest.raises(LoadError, match="not both"):
        load_model("torchvision:resnet18", factory, pretrained=True)


def test_timm_has_no_weights_of_some(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm", reason="the extra timm is not installed")
    monkeypatch.setattr(timm, "is_model_pretrained", lambda name: False)
    with pytest.raises(LoadError, match="timm has no pretrained weights of resnet10t"):
        load_model("timm:resnet10t", pretrained=True)
