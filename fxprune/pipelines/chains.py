"""The chain before training, which inserts gates; those after it are data: :mod:`fxprune.passes.chains`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from fxprune.errors import FxpruneError
from fxprune.ir.arguments import require_arguments
from fxprune.ir.trace_notes import hiding_convs
from fxprune.passes import InsertBranchScale, InsertChannelGate, InsertResConv
from fxprune.passes.chains import AFTER_TRAINING, AFTER_TRAINING_KEEPING_NORMS
from fxprune.pipelines import Layers, What, sites_named
from fxprune.pipelines.pipeline import Pipeline
from fxprune.pipelines.result import PipelineResult

__all__ = ["AFTER_TRAINING", "AFTER_TRAINING_KEEPING_NORMS", "Layers", "insert_scales"]

_INSERTIONS: dict[str, type[InsertResConv | InsertBranchScale | InsertChannelGate]] = {
    "convs": InsertResConv,
    "branches": InsertBranchScale,  # after convs: a branch's scale reads its last norm's weight
    "channels": InsertChannelGate,  # after both: it stands in front of what they read
}
_KINDS = {"convs": "conv", "branches": "residual branch", "channels": "channel"}


def insert_scales(
    graph_module: fx.GraphModule,
    layers: Layers | None = None,
    *,
    what: What | None = None,
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
    verify: bool = True,
) -> PipelineResult:
    """Put a scale on all of a traced network that can be removed; training can then shrink these.

        y = norm(conv(x))   ->   s * norm(conv(x)) + a * x      a conv whose output has its input's shape: ResConv
        y = x + R(x)        ->   x + s * R(x)                   a residual branch: BranchScale
        y = conv(x; W)      ->   conv(x; W * s[columns])        channels, where they are read: a scale each

    All start at s = 1 and a = 0: the network computes what it did. The first is the layer of Xu et al. (arXiv
    2011.14356), the others are ours.

    Args:
        graph_module: what :func:`fxprune.trace` returned; it is never changed, and shares the layers that stay.
        layers: the old name of ``what``: "convs", "branches", or "all" of both.
        what: some of "convs", "branches" and "channels", as "branches,channels" or in a sequence, or "all" of the
            three; convs and branches by default.
        keep: patterns over the paths of modules: what these match gets no scale, "layer4" or "*.conv3" say.
        only: likewise: layers that none of these matches get no scale either (see :mod:`fxprune.choosing.keeping`).
        verify: check in float64 that nothing changed.

    Returns:
        The result of the passes; its ``graph_module`` is to be trained, ``declined`` says which
        layers got none, and why.

    Raises:
        FxpruneError: nothing of the kind can have a scale (lists why), or a pattern matches nothing.
    """
    require_arguments(insert_scales, locals())
    sites = sites_named(what, layers)
    result = Pipeline([_INSERTIONS[one](keep=keep, only=only) for one in sites], verify=verify)(graph_module)
    if result.modified:
        return result
    reasons: dict[str, list[str]] = {}
    for site in result.declined:
        reasons.setdefault(site.why, []).append(site.path or site.node)
    why = "; ".join(
        f"{paths[0]}{f' and {len(paths) - 1} more' if paths[1:] else ''}: {r}" for r, paths in reasons.items()
    )
    hidden = "".join(f"; {one}" for one in hiding_convs(graph_module)[:1])
    kinds = " or ".join(_KINDS[one] for one in sites)
    why = why or ("no two activations are added in it" if set(sites) == {"branches"} else "it has no convs at all")
    raise FxpruneError(f"the model has no removable {kinds}: {why}{hidden}")
