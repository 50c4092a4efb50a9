"""The benchmarks as they are written about: named commands exist, links lead somewhere, tables are the records'."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").rglob("*.md")]
SOURCES = [*(ROOT / "benchmarks").rglob("*.py"), ROOT / ".ci" / "run"]


def test_every_command_that_is_named_is_a_module_with_a_main() -> None:
    texts = "\n".join(path.read_text() for path in (*PAGES, *SOURCES))
    named = set(re.findall(r"-m (benchmarks(?:\.[a-z]\w*)+)", texts))
    assert len(named) > 10
    for name in named:
        assert "def main()" in (ROOT / f"{name.replace('.', '/')}.py").read_text(), name


def test_every_benchmark_that_can_be_run_is_in_the_readme() -> None:
    readme = (ROOT / "benchmarks" / "README.md").read_text()
    by_others = {"benchmarks.speed.compile_steps", "benchmarks.zoo.timm_cnns"}
    for path in (ROOT / "benchmarks").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if "def main()" in path.read_text() and name not in by_others:
            assert f"-m {name}" in readme


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        if "://" not in link:
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """Return the names that GitHub gives to a page's headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_tables_are_what_the_records_say() -> None:
    code = (
        "from benchmarks import RESULTS\n"
        "from benchmarks.report.tables import pages\n"
        "print([page.name for page in pages() if (RESULTS / f'{page.name}.md').read_text() != page.markdown])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.strip() == "[]", "run python -m benchmarks.report.tables"
