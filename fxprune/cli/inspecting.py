"""How ``fxprune inspect`` shows what it found.

What takes torch is imported where it is used: help and errors of usage come at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fxprune.cli.options import print_json, write_page
from fxprune.errors import LoadError, did_you_mean

if TYPE_CHECKING:
    from torch import fx

    from fxprune.choosing.channel_report import ChannelInspection
    from fxprune.choosing.inspection import Inspection


@dataclass(frozen=True)
class Shown:
    """How an inspection is shown: the options that say so, which exclude one another."""

    as_json: bool
    html_file: Path | None
    channels: bool
    why: str | None

    def require_sense(self) -> None:
        """Raise UsageError if several are given."""
        if sum((self.as_json, self.html_file is not None, self.channels, self.why is not None)) > 1:
            raise click.UsageError("--json, --html, --channels and --why exclude one another")

    def show(self, model: str, graph_module: fx.GraphModule, found: Inspection, channels: ChannelInspection) -> None:
        """Print what was found in ``graph_module``, or write it to a page."""
        from fxprune.render.html import graph_page

        if self.html_file is not None:
            write_page(self.html_file, graph_page(graph_module, found, channels, title=model))
        elif self.as_json:
            print_json({"model": model, **found.to_json(), **channels.to_json()})
        elif self.why is not None:
            click.echo("\n".join(story(found, channels, self.why)))
        elif self.channels:
            click.echo(f"{found}\n\n{channels}")
        else:
            click.echo(f"{found}\n{channels.summary}; --channels lists them")


def story(found: Inspection, channels: ChannelInspection, path: str) -> list[str]:
    """Return all that was found of a layer, or of those of a module: a heading each, and lines below it.

    Raises LoadError if nothing was.
    """
    told: dict[str, list[str]] = {}
    for kind, sites in (("conv", found.convs), ("branch", found.branches)):
        for name, site in sites:
            verdict = "can be removed" if site.eligible else f"stays: {site.reason}"
            told.setdefault(name, []).append(f"{kind}: {verdict}; {site.macs:,} MACs, {site.params:,} parameters")
    for one in found.linears:
        told.setdefault(one.path, []).append(
            f"partition: {one.verdict}; {one.macs:,} MACs, {one.params:,} parameters"
        )
    known = dict.fromkeys((*told, *channels.paths))
    lines = []
    for name in known:
        if name == path or name.startswith((f"{path}.", f"{path} ")):  # a branch: layer1.0 [conv1 ... bn2]
            lines += [name, *(f"  {line}" for line in (*told.get(name, ()), *channels.why(name)))]
    if not lines:
        hint = did_you_mean(path, list(known)) or "; fxprune inspect lists them"
        raise LoadError(f"no conv, no branch, no linear layer and no channels are called {path!r}{hint}")
    return lines
