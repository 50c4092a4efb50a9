"""What tests of training share: data, and an engine of its own for those that choose a device or a precision."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from accelerate.state import AcceleratorState

from fxprune.training.data import ImageData, load_data


@pytest.fixture(scope="session")
def data() -> ImageData:
    return load_data("digits")


@pytest.fixture
def fresh_engine() -> Iterator[None]:
    """Let the test choose another device or precision than those before it: accelerate keeps the first."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
