"""What a blend of criteria comes to: held-out top-1 after the cut, with batch norms measured anew.

judge = Judge.of(traced, loader, RemoveChannels(target_macs=0.5))  # scores all criteria of the pool, once
judge.top1({"layer1.0.conv1": {"l1": 1.0}, ...})                   # cuts, measures norms, counts

That validation accuracy judges is He et al. (arXiv 2107.05033); that norms are measured anew before is ours.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, cast

import torch
from torch import fx

from fxprune.choosing.channel_scores import site_scores
from fxprune.choosing.criteria.base import Criterion, Needs, Score
from fxprune.choosing.criterion_blend import Factors, blended, key_of, only_channels
from fxprune.choosing.criterion_clusters import Clusters, clusters_of
from fxprune.choosing.fingerprint import fingerprint, weights_of
from fxprune.choosing.named import known_criteria, made
from fxprune.choosing.planned_sites import planned_channels
from fxprune.choosing.samples import Batch, Samples
from fxprune.choosing.sites import ChannelSite, Site, channel_sites
from fxprune.errors import FxpruneValueError, FxpruneWarning
from fxprune.ir.copies import copy_graphs, copy_module
from fxprune.ir.nodes import as_taken_now, require_graph
from fxprune.ops.layer_classes import NORM_CLASSES
from fxprune.passes import MeasureNorms, RemoveChannels
from fxprune.pruning.blend.images import Split, split
from fxprune.rewriting.contract import Log
from fxprune.structures.channels.running import Worth

_LOGGER = logging.getLogger(__name__)
_UNSEEN = ("criterion", "data")
POOL = ("l1", "l2", "fpgm", "bn-gamma", "entropy", "taylor", "fisher", "apoz", "read-share")
"""The paper's, as a secondary source has them, without Fermat points; Fisher, APoZ and read-share are ours."""


@dataclass
class Judge:
    """Judges blends of criteria for one network, one target and the same images; each choice of channels once.

    Attributes:
        graph_module: the network, never changed.
        step: the pass whose criterion is sought: it says how much goes, and how.
        images: what is looked at and what is held out.
        pool: the names of the criteria.
        scores: by group, what each criterion of the pool says of its channels that can go, (width,).
        tops: the top-1 of each choice that was judged so far.
    """

    graph_module: fx.GraphModule
    step: RemoveChannels
    images: Split
    pool: tuple[str, ...]
    scores: Mapping[str, Mapping[str, Worth]]
    tops: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        graph_module: fx.GraphModule,
        data: Iterable[Any] | None,
        step: RemoveChannels,
        *,
        held_out: Iterable[Any] | None = None,
        pool: Sequence[str] = (),
    ) -> Judge:
        """Return what judges, with all criteria scored.

        Args:
            graph_module: what :func:`fxprune.trace` returned; it is never changed.
            data: batches of inputs and labels (N,); half of the images are held out to choose on.
            step: how much goes, and how; its criterion does not matter, its seed shuffles the images.
            held_out: other batches to choose on; then nothing is held out of ``data``.
            pool: the names of the criteria; by default :data:`POOL`, without ``bn-gamma`` where there are no batch
                norms.

        Raises:
            FxpruneError: nothing says how much goes, there are no labels, too few images, fewer than two criteria,
                an unknown one, or one whose scores are NaN, which names the layer.
        """
        graph_module = require_graph(graph_module, "Judge.of")
        _require_sense(step)
        pool = _checked(pool or _usual(graph_module))
        images = split(graph_module, data, held_out, step.seed)
        samples = Samples(images.seen)
        sites = channel_sites(graph_module, groups=step.groups, statistics=step.statistics)
        found: dict[str, dict[str, Worth]] = {key_of(site): {} for site in sites}
        for name in pool:
            _LOGGER.info("scoring the channels by %s", name)
            for site, worth in zip(sites, site_scores(graph_module, sites, name, samples), strict=True):
                found[key_of(site)][name] = worth
        if not found:
            raise FxpruneValueError("no channel can go: fxprune inspect --channels tells why each stays")
        return cls(graph_module, replace(step, data=None), images, pool, found)

    @cached_property
    def clusters(self) -> dict[str, Clusters]:
        """The criteria of each group, in clusters."""
        return {path: clusters_of(scores) for path, scores in self.scores.items()}

    def top1(self, factors: Factors) -> float:
        """Return the held-out top-1, between 0 and 1, after the cut that the blend with ``factors`` makes.

        Raises:
            TargetError: the target cannot be met.
            FxpruneError: the network does not return logits.
        """
        gone = self.choice(factors)
        key = hashlib.sha256(json.dumps(gone, sort_keys=True).encode()).hexdigest()
        if key not in self.tops:
            self.tops[key] = top1(self.network(gone), self.images.held_out)
        return self.tops[key]

    def criterion(self, factors: Factors) -> Criterion:
        """Return what scores channels as a blend with ``factors`` of what is known: nothing is measured again."""
        return _Known({path: blended(scores, factors[path]) for path, scores in self.scores.items()})

    def choice(self, factors: Factors) -> dict[str, list[int]]:
        """Return the output channels that go by the blend with ``factors``: indices by the paths of layers."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FxpruneWarning)  # they are told when the pass runs
            chosen = replace(self.step, criterion=self.criterion(factors)).chosen(
                copy_graphs(self.graph_module), Log()
            )
        sites = [
            site
            for one in chosen
            for site in planned_channels(one.field.channels, one.gone, one.field.worth, one.field.region)
        ]
        return {site.path: list(site.indices) for site in sites}

    def network(self, gone: Mapping[str, Sequence[int]]) -> fx.GraphModule:
        """Return the network without these channels, in eval mode, its batch norms measured anew on what was seen."""
        cut = RemoveChannels(indices=gone, groups=self.step.groups, statistics=self.step.statistics)
        own = cast(fx.GraphModule, copy_module(cut(self.graph_module).graph_module).eval())
        return MeasureNorms(data=self.images.seen)(own).graph_module

    @property
    def asked(self) -> dict[str, Any]:
        """What tells this from any other judge, as plain data."""
        return {
            "network": list(fingerprint(self.graph_module)),
            "weights": weights_of(self.graph_module),
            "images": self.images.digest,
            "pool": list(self.pool),
            "options": {name: str(value) for name, value in vars(self.step).items() if name not in _UNSEEN},
        }


class _Known(Criterion):
    """Scores that are known, by group."""

    name: ClassVar[str] = "blend"
    needs: ClassVar[Needs] = "weights"

    def __init__(self, worth: Mapping[str, Worth]) -> None:
        self._worth = worth

    @contextmanager
    def measuring(self, graph_module: fx.GraphModule, sites: Collection[Site], samples: Samples) -> Iterator[Score]:
        def score(site: Any) -> Worth:
            if not isinstance(site, ChannelSite):
                raise FxpruneValueError(only_channels(site))
            return self._worth[key_of(site)]

        yield score


def _usual(graph_module: fx.GraphModule) -> tuple[str, ...]:
    has_norms = any(isinstance(one, NORM_CLASSES) and one.affine for one in graph_module.modules())
    return tuple(one for one in POOL if has_norms or one != "bn-gamma")


def _checked(pool: Sequence[str]) -> tuple[str, ...]:
    """Return the names of a pool in order; raises FxpruneValueError for an unknown one, and where two are too few."""
    known = known_criteria()
    names = tuple(dict.fromkeys(made(one, known, "criterion").name for one in pool))
    if "blend" in names:
        raise FxpruneValueError("the pool of a blend has blend itself: name the criteria to be blended")
    if len(names) < 2:
        raise FxpruneValueError(f"a blend is of two criteria at least, and the pool has {', '.join(names)} alone")
    return names


def _require_sense(step: RemoveChannels) -> None:
    if step.amount.is_empty:
        raise FxpruneValueError("a blend is sought for a ratio or for targets: how much is to go?")
    if step.aggregate != "sum":
        raise FxpruneValueError(f"criterion blend takes no aggregate; got aggregate={step.aggregate!r}")


@torch.no_grad()
def top1(network: fx.GraphModule, batches: Sequence[Batch]) -> float:
    """Return the share of the images, between 0 and 1, of which ``network``, in eval mode, has the label."""
    guesses = torch.cat([_logits(network, batch).argmax(1).cpu() for batch in batches])
    labels = torch.cat([batch.labels.cpu() for batch in batches if batch.labels is not None])
    return float((guesses == labels).double().mean())


def _logits(network: fx.GraphModule, batch: Batch) -> torch.Tensor:
    found = network(*as_taken_now(network, batch.inputs))
    if not isinstance(found, torch.Tensor) or found.dim() != 2:
        raise FxpruneValueError("criterion blend chooses by top-1, and the network returns no logits (N, classes)")
    return found
