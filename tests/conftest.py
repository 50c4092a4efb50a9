"""Every graph that a pass makes in a test is checked for what must hold of all graphs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fxprune.rewriting.invariants import checking_invariants


@pytest.fixture(autouse=True)
def _invariants() -> Iterator[None]:
    with checking_invariants():
        yield
