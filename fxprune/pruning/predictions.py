"""What predicts times, as it is given to what prunes: a model, which can measure networks too, or a table alone."""

from __future__ import annotations

from fxprune.costs.latency.latency_table import LatencyTable, table_of
from fxprune.ir.processes import by_the_first, is_one_of_several
from fxprune.pruning.latency_model import LatencyModel

Latency = LatencyModel | LatencyTable


def of_the_first(latency: Latency | None) -> Latency | None:
    """Return what predicts as it does in the first of several processes: what each measured is not the same."""
    if latency is None or not is_one_of_several():
        return latency
    table = by_the_first(lambda: table_of(latency))
    assert table is not None
    return latency.with_table(table) if isinstance(latency, LatencyModel) else table
