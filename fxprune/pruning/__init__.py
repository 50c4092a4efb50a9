"""When what is chosen goes: shrinking in a loop of the user's own, or all in one call."""

from fxprune.pruning.own_loops import l1_term, macs_weighted, measure_inputs, parameter_groups, report
from fxprune.pruning.proximal import ProximalL1

__all__ = [
    "ProximalL1",
    "l1_term",
    "macs_weighted",
    "measure_inputs",
    "parameter_groups",
    "report",
]
