"""The name of before for :mod:`fxprune.ir.trace_notes`; it goes with 0.2."""

import warnings

from fxprune.errors import FxpruneDeprecationWarning
from fxprune.ir.trace_notes import assumptions_of

__all__ = ["assumptions_of"]

warnings.warn(
    "fxprune.trace_notes goes with 0.2; it is fxprune.ir.trace_notes", FxpruneDeprecationWarning, stacklevel=2
)
