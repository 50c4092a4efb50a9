"""The parts of README.md that scripts write, between marks."""

from __future__ import annotations

from pathlib import Path


def replace_part(readme: Path, start: str, end: str, text: str) -> None:
    """Put ``text`` in place of what stands between the lines ``start`` and ``end``."""
    before, _, rest = readme.read_text().partition(start)
    after = rest.partition(end)[2]
    readme.write_text(f"{before}{start}\n\n{text}\n\n{end}{after}")
