"""fxprune: layer pruning for any CNN, a graph-level model transformation compiler on torch.fx.

Importing it loads nothing else, torch neither: each name is loaded when it is first asked for, so that the shell
answers at once where no model is touched.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxprune.choosing.partitions.plan import PartitionPlan
    from fxprune.choosing.plan import Plan
    from fxprune.choosing.targets import Targets
    from fxprune.diffing.diff import diff
    from fxprune.diffing.graph_diff import GraphDiff
    from fxprune.emission.emit import emit, load_emitted
    from fxprune.emission.emit_partitions import emit_partitions
    from fxprune.emission.strip import strip
    from fxprune.errors import FxpruneError, FxpruneWarning
    from fxprune.gates.branch_scale import BranchScale
    from fxprune.gates.resconv import ResConv
    from fxprune.passes.chains import AFTER_TRAINING, AFTER_TRAINING_KEEPING_NORMS
    from fxprune.pipelines.chains import insert_scales
    from fxprune.pipelines.pipeline import Pipeline
    from fxprune.pipelines.result import PipelineResult
    from fxprune.pruning.choose import choose
    from fxprune.pruning.group_lasso import GroupLasso, NetworkSlimming
    from fxprune.pruning.held_partition import HeldPartition
    from fxprune.pruning.latency_model import LatencyModel
    from fxprune.pruning.proximal import ProximalL1
    from fxprune.pruning.prune import prune
    from fxprune.pruning.pruning_plan import PruningPlan
    from fxprune.pruning.sensitivity.study import sensitivity
    from fxprune.pruning.steering import SteeredL1
    from fxprune.pruning.surgery import Surgery
    from fxprune.pruning.write_back import write_back
    from fxprune.rewriting.contract import Contract, Pass, PassResult
    from fxprune.rewriting.verify import Verification, verify
    from fxprune.structures.gated_layers import gates_of
    from fxprune.tracing.trace import trace

__version__ = "0.1.0"

__all__ = [
    "AFTER_TRAINING",
    "AFTER_TRAINING_KEEPING_NORMS",
    "BranchScale",
    "Contract",
    "FxpruneError",
    "FxpruneWarning",
    "GraphDiff",
    "GroupLasso",
    "HeldPartition",
    "LatencyModel",
    "NetworkSlimming",
    "PartitionPlan",
    "Pass",
    "PassResult",
    "Pipeline",
    "PipelineResult",
    "Plan",
    "ProximalL1",
    "PruningPlan",
    "ResConv",
    "SteeredL1",
    "Surgery",
    "Targets",
    "Verification",
    "choose",
    "diff",
    "emit",
    "emit_partitions",
    "gates_of",
    "insert_scales",
    "load_emitted",
    "prune",
    "sensitivity",
    "strip",
    "trace",
    "verify",
    "write_back",
]

_HOMES = {
    "choosing.partitions.plan": ("PartitionPlan",),
    "choosing.plan": ("Plan",),
    "choosing.targets": ("Targets",),
    "diffing.diff": ("diff",),
    "diffing.graph_diff": ("GraphDiff",),
    "emission.emit": ("emit", "load_emitted"),
    "emission.emit_partitions": ("emit_partitions",),
    "emission.strip": ("strip",),
    "errors": ("FxpruneError", "FxpruneWarning"),
    "gates.branch_scale": ("BranchScale",),
    "gates.resconv": ("ResConv",),
    "passes.chains": ("AFTER_TRAINING", "AFTER_TRAINING_KEEPING_NORMS"),
    "pipelines.chains": ("insert_scales",),
    "pipelines.pipeline": ("Pipeline",),
    "pipelines.result": ("PipelineResult",),
    "pruning.group_lasso": ("GroupLasso", "NetworkSlimming"),
    "pruning.choose": ("choose",),
    "pruning.held_partition": ("HeldPartition",),
    "pruning.latency_model": ("LatencyModel",),
    "pruning.proximal": ("ProximalL1",),
    "pruning.prune": ("prune",),
    "pruning.pruning_plan": ("PruningPlan",),
    "pruning.sensitivity.study": ("sensitivity",),
    "pruning.steering": ("SteeredL1",),
    "pruning.surgery": ("Surgery",),
    "pruning.write_back": ("write_back",),
    "rewriting.contract": ("Contract", "Pass", "PassResult"),
    "rewriting.verify": ("Verification", "verify"),
    "structures.gated_layers": ("gates_of",),
    "tracing.trace": ("trace",),
}
_HOME = {name: f"fxprune.{module}" for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load what is asked for: a name in ``__all__``, or a module, as ``fxprune.passes``."""
    if name in _HOME:
        found = globals()[name] = getattr(import_module(_HOME[name]), name)
        return found
    if not name.startswith("_") and find_spec(f"fxprune.{name}") is not None:
        return import_module(f"fxprune.{name}")
    raise AttributeError(f"module 'fxprune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
