"""What the README's figures come from: ``python -m benchmarks.FOLDER.NAME``, from the root of the repository."""

from __future__ import annotations

from pathlib import Path

RESULTS = Path(__file__).parent / "results"
"""Records, and the tables and plots of them."""
