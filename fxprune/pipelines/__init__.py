"""Passes in a row, and by name."""

from typing import Literal

Layers = Literal["all", "convs", "branches"]
"""Which layers get scales; here, where it can be told without torch."""
