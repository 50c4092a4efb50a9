"""The name of before for :mod:`fxprune.pruning`; it goes with 0.2."""

import warnings

from fxprune.errors import FxpruneDeprecationWarning
from fxprune.pruning import (
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

warnings.warn(
    "fxprune.sparsity goes with 0.2; its functions are in fxprune.pruning",
    FxpruneDeprecationWarning,
    stacklevel=2,
)
