"""The chain before training, which inserts layer scales; those after it are data: :mod:`fxprune.passes.chains`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from fxprune.errors import FxpruneError
from fxprune.ir.arguments import require_arguments
from fxprune.ir.trace_notes import hiding_convs
from fxprune.passes import InsertBranchScale, InsertResConv
from fxprune.passes.chains import AFTER_TRAINING, AFTER_TRAINING_KEEPING_NORMS
from fxprune.pipelines import Layers
from fxprune.pipelines.pipeline import Pipeline
from fxprune.pipelines.result import PipelineResult

__all__ = ["AFTER_TRAINING", "AFTER_TRAINING_KEEPING_NORMS", "Layers", "insert_scales"]

_INSERTIONS: dict[Layers, tuple[type[InsertResConv] | type[InsertBranchScale], ...]] = {
    "all": (InsertResConv, InsertBranchScale),  # in this order: a branch's scale reads its last norm's weight
    "convs": (InsertResConv,),
    "branches": (InsertBranchScale,),
}


def insert_scales(
    graph_module: fx.GraphModule,
    layers: Layers = "all",
    *,
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
    verify: bool = True,
) -> PipelineResult:
    """Put a scale on every layer of a traced network that can be removed; training can then shrink these.

        y = norm(conv(x))   ->   s * norm(conv(x)) + a * x      a conv whose output has its input's shape: ResConv
        y = x + R(x)        ->   x + s * R(x)                   a residual branch: BranchScale

    All start at s = 1 and a = 0: the network computes what it did. The first is the layer of Xu et al. (arXiv
    2011.14356), the second is ours.

    Args:
        graph_module: what :func:`fxprune.trace` returned; it is never changed, and shares the layers that stay.
        layers: "convs", "branches", or "all" of both.
        keep: patterns over the paths of modules: what these match gets no scale, "layer4" or "*.conv3" say.
        only: likewise: layers that none of these matches get no scale either (see :mod:`fxprune.choosing.keeping`).
        verify: check in float64 that nothing changed.

    Returns:
        The result of the passes; its ``graph_module`` is to be trained, ``declined`` says which
        layers got none, and why.

    Raises:
        FxpruneError: no such layer can have a scale (lists why), or a pattern matches nothing.
    """
    require_arguments(insert_scales, locals())
    result = Pipeline([kind(keep=keep, only=only) for kind in _INSERTIONS[layers]], verify=verify)(graph_module)
    if result.modified:
        return result
    reasons: dict[str, list[str]] = {}
    for site in result.declined:
        reasons.setdefault(site.why, []).append(site.path or site.node)
    why = "; ".join(
        f"{paths[0]}{f' and {len(paths) - 1} more' if paths[1:] else ''}: {r}" for r, paths in reasons.items()
    )
    kinds = {"all": "conv or residual branch", "convs": "conv", "branches": "residual branch"}
    hidden = "".join(f"; {one}" for one in hiding_convs(graph_module)[:1])
    raise FxpruneError(f"the model has no removable {kinds[layers]}: {why or 'it has no convs at all'}{hidden}")
