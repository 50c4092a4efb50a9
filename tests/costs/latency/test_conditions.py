"""Conditions: what makes no sense, or is not here, is said in one line."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch

from fxprune.costs.latency.conditions import Conditions, require_backend
from fxprune.errors import FxpruneError


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"batch": 0}, "batch is at least 1; got 0"),
        ({"threads": -1}, "threads is at least 1"),
        ({"layout": "NHWC"}, "layout is contiguous or channels_last; got 'NHWC'"),
        ({"dtype": "float"}, None),
        ({"dtype": "fp32"}, "dtype is one of torch's"),
        ({"dtype": "int8"}, "dtype is of the weights, a floating point one; got 'int8'"),
    ],
)
def test_values_that_make_no_sense(wrong: dict[str, Any], told: str | None) -> None:
    if told is None:
        assert Conditions(**wrong).torch_dtype == torch.float
        return
    with pytest.raises(FxpruneError, match=told):
        Conditions(**wrong)


def test_an_unknown_backend_is_named_with_the_nearest() -> None:
    with pytest.raises(FxpruneError, match=r"unknown backend 'onnx'.*onnxruntime"):
        require_backend(Conditions("onnx"))


def test_a_backend_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FxpruneError, match=r"needs onnx; pip install 'fxprune\[onnx\]'"):
        require_backend(Conditions("onnxruntime"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_no_cuda_device() -> None:
    with pytest.raises(FxpruneError, match="there is no CUDA device here; give device='cpu'"):
        require_backend(Conditions(device="cuda"))


def test_a_device_that_is_none() -> None:
    with pytest.raises(FxpruneError, match="toaster cannot compute in float32"):
        require_backend(Conditions(device="toaster"))


def test_a_dtype_that_the_device_cannot_do() -> None:
    with pytest.raises(FxpruneError, match="cpu cannot compute in float8_e4m3fn"):
        require_backend(Conditions(dtype="float8_e4m3fn"))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"dtype": "bfloat16"}, "ONNX Runtime is timed in float32, float16, float64; got bfloat16"),
        ({"layout": "channels_last"}, "ONNX Runtime lays tensors out by itself: leave layout out"),
    ],
)
def test_what_onnx_runtime_does_not_take(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(FxpruneError, match=told):
        require_backend(Conditions("onnxruntime", **wrong))


def test_placed_is_in_dtype_and_lies_as_it_did() -> None:
    conditions = Conditions(dtype="bfloat16", layout="channels_last")
    value = conditions.placed(torch.ones(2, 3, 4, 4))
    assert value.dtype == torch.bfloat16
    assert value.is_contiguous()
    assert conditions.placed(torch.ones(2, dtype=torch.long)).dtype == torch.long
    assert str(conditions) == "eager, 1 thread, batch 1, bfloat16, channels_last"
