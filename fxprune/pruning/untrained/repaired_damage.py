"""What is lost when something goes, and what reads it is repaired: the criterion of pruning without training."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import fx

from fxprune.choosing.channel_scores import site_scores
from fxprune.choosing.convex_slopes import convex_slopes
from fxprune.choosing.criteria.base import Criterion, Needs, Score
from fxprune.choosing.fingerprint import digest_of, fingerprint, weights_of
from fxprune.choosing.planned_sites import PlannedSite, planned_channels
from fxprune.choosing.samples import Batch, Samples
from fxprune.choosing.sites import ChannelSite, Site
from fxprune.choosing.targets import Targets
from fxprune.errors import FxpruneError, FxpruneWarning, first_line
from fxprune.facts.common_start import common_start
from fxprune.facts.layer_by_layer import MEMORY, LayerByLayer, bytes_held, room_for
from fxprune.files import write_json
from fxprune.ir.copies import copy_graphs
from fxprune.ir.nodes import as_taken_now
from fxprune.ir.pytrees import tensors_in
from fxprune.passes import Repair
from fxprune.pruning.layer_sites import name_of, names_of_layers
from fxprune.pruning.pruning_plan import PruningPlan
from fxprune.pruning.untrained.quality import change_of, outputs_of
from fxprune.rewriting.contract import Log
from fxprune.rewriting.repairing import Fitting, Repairing
from fxprune.run_record import read_json
from fxprune.structures.gated_layers import Gate

_SHARES = (0.25, 0.5, 0.75)
_READERS = 2
_SAMPLES = 32
"""What is fitted to find out a damage is fitted to so many places of outputs for each number that one reads."""


class RepairedDamage(Criterion):
    """How far outputs move when it goes alone, and the first layers behind it are fitted to what they computed: ours.

    Really removed and really repaired (:class:`fxprune.passes.Repair`), on the samples; measured as sensitivity
    measures it (:mod:`fxprune.pruning.sensitivity.output_change`): of logits it is the total variation.
    Of the channels of a group the order is another criterion's; a quarter, a half and three quarters of them are
    removed, and a channel's score is the slope between, of the convex curve below these: what it adds to what went
    before it. Layers are fitted on a part of the places of their outputs, spread over all images, where these are
    many; outputs are compared in full.

    Args:
        graph_module: the traced graph that is chosen of.
        within: the order of the channels of a group.
        readers: how many of the layers behind a removal are fitted for it.
        memory: bytes that values may take in memory; what is more is in temporary files.
        state: a JSON file of what was measured; after a kill the same network on the same images goes on from there.

    Raises:
        LoadError: the state cannot be read.
    """

    name: ClassVar[str] = "repaired-damage"
    needs: ClassVar[Needs] = "inputs"
    is_marginal: ClassVar[bool] = True

    def __init__(
        self,
        graph_module: fx.GraphModule,
        within: str | Criterion = "read-share",
        readers: int = _READERS,
        memory: int = MEMORY,
        state: Path | None = None,
    ) -> None:
        self._graph_module = graph_module
        self._within = within
        self._readers = readers
        self._memory = memory
        self._state = state

    @contextmanager
    def measuring(self, graph_module: fx.GraphModule, sites: Collection[Site], samples: Samples) -> Iterator[Score]:
        """Return what removes and repairs a site; those that come in the order of the graph take the least time."""
        batches = list(samples)
        names = names_of_layers(self._graph_module)
        done, of = 0, sum(len(_SHARES) if isinstance(one, ChannelSite) else 1 for one in sites)
        with ExitStack() as held:
            needed = 3 * bytes_held(self._graph_module, sum(batch.size for batch in batches))
            folder = held.enter_context(room_for(needed, self._memory))
            damages = _Damages(self._graph_module, batches, (self._readers, self._memory, folder), self._state)
            held.callback(_warn_of, damages.reasons)
            orders = self._orders([one for one in sites if isinstance(one, ChannelSite) and not one.region], samples)

            def score(site: Any) -> Any:
                nonlocal done
                first, done = done, done + (len(_SHARES) if isinstance(site, ChannelSite) else 1)
                if site.region:
                    damages.reasons.setdefault(site.region, "it is called as a region, and measured nowhere")
                    return np.full(site.width, np.inf) if isinstance(site, ChannelSite) else np.inf
                if isinstance(site, ChannelSite):
                    return self._of_channels(site, orders[site], damages, (first, of))
                self.comparing(first, of)
                return damages.of(self._planned(site, names))

            yield score

    def _orders(self, sites: Sequence[ChannelSite], samples: Samples) -> dict[ChannelSite, NDArray[np.int64]]:
        """Return which channels of each site go first, by their places."""
        if not sites:
            return {}
        scores = site_scores(sites[0].channels.graph_module, sites, self._within, samples)
        return {site: np.argsort(worth, kind="stable") for site, worth in zip(sites, scores, strict=True)}

    @staticmethod
    def _planned(gate: Gate, names: Any) -> list[PlannedSite]:
        return [PlannedSite(gate.kind, name_of(gate, names), 1, (0,), (0.0,))]

    def _of_channels(
        self, site: ChannelSite, order: NDArray[np.int64], damages: _Damages, told: tuple[int, int]
    ) -> NDArray[np.float64]:
        """Return the scores of the channels of a site, in its order."""
        counts, found = [0], [0.0]
        for index, share in enumerate(_SHARES):
            self.comparing(told[0] + index, told[1])
            count = min(round(share * site.width), site.width)
            if count > counts[-1]:
                gone = site.channels.spared(set(site.group.free[order[:count]].tolist()), _ranks(site, order))
                counts.append(count)
                found.append(
                    damages.of(planned_channels(site.channels, gone, np.zeros(len(site.channels.labels)), ""))
                )
        scores = np.empty(site.width)
        scores[order] = _scores(counts, found, site.width)
        return scores


def _warn_of(reasons: Mapping[str, str]) -> None:
    """Say what stays because it cannot go alone, and why the first does."""
    if reasons:
        (path, why), *others = reasons.items()
        more = f", and {len(others)} more" if others else ""
        message = f"{path}{more} cannot be removed and repaired alone, and stays: {why}"
        warnings.warn(message, FxpruneWarning, stacklevel=2)


def _ranks(site: ChannelSite, order: NDArray[np.int64]) -> NDArray[np.float64]:
    worth = np.full(len(site.channels.labels), np.inf)
    worth[site.group.free[order]] = np.arange(len(order))
    return worth


def _scores(counts: Sequence[int], damages: Sequence[float], width: int) -> NDArray[np.float64]:
    """Return what each channel adds to those before; nobody measured the last quarter, which is missed most."""
    found = np.maximum(convex_slopes(counts, damages), 0.0)
    steepest = found[-1] if len(found) else 0.0
    return np.concatenate([found, np.full(width - len(found), 2 * steepest)])


def _read(state: Path | None, asked: Mapping[str, Any]) -> dict[str, float]:
    """Return the damages that a file holds of this network on these images; none if there is none."""
    known = read_json(state) if state is not None else None
    if known is None or any(known.get(name) != value for name, value in asked.items()):
        return {}
    return {key: float(damage) for key, damage in known.get("damages", {}).items()}


class _Damages:
    """Removes and repairs one thing after the other, each alone."""

    def __init__(
        self,
        graph_module: fx.GraphModule,
        batches: Sequence[Batch],
        how: tuple[int, int, str | None],
        state: Path | None,
    ) -> None:
        self._graph_module = graph_module
        self._batches = batches
        self._inputs = [as_taken_now(graph_module, batch.inputs) for batch in batches]
        self._readers, self._memory, self._folder = how
        self._fingerprint = fingerprint(graph_module)
        self._run: LayerByLayer | None = None
        self._at = 0
        self._state = state
        self._asked: dict[str, Any] = {}
        if state is not None:  # all weights and images are read for it
            images = digest_of(one for batch in batches for one in tensors_in(batch.inputs))
            self._asked = {"network": list(self._fingerprint), "weights": weights_of(graph_module), "images": images}
        self._known = _read(state, self._asked)
        self._wanted = outputs_of(graph_module, batches)
        self.reasons: dict[str, str] = {}
        """Why what cannot go alone stays, by its path."""

    def of(self, sites: Sequence[PlannedSite]) -> float:
        """Return the damage, measured now or before; infinite if it cannot go, which is tried again."""
        key = "; ".join(f"{one.kind} {one.path} {','.join(map(str, one.indices))}" for one in sites)
        if key not in self._known:
            found = self._measured(sites)
            if math.isinf(found):
                return found
            self._known[key] = found
            if self._state is not None:
                write_json(self._state, {**self._asked, "damages": self._known}, indent=0)
        return self._known[key]

    def _measured(self, sites: Sequence[PlannedSite]) -> float:
        plan = PruningPlan(list(sites), self._fingerprint, "", Targets(), "within", "exact")
        try:
            pruned = copy_graphs(plan.apply(self._graph_module, verify=False).graph_module)[0][1]
        except FxpruneError as error:
            self.reasons[sites[0].path] = first_line(error)
            return float("inf")
        same = common_start(pruned, self._graph_module)
        with self._reference(list(same.values())).running() as reference:
            repairing = Repairing(
                self._graph_module,
                pruned,
                self._batches,
                Fitting(Repair.ridge, "layer after layer", "apart", self._memory, _SAMPLES),
                Log(),
                "",
            )
            before = reference.fork(self._graph_module, {node: node for node in same.values()}, repairing.compared)
            after = reference.fork(pruned, same)
            with before.running(), after.running():
                if self._readers:
                    repairing.fit(before, after, most=self._readers)
                *_, output = pruned.graph.nodes
                after.until(output)
                change = change_of(self._batches, self._wanted, after.values(output))
                if change.why:
                    self.reasons[sites[0].path] = change.why
                return change.missed

    def _reference(self, start: Sequence[fx.Node]) -> LayerByLayer:
        """Return a run of the unpruned graph that has worked out ``start`` and nothing else."""
        if self._run is None or len(start) < self._at:
            self._run = LayerByLayer(self._graph_module, self._inputs, folder=self._folder)
        self._at = len(start)
        with self._run.running():
            self._run.until(start[-1])
        return self._run
