"""Tables and plots of the recorded results, in results/*.md and results/*.png.

    python -m benchmarks.report.tables

Reads what the benchmarks wrote to results/; runs nothing.
"""

from __future__ import annotations

import matplotlib as mpl
from matplotlib import pyplot

from benchmarks import RESULTS
from benchmarks.report import accuracy, channels, in_time, inference, latency, partition, untrained, zoo
from benchmarks.report import compile as compile_time
from benchmarks.report.pages import Page, Plot


def main() -> None:
    """Write every page and draw every plot."""
    mpl.use("Agg")
    for one in pages():
        (RESULTS / f"{one.name}.md").write_text(one.markdown)
        for plot in one.plots:
            save(plot)


def pages() -> list[Page]:
    """Return all pages that there are records for, from these as they are now."""
    modules = (accuracy, untrained, latency, in_time, compile_time, channels, partition, inference, zoo)
    return [page for page in (module.page() for module in modules) if page.parts]


def save(plot: Plot) -> None:
    """Draw a picture and write it."""
    figure, axes = pyplot.subplots(figsize=plot.size, layout="constrained")
    plot.draw(axes)
    figure.savefig(RESULTS / f"{plot.name}.png", dpi=plot.dpi)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
