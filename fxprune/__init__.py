"""fxprune: layer pruning for any CNN, a graph-level model transformation compiler on torch.fx."""

from typing import TYPE_CHECKING, Any

from fxprune.branch_scale import BranchScale
from fxprune.chains import AFTER_TRAINING, insert_scales
from fxprune.diff import diff
from fxprune.emission.strip import strip
from fxprune.emit import emit, load_emitted
from fxprune.errors import FxpruneError, FxpruneWarning
from fxprune.facts.layers import gates_of
from fxprune.pipeline import Pipeline, PipelineResult
from fxprune.prune import prune
from fxprune.resconv import ResConv
from fxprune.rewriting import Contract, Pass, PassResult
from fxprune.sparsity import ProximalL1
from fxprune.steering import SteeredL1
from fxprune.targets import Targets
from fxprune.trace import trace
from fxprune.verify import Verification, verify

if TYPE_CHECKING:
    from fxprune.diffing.graph_diff import GraphDiff

__version__ = "0.1.0"

__all__ = [
    "AFTER_TRAINING",
    "BranchScale",
    "Contract",
    "FxpruneError",
    "FxpruneWarning",
    "GraphDiff",
    "Pass",
    "PassResult",
    "Pipeline",
    "PipelineResult",
    "ProximalL1",
    "ResConv",
    "SteeredL1",
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
    raise AttributeError(f"module 'fxprune' has no attribute {name!r}")
