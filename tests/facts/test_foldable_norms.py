"""Which norms fold: predictions of times and the pass agree, whatever stands in the way."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import Wrapped
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

import fxprune
from fxprune.costs.latency.network_ops import ops_of
from fxprune.passes.chains import AFTER_TRAINING
from fxprune.pipelines.pipeline import Pipeline


class Own(nn.Conv2d):
    """A conv of the user's own class."""


IMAGE, ROWS = (2, 4, 6, 6), (2, 4)
CONV, NORM = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
CASES: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
    "folded": (nn.Sequential(copy.deepcopy(CONV), nn.BatchNorm2d(4)), IMAGE, 0),
    "a computed weight": (nn.Sequential(weight_norm(copy.deepcopy(CONV)), nn.BatchNorm2d(4)), IMAGE, 0),
    "no running statistics": (nn.Sequential(CONV, nn.BatchNorm2d(4, track_running_stats=False)), IMAGE, 1),
    "a shared conv": (Wrapped(lambda self, x: self.a(self.c(self.c(x))), c=CONV, a=NORM), IMAGE, 1),
    "a shared norm": (Wrapped(lambda self, x: self.a(self.c(self.a(x))), c=CONV, a=NORM), IMAGE, 2),
    "a second reader": (Wrapped(lambda self, x: self.a(y := self.c(x)) * y, c=CONV, a=NORM), IMAGE, 1),
    "a transposed conv": (nn.Sequential(nn.ConvTranspose2d(4, 4, 3), nn.BatchNorm2d(4)), IMAGE, 1),
    "a class of the user's": (nn.Sequential(Own(4, 4, 3), nn.BatchNorm2d(4)), IMAGE, 0),  # traced as a function
    "a function with a weight that others read": (
        Wrapped(
            lambda self, x: self.a(functional.conv2d(x, self.c.weight)) + functional.conv2d(x, self.c.weight),
            c=CONV,
            a=NORM,
        ),
        IMAGE,
        1,
    ),
    "a standardized weight": (
        Wrapped(
            lambda self, x: self.a(functional.conv2d(x, self.c.weight - self.c.weight.mean())),
            c=nn.Conv2d(4, 4, 3),
            a=NORM,
        ),
        IMAGE,
        0,
    ),
    "a function of a matrix": (
        Wrapped(lambda self, x: self.a(functional.linear(x, self.c.weight)), c=nn.Linear(4, 4), a=nn.BatchNorm1d(4)),
        ROWS,
        1,
    ),
    "a linear layer": (nn.Sequential(nn.Flatten(), nn.Linear(144, 4), nn.BatchNorm1d(4)), IMAGE, 0),
    "a linear layer of any rank": (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), ROWS, 1),
    "a linear layer of three axes": (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(3)), (2, 3, 4), 1),
    "a function": (
        Wrapped(
            lambda self, x: functional.batch_norm(self.c(x), self.a.running_mean, self.a.running_var), c=CONV, a=NORM
        ),
        IMAGE,
        1,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_times_count_the_norms_that_stay(name: str) -> None:
    model, shape, stay = CASES[name]
    graph = fxprune.trace(model.eval(), torch.randn(*shape))
    plain = Pipeline(AFTER_TRAINING, verify=False)(graph).graph_module
    before, after = ([one.workload for one in ops_of(each, shape[0])] for each in (graph, plain))
    assert before == after
    assert sum("batch_norm" in one.family or "BatchNorm" in one.family for one in before) == stay
