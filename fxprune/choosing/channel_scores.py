"""How much each channel that can go is missed, by any criterion, comparable between groups if that is asked for.

    for site, scores in zip(sites, site_scores(graph, sites, "taylor", samples)): ...    what has least goes first

normalize, over the channels of one group that can go, s the scores:
    none    s
    mean    s / mean(s)
    max     s / max(s)
    lamp    s^2 / sum of t^2 over all t >= s    (Lee et al., arXiv 2010.07611, for weights; of channels it is ours)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal

import numpy as np
from torch import fx

from fxprune.choosing.criteria.base import Criterion
from fxprune.choosing.named import known_criteria, made
from fxprune.choosing.samples import Samples
from fxprune.choosing.sites import ChannelSite, Groups, Statistics, channel_sites
from fxprune.errors import FxpruneValueError
from fxprune.ir.arguments import require_arguments
from fxprune.structures.channels.running import Worth

Normalize = Literal["none", "mean", "max", "lamp"]


def channel_scores(
    graph_module: fx.GraphModule,
    criterion: str | Criterion = "l1",
    samples: Samples | None = None,
    *,
    normalize: Normalize = "none",
    groups: Groups = "within",
    statistics: Statistics = "exact",
    **options: Any,
) -> dict[str, Worth]:
    """Return how much each class is missed: by region an array by label, float64, infinite where it must stay.

    As :func:`site_scores` of all :func:`channel_sites`, which says what arguments are and what is raised.
    """
    sites = channel_sites(graph_module, groups=groups, statistics=statistics)
    found: dict[str, Worth] = {}
    scores = site_scores(graph_module, sites, criterion, samples, normalize=normalize, **options)
    for site, worth in zip(sites, scores, strict=True):
        of_region = found.setdefault(site.region, np.full(len(site.channels.labels), np.inf))
        of_region[site.group.free] = worth
    return found


def site_scores(
    graph_module: fx.GraphModule,
    sites: Sequence[ChannelSite],
    criterion: str | Criterion = "l1",
    samples: Samples | None = None,
    *,
    normalize: Normalize = "none",
    comparing: Callable[[int, int], None] | None = None,
    **options: Any,
) -> list[Worth]:
    """Return how much each channel of ``sites`` is missed: arrays of shape (width,), float64; infinite is what stays.

    Args:
        graph_module: the graph that the sites are of, as it is.
        sites: groups of channels.
        criterion: by name, or as a :class:`fxprune.choosing.criteria.base.Criterion`.
        samples: what to compare on; the graph's example inputs by default.
        normalize: how scores of different groups are made comparable, see above.
        comparing: called before each of many runs, with how many were before it and how many there are.
        options: of a criterion that is given by name: ``aggregate`` and ``seed``; what it does not have is left out
            where it has its usual value.

    Raises:
        FxpruneValueError: there is no such criterion, it lacks inputs or labels, or it returned NaN, which names the
            layer.
    """
    require_arguments(site_scores, locals())
    one = _with_options(criterion, options)
    if comparing is not None:
        one.comparing = comparing
    with one.measuring(graph_module, sites, samples or Samples.of(graph_module)) as missed:
        return [normalized(_checked(one, site, missed(site)), normalize) for site in sites]


def normalized(scores: Worth, how: Normalize) -> Worth:
    """Return the scores of one group as ``how`` makes them comparable with others; infinite ones stay so."""
    finite = np.isfinite(scores)
    known = scores[finite]
    if how == "none" or not len(known):
        return scores
    found = scores.copy()
    if how == "lamp":
        squares = known**2
        order = np.argsort(squares)
        ascending = squares[order]
        above = np.cumsum(ascending[::-1])[::-1]  # of those from each place on
        over = above[np.searchsorted(ascending, squares, side="left")]
        found[finite] = squares / np.where(over > 0, over, 1)
    else:
        size = known.mean() if how == "mean" else known.max()
        found[finite] = known / size if size > 0 else known
    return found


_USUAL: Mapping[str, Any] = {"aggregate": "sum", "seed": 0}


def _with_options(criterion: str | Criterion, options: Mapping[str, Any]) -> Criterion:
    """Return the criterion of that name with ``options``; raises FxpruneValueError if it does not have one."""
    one = copy(made(criterion, known_criteria(), "criterion"))
    if not isinstance(criterion, str):
        return one
    has: set[str] = {field.name for field in fields(one)} if is_dataclass(one) else set()
    for name, value in options.items():
        if name in has:
            one = replace(one, **{name: value})  # type: ignore[type-var]
        elif value != _USUAL.get(name):
            raise FxpruneValueError(f"criterion {one.name} takes no {name}; got {name}={value!r}")
    return one


def _checked(criterion: Criterion, site: ChannelSite, scores: Any) -> Worth:
    """Return the scores of a site as an array; raises FxpruneValueError for another shape, and for NaN."""
    found: Worth = np.asarray(scores, dtype=np.float64)
    if found.shape != (site.width,):
        raise FxpruneValueError(
            f"criterion {criterion.name} returned an array of shape {found.shape} for {site.path}, which has "
            f"{site.width} channels that can go"
        )
    bad = np.flatnonzero(np.isnan(found))
    if len(bad):
        raise FxpruneValueError(_why_nan(criterion, site, int(site.group.free[bad[0]])))
    return found


def _why_nan(criterion: Criterion, site: ChannelSite, one: int) -> str:
    """Return why the score of a class is NaN: the first layer that holds any, or what is computed of the samples."""
    before = f"{site.region}." if site.region else ""
    graph_module = site.channels.graph_module
    for name, tensor in (*graph_module.named_parameters(), *graph_module.named_buffers()):
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            layer = before + name.rpartition(".")[0]
            return f"the weights of {layer} hold NaN: no criterion can rank its channels; train it anew"
    layer = before + site.channels.name_of(one)
    return f"criterion {criterion.name} is NaN for channels of {layer}, though no weight is: look at the samples"
