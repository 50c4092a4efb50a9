"""When what is chosen goes: shrinking in a loop of the user's own, or all in one call."""

from fxprune.pruning.proximal import (
    ProximalL1,
    l1_term,
    macs_weighted,
    measure_inputs,
    parameter_groups,
    report,
)

__all__ = [
    "ProximalL1",
    "l1_term",
    "macs_weighted",
    "measure_inputs",
    "parameter_groups",
    "report",
]
