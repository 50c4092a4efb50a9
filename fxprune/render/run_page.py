"""A training run as one HTML file: plots over time, what came out, and the layers; no script, no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from string import Template

from fxprune.render.html import escaped, static
from fxprune.render.plots import run_plots
from fxprune.run_record import NO_SCALES, RunRecord, before_and_after, notes_on


def run_page(run: RunRecord) -> str:
    """Return the page of a run, finished or not; raises FxpruneError if matplotlib is not installed."""
    steps, scales = run.scales()
    body = [f"<p>{escaped(run.headline)}</p>"]
    if run.report is not None:
        body += ["<h2>Before and after</h2>", _table(("", "before", "after"), before_and_after(run.report))]
        body += [f"<p>{escaped(note)}</p>" for note in notes_on(run.report)]
    plots = run_plots(run)
    body.append(
        f'<h2>Over time</h2><div class="plots" role="img" aria-label="Plots over time">{plots}</div>'
        if plots
        else "<p>Nothing was measured yet.</p>"
    )
    if not steps:
        body.append(f"<p>{escaped(NO_SCALES)}</p>")
    else:
        rows = []
        for path, values in sorted(scales.items(), key=lambda item: item[1][-1]):
            zero = next((step for step, value in zip(steps, values, strict=True) if value == 0), None)
            rows.append((path, f"{values[-1]:.4g}", "" if zero is None else f"{zero:,}"))
        body += ["<h2>Layers</h2>", _table(("layer", "scale", "zero from step"), rows)]
    return Template(static("run.html")).substitute(
        title=escaped(f"{run.folder.resolve().name}: training"),
        style=static("theme.css") + static("run.css"),
        body="\n".join(body),
    )


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escaped(text)}</th>' for text in headers)
    body = "\n".join(f"<tr>{''.join(f'<td>{escaped(text)}</td>' for text in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
