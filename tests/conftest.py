"""Every graph that a pass makes in a test is checked for what must hold of all graphs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fxprune.rewriting.invariants import checking_invariants

sys.path.append(str(Path(__file__).parent.parent))  # for benchmarks; last, for fxprune is the installed one

if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has a core of its own
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _invariants() -> Iterator[None]:
    with checking_invariants():
        yield
