"""Every graph that a pass makes in a test is checked for what must hold of all graphs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fxprune.rewriting.invariants import checking_invariants

sys.path.append(str(Path(__file__).parent.parent))  # for benchmarks; last, for fxprune is the installed one


@pytest.fixture(autouse=True)
def _invariants() -> Iterator[None]:
    with checking_invariants():
        yield
