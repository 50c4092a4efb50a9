"""fxprune: layer pruning for any CNN, a graph-level model transformation compiler on torch.fx."""

from fxprune.errors import FxpruneError, FxpruneWarning
from fxprune.pipeline import Pipeline, PipelineResult
from fxprune.resconv import ResConv
from fxprune.rewriting import Contract, Pass, PassResult
from fxprune.trace import trace
from fxprune.verify import Verification, verify

__all__ = [
    "Contract",
    "FxpruneError",
    "FxpruneWarning",
    "Pass",
    "PassResult",
    "Pipeline",
    "PipelineResult",
    "ResConv",
    "Verification",
    "trace",
    "verify",
]
