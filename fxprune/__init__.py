"""fxprune: layer pruning for any CNN, a graph-level model transformation compiler on torch.fx."""

from typing import TYPE_CHECKING, Any

from fxprune.choosing.plan import Plan
from fxprune.choosing.targets import Targets
from fxprune.diffing.diff import diff
from fxprune.emission.emit import emit, load_emitted
from fxprune.emission.strip import strip
from fxprune.errors import FxpruneError, FxpruneWarning
from fxprune.gates.branch_scale import BranchScale
from fxprune.gates.resconv import ResConv
from fxprune.passes.chains import AFTER_TRAINING, AFTER_TRAINING_KEEPING_NORMS
from fxprune.pipelines.chains import insert_scales
from fxprune.pipelines.pipeline import Pipeline
from fxprune.pipelines.result import PipelineResult
from fxprune.pruning.proximal import ProximalL1
from fxprune.pruning.prune import prune
from fxprune.pruning.steering import SteeredL1
from fxprune.pruning.surgery import Surgery
from fxprune.rewriting.contract import Contract, Pass, PassResult
from fxprune.rewriting.verify import Verification, verify
from fxprune.structures.gated_layers import gates_of
from fxprune.tracing.trace import trace

if TYPE_CHECKING:
    from fxprune.diffing.graph_diff import GraphDiff

__version__ = "0.1.0"

__all__ = [
    "AFTER_TRAINING",
    "AFTER_TRAINING_KEEPING_NORMS",
    "BranchScale",
    "Contract",
    "FxpruneError",
    "FxpruneWarning",
    "GraphDiff",
    "Pass",
    "PassResult",
    "Pipeline",
    "PipelineResult",
    "Plan",
    "ProximalL1",
    "ResConv",
    "SteeredL1",
    "Surgery",
    "Targets",
    "Verification",
    "diff",
    "emit",
    "gates_of",
    "insert_scales",
    "load_emitted",
    "prune",
    "strip",
    "trace",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Load what importing fxprune leaves out, since it takes long and is seldom asked for by name."""
    if name == "GraphDiff":
        from fxprune.diffing.graph_diff import GraphDiff

        return GraphDiff
    if name in ("sparsity", "graph", "trace_notes"):  # until 0.2: they warn
        import importlib

        return importlib.import_module(f"fxprune.{name}")
    raise AttributeError(f"module 'fxprune' has no attribute {name!r}")
