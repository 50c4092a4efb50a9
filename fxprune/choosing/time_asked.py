"""What a target in time asks for: milliseconds, a model that tells them, and what to say where they cannot be had."""

from __future__ import annotations

import math

from fxprune.choosing.targets import Targets
from fxprune.costs.latency.latency_table import LatencyTable
from fxprune.errors import FxpruneError, TargetError


def require_latency(targets: Targets, latency: LatencyTable | None, taker: str) -> None:
    """Raise FxpruneError if ``targets`` ask for a time, and nothing says how long ops take."""
    if targets.is_timed and latency is None:
        raise FxpruneError(
            f"{taker} needs a model of times for {targets}: give latency=fxprune.LatencyModel.measure(traced), "
            "which measures the network where it will run (in the shell: fxprune prune --target-ms)"
        )


def milliseconds_asked(targets: Targets, whole: float) -> float:
    """Return the milliseconds that ``targets`` leave, of ``whole`` that are taken unpruned."""
    assert targets.is_timed
    return targets.milliseconds if targets.milliseconds is not None else (targets.latency or 1.0) * whole


def require_milliseconds(targets: Targets, limit: float, least: float, what: str) -> None:
    """Raise TargetError if more than ``limit`` is left where ``what``, all that can go, has gone."""
    if least > limit:
        raise time_error(targets, limit, least, f"without {what}")


def time_error(targets: Targets, limit: float, least: float, without: str) -> TargetError:
    """Return what to raise where ``least`` milliseconds are left of ``limit``, with what can be had."""
    if targets.milliseconds is not None:
        asked, advice = f"target_ms={limit:g}", f"ask for at least {_up(least):g} ms"
    else:
        share = (targets.latency or 1.0) * least / limit
        asked, advice = f"target_latency={targets.latency:g}", f"ask for at least {share + 5e-4:.3f}"
    takes = f"a forward pass takes {least:.4g} ms, as predicted"
    return TargetError(f"{asked} cannot be met: {without} {takes}; {advice}")


def _up(milliseconds: float) -> float:
    """Return a time rounded up to three digits."""
    unit = 10.0 ** (math.floor(math.log10(milliseconds)) - 2)
    return math.ceil(milliseconds / unit) * unit
