"""What the shell keeps of a search for a blend of criteria: a folder with its state, the blend, and a page.

What takes torch is imported where it is used: help and errors of usage come at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fxprune.cli.options import collected

if TYPE_CHECKING:
    from fxprune.choosing.criteria.base import Criterion

BLEND = "blend"
_STATE, _FOUND, _PAGE = "search.json", "blend.json", "blend.html"


@dataclass(frozen=True)
class Search:
    """How a blend is searched, and the folder that is gone on from."""

    search: Path | None
    generations: int | None

    def criterion(self, name: str) -> str | Criterion:
        """Return the criterion of that name; blend as it is to be searched, and that of a file of one."""
        if name.endswith(".json"):
            from fxprune.choosing.criterion_blend import Blend

            self._require_unused(f"{name} is found already")
            return Blend.load(Path(name))
        if name != BLEND:
            self._require_unused(f"--criterion {name} is not searched")
            return name
        from fxprune.files import make_folder
        from fxprune.pruning.blend.by_name import Blending
        from fxprune.pruning.blend.search import BlendSettings
        from fxprune.render.plots import plotting

        settings = BlendSettings() if self.generations is None else BlendSettings(generations=self.generations)
        if self.search is None:
            return Blending(settings)
        plotting()  # an error now, and not after the search, where it cannot draw
        make_folder(self.search)
        return Blending(settings, self.search / _STATE, self.search / _FOUND)

    def _require_unused(self, why: str) -> None:
        if self.search is not None or self.generations is not None:
            raise click.UsageError(f"--search and --generations are of --criterion {BLEND}, and {why}")

    def write_page(self, title: str) -> None:
        """Write the page of the search, if there is a folder for it."""
        if self.search is None:
            return
        from fxprune.choosing.blend_record import SearchRecord
        from fxprune.choosing.criterion_blend import Blend
        from fxprune.files import write_text
        from fxprune.render.blend_page import blend_page

        record, found = SearchRecord.load(self.search / _STATE), Blend.load(self.search / _FOUND)
        write_text(self.search / _PAGE, blend_page(record, found, title=title))


def search_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give ``command`` the options of :class:`Search`, as one value ``search``."""
    folder = click.option(
        "--search",
        type=click.Path(path_type=Path),
        help=f"Folder for --criterion {BLEND}: it goes on from there, and leaves {_FOUND}, a criterion, and {_PAGE}.",
    )
    count = click.option(
        "--generations",
        type=click.IntRange(min=1),
        help=f"Of the search for --criterion {BLEND}, 20 blends each; 20.",
    )
    return folder(count(collected("search", Search)(command)))
