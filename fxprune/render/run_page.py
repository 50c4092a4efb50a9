"""A training run as one HTML file: plots over time, what came out, and the layers; no script, no network."""

from __future__ import annotations

from collections.abc import Iterator

from fxprune.render.html import escaped
from fxprune.render.plain_page import plain_page, table
from fxprune.render.plots import run_plots
from fxprune.run_record import NO_SCALES, RunRecord, run_title
from fxprune.run_results import WIDTHS_TITLES, before_and_after, notes_on, trainings_told, widths_rows


def run_page(run: RunRecord) -> str:
    """Return the page of a run, finished or not; raises FxpruneError if matplotlib is not installed."""
    body = [f"<p>{escaped(run.headline)}</p>"]
    if run.report is not None:
        body += ["<h2>Before and after</h2>", table(("", "before", "after"), before_and_after(run.report))]
        body += [f"<p>{escaped(note)}</p>" for note in notes_on(run.report)]
    plots = run_plots(run)
    shown = f'<h2>Over time</h2><div class="plots">{plots}</div>'
    body.append(shown if plots else "<p>Nothing was measured yet.</p>")
    rows = list(_layers(run))
    if run.report is not None and "ucp" in run.report:
        body += ["<h2>Widths</h2>", f"<p>{escaped(trainings_told(run.report))}</p>"]
        body.append(table(WIDTHS_TITLES, widths_rows(run.report)))
    elif rows:
        body += ["<h2>Layers</h2>", table(("layer", "scale", "gone from step"), rows)]
    else:
        body.append(f"<p>{escaped(NO_SCALES)}</p>")
    title = run_title({**run.settings, **(run.report or {})})
    return plain_page(f"{title}: training" if title else "Training run", body)


def _layers(run: RunRecord) -> Iterator[tuple[str, str, str]]:
    """Yield the path of each layer, its last scale and from which step on it was gone, those that are gone first."""
    steps, scales = run.scales()
    gone = run.gone_without_zero()
    for path, values in sorted(
        scales.items(), key=lambda item: (item[0] not in gone and item[1][-1] != 0, item[1][-1])
    ):
        zero = next((step for step, value in zip(steps, values, strict=True) if value == 0), None)
        since = zero if zero is not None else gone.get(path)
        how = [run.gone_how] if path in gone else []
        yield path, f"{values[-1]:.4g}", ", ".join([*([] if since is None else [f"{since:,}"]), *how])
