"""The name of before for :mod:`fxprune.ir.nodes`; it goes with 0.2."""

import warnings

from fxprune.errors import FxpruneDeprecationWarning
from fxprune.ir.nodes import called_module, graphs_of, inherit, module_path, only_user, origins, place, uses

__all__ = ["called_module", "graphs_of", "inherit", "module_path", "only_user", "origins", "place", "uses"]

warnings.warn(
    "fxprune.graph goes with 0.2; its functions are in fxprune.ir.nodes", FxpruneDeprecationWarning, stacklevel=2
)
