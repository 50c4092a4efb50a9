"""fxprune: layer pruning for any CNN, a graph-level model transformation compiler on torch.fx."""

from fxprune.branch_scale import BranchScale
from fxprune.diff import GraphDiff, diff
from fxprune.emission.strip import strip
from fxprune.emit import emit, load_emitted
from fxprune.errors import FxpruneError, FxpruneWarning
from fxprune.pipeline import Pipeline, PipelineResult
from fxprune.prune import AFTER_TRAINING, prune
from fxprune.resconv import ResConv
from fxprune.rewriting import Contract, Pass, PassResult
from fxprune.sparsity import ProximalL1
from fxprune.steering import SteeredL1
from fxprune.trace import trace
from fxprune.verify import Verification, verify

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
    "Verification",
    "diff",
    "emit",
    "load_emitted",
    "prune",
    "strip",
    "trace",
    "verify",
]
