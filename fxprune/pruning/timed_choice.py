"""A choice for a target in time: chosen by predictions, timed as it would be emitted, corrected, and chosen again.

    chosen -> measured 4.4 ms of 4.0 -> predictions corrected -> chosen again -> measured 3.98 ms: enough

Each is timed in turns with the unpruned network, at whose first time it is told: the pace of a machine drifts.
Of all tries the best is kept: of those within 1.02 of the target the one that takes most of it, else the fastest.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import fx

from fxprune.choosing.targets import Targets
from fxprune.costs.latency.timing import Timing
from fxprune.errors import FxpruneWarning, TargetError
from fxprune.passes.chains import AFTER_TRAINING
from fxprune.pipelines.pipeline import Pipeline
from fxprune.pruning.latency_model import LatencyModel
from fxprune.pruning.pruning_plan import PruningPlan

MOST, LEAST = 1.02, 0.93
"""What the measured time may be of the target, and shall be at least, where something fits in between."""
TRIES = 5
Choose = Callable[[Targets, LatencyModel], PruningPlan]


@dataclass(frozen=True)
class Try:
    """One choice: the milliseconds that were predicted, and those that were measured, with the spread of repeats."""

    predicted: float
    measured: float
    spread: float

    def __str__(self) -> str:
        return f"predicted {self.predicted:.4g} ms, measured {self.measured:.4g} ms (spread {self.spread:.1%})"


@dataclass(frozen=True)
class Timed:
    """What came of a target in time.

    Attributes:
        limit: the milliseconds that were asked for.
        unpruned: what was measured of the whole network.
        tries: every choice, in turn.
        kept: which of them.
        latency: the model, corrected.
    """

    limit: float
    unpruned: Timing
    tries: tuple[Try, ...]
    kept: int
    latency: LatencyModel

    @property
    def best(self) -> Try:
        """The choice that is kept."""
        return self.tries[self.kept]

    def __str__(self) -> str:
        of = f"of {self.limit:.4g} ms asked for, unpruned {self.unpruned.milliseconds:.4g} ms"
        return f"{self.best}, {of} (spread {self.unpruned.spread:.1%}); {len(self.tries)} tried"


def timed_choice(
    graph_module: fx.GraphModule, targets: Targets, latency: LatencyModel, choose: Choose
) -> tuple[PruningPlan, Timed]:
    """Return what goes of a traced network for targets in time, and how that was found.

    Args:
        graph_module: the traced network.
        targets: with a time; a share is of what the network takes unpruned, measured.
        latency: what predicts and measures times.
        choose: chooses for targets with milliseconds, as a model predicts them.

    Raises:
        TargetError: the targets cannot be met, by the first prediction; says what can.
    """
    whole = Pipeline(AFTER_TRAINING, verify=False)(graph_module).graph_module
    unpruned = latency.measured(whole)
    limit, wanted = targets.milliseconds, targets
    if limit is None:  # of the corrected prediction the share is the limit: who is refused is told the share
        limit = (targets.latency or 1.0) * unpruned.milliseconds
        latency = latency.corrected(latency.milliseconds(whole), unpruned.milliseconds)
    plans: list[PruningPlan] = []
    tries: list[Try] = []
    while len(tries) < TRIES:
        try:
            plan = choose(wanted, latency)
        except TargetError:
            if not tries:
                raise
            break
        if any(plan.sites == one.sites for one in plans):
            break  # nothing fits in between
        plans.append(plan)
        plain = plan.apply(graph_module, norms="fold", verify=False).graph_module
        timing = latency.measured_beside(plain, whole, unpruned.milliseconds)
        tries.append(Try(latency.milliseconds(plain), timing.milliseconds, timing.spread))
        if LEAST <= tries[-1].measured / limit <= MOST:
            break
        latency = latency.corrected(tries[-1].predicted, tries[-1].measured)
        wanted = replace(targets, latency=None, milliseconds=limit)
    kept = _best(tries, limit)
    if tries[kept].measured > MOST * limit:
        told = f"{tries[kept].measured:.4g} ms were measured of the {limit:.4g} ms that were asked for"
        warnings.warn(f"{told}, the least of {len(tries)} tries", FxpruneWarning, stacklevel=2)
    return plans[kept], Timed(limit, unpruned, tuple(tries), kept, latency)


def _best(tries: list[Try], limit: float) -> int:
    """Return which of ``tries`` is the slowest that meets the target, or the fastest."""
    measured = [one.measured for one in tries]
    met = [place for place, one in enumerate(measured) if one <= MOST * limit]
    if met:
        return max(met, key=measured.__getitem__)
    return min(range(len(tries)), key=measured.__getitem__)
