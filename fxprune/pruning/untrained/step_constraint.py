"""CaP's search: as many channels of each group as leave the accuracy above a straight line from layer to layer.

    threshold_i = p_start - i (p_start - p_end) / L,    i = 1 ... L: groups in forward order

p_start is the accuracy of the network, p_end what is to be left at the end. Of each group, in the order in which a
criterion ranks it, the most go that keep the held-out accuracy at its threshold, found by bisection, with the groups
before it cut and the readers fitted: what early groups did not use, later ones may. (Xie et al., arXiv 2108.13728;
that readers are fitted on the network cut so far is ours.) Towards targets p_end itself is found by bisection: ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx

from fxprune.choosing.channel_amounts import Amount
from fxprune.choosing.channel_ranking import Field
from fxprune.choosing.channel_targets import Left
from fxprune.choosing.fingerprint import fingerprint
from fxprune.choosing.named import known_criteria, made
from fxprune.choosing.planned_sites import PlannedSite, planned_channels
from fxprune.choosing.samples import Batch, Samples
from fxprune.choosing.targets import Targets
from fxprune.errors import FxpruneValueError
from fxprune.ir.arguments import require_arguments
from fxprune.ir.copies import copy_graphs
from fxprune.ir.module_tree import evaluating
from fxprune.ir.nodes import as_taken_now, require_graph
from fxprune.passes import RemoveChannels
from fxprune.pruning.channel_step import require_options
from fxprune.pruning.pruning_plan import PruningPlan
from fxprune.pruning.untrained.step_network import Numbers, Order, StepNetwork
from fxprune.pruning.untrained.step_state import State
from fxprune.rewriting.contract import Log

_UNUSED = ("data", "ratio", "scope", "multiple_of", "least", "normalize", "threshold", "latency")
"""Options of :class:`fxprune.passes.RemoveChannels` that mean nothing where accuracy says how many go."""
_ROUNDS = 6
"""So often the drop of accuracy that a target takes is halved."""


@dataclass(frozen=True)
class Progress:
    """Where a search is: ``evaluations`` of ``at_most``, and how many ``seconds_left`` these may take.

    ``group`` is the path of the layer whose channels are counted, ``top1`` the last held-out accuracy.
    """

    evaluations: int
    at_most: int
    seconds_left: float
    group: str
    top1: float


Told = Callable[[Progress], None]


@dataclass(frozen=True)
class Session:
    """What a search tells and keeps.

    Args:
        progress: called after each evaluation.
        state: a JSON file of what was evaluated: after a kill the same search goes on from there.
    """

    progress: Told | None = None
    state: Path | None = None


def search(
    graph_module: fx.GraphModule,
    data: Iterable[Any],
    held_out: Iterable[Any],
    targets: Targets | float,
    *,
    repair: bool = True,
    session: Session | None = None,
    **options: Any,
) -> PruningPlan:
    """Return what goes of the channels of a network, as a plan: found by bisection on held-out accuracy.

    Args:
        graph_module: what :func:`fxprune.trace` returned, with logits (N, classes); it is never changed.
        data: an iterable of inputs, or of pairs with labels: what channels are ranked, and readers fitted, on.
        held_out: an iterable of pairs of inputs and labels: what accuracy is measured on.
        targets: the shares of costs to leave: the line that falls least and meets them all. Or, as a number, p_end,
            the accuracy at the end of the line, above 0 and at most 1.
        repair: whether readers are fitted, by least squares, before accuracy is measured.
        session: who is told of progress, and where what was evaluated is kept.
        options: of :class:`fxprune.passes.RemoveChannels`: criterion ("cap"), keep, only, groups, statistics,
            aggregate, seed.

    Raises:
        FxpruneError: no target is given, ``held_out`` has no labels, or an option makes no sense.
        TargetError: the targets cannot be met; says what can.
        LoadError: the state cannot be read or written.
    """
    require_arguments(search, locals())
    graph_module = require_graph(graph_module, "search")
    wanted = targets if isinstance(targets, Targets) else Targets()
    p_end = None if isinstance(targets, Targets) else float(targets)
    if p_end is not None and not 0 < p_end <= 1:
        raise FxpruneValueError(f"targets as a number is a held-out accuracy, above 0 and at most 1; got {p_end:g}")
    if p_end is None and wanted.is_empty:
        raise FxpruneValueError("search takes targets, or the held-out accuracy to end at: how much is to go?")
    require_options("search", options, without=_UNUSED)
    amount = {"ratio": 0.5} if wanted.is_empty else wanted.options()  # some amount, so that channels are ranked
    step = RemoveChannels(**{"criterion": "cap", **options, **amount}, data=data)
    right = _HeldOut(graph_module, held_out)
    batches = list(Samples.of(graph_module, data)) if repair else None
    session = session or Session()
    found = _Search(graph_module, right, step, batches, _Told(session.progress, State(session.state)), p_end)
    log = Log()
    sites: list[PlannedSite] = []
    for one, classes, _ in step.chosen(copy_graphs(graph_module), log, found.choose):
        sites += planned_channels(one.channels, classes, one.worth, one.region)
    log.show(stacklevel=2)
    name = made(step.criterion, known_criteria(), "criterion").name
    return PruningPlan(sites, fingerprint(graph_module), name, wanted, step.groups, step.statistics)


class _HeldOut:
    """Held-out images: how many of them a graph has right."""

    def __init__(self, graph_module: fx.GraphModule, given: Iterable[Any]) -> None:
        self._batches: list[Batch] = list(Samples.of(graph_module, given))
        self.images = sum(one.size for one in self._batches)
        if not self.images or any(one.labels is None for one in self._batches):
            raise FxpruneValueError("held_out has no labels: give pairs of inputs and labels")

    def top1(self, graph: fx.GraphModule) -> float:
        """Return the share of them."""
        with evaluating(graph), torch.no_grad():
            return sum(self._right(graph, one) for one in self._batches) / self.images

    def _right(self, graph: fx.GraphModule, batch: Batch) -> int:
        logits = graph(*as_taken_now(graph, batch.inputs))
        if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
            raise FxpruneValueError("the network does not return logits of shape (N, classes)")
        assert batch.labels is not None
        return int((logits.argmax(1) == batch.labels.to(logits.device)).sum())


class _Told:
    """Counts evaluations, those of an earlier run too, and says how long those that are left may take."""

    def __init__(self, progress: Told | None, state: State) -> None:
        self._progress = progress
        self.state = state
        self.at_most = 0
        self._count = self._made = 0
        self._start = time.monotonic()

    def after(self, group: str, top1: float, is_known: bool) -> None:
        """Say that there is one more; ``is_known``: it was made before."""
        self._count += 1
        self._made += not is_known
        if self._progress is not None:
            each = (time.monotonic() - self._start) / max(self._made, 1)
            left = max(self.at_most - self._count, 0)
            self._progress(Progress(self._count, self._count + left, each * left, group, top1))


class _Search:
    """The bisections, as what chooses channels for :class:`fxprune.passes.RemoveChannels`."""

    def __init__(
        self,
        graph_module: fx.GraphModule,
        right: _HeldOut,
        step: RemoveChannels,
        batches: Sequence[Batch] | None,
        told: _Told,
        p_end: float | None,
    ) -> None:
        self._graph_module = graph_module
        self._right = right
        self._step = step
        self._batches = batches
        self._told = told
        self._p_end = p_end

    def choose(self, fields: Sequence[Field], amount: Amount, left: Left) -> list[set[int]]:
        """Return the classes that go, by graph: of the outermost one."""
        self._classes, self._orders = orders_of(fields[0])
        self._left, self._graphs = left, len(fields)
        step = self._step
        self._network = StepNetwork(self._graph_module, self._orders, self._batches, step.groups, step.statistics)
        self._start = self._right.top1(self._graph_module)
        refitted = sum(one.size for one in self._batches or ())
        self._known = self._told.state.open([self._orders, refitted, self._right.images, self._start])
        each = sum(len(order).bit_length() for order in self._orders)
        if self._p_end is not None:
            self._told.at_most = each
            numbers: Numbers | None = self._along(self._start - self._p_end)
        else:
            self._told.at_most = each * (_ROUNDS + 1)
            numbers = self._towards_targets(each)
        return self._gone(numbers or ())

    def _gone(self, numbers: Numbers) -> list[set[int]]:
        first = {one for classes, number in zip(self._classes, numbers, strict=False) for one in classes[:number]}
        return [first, *(set[int]() for _ in range(self._graphs - 1))]

    def _towards_targets(self, each: int) -> Numbers:
        """Return what the least drop comes to that meets the targets."""
        unmet = self._left.unmet(self._gone(tuple(map(len, self._orders))))
        if unmet:
            raise self._left.refusal(unmet, f"{sum(map(len, self._orders)):,} channels")
        low, high = 0.0, self._start or 1.0
        while (found := self._along(high)) is None:  # all goes at a drop of L accuracies, at the latest
            low, high = high, 2 * high
            self._told.at_most += each
        for _ in range(_ROUNDS):
            if high - low < 1 / self._right.images:
                break
            middle = (low + high) / 2
            better = self._along(middle)
            if better is None:
                low = middle
            else:
                found, high = better, middle
        return found

    def _along(self, drop: float) -> Numbers | None:
        """Return how many go of each group on the line of that drop; None if targets are not met then."""
        numbers: Numbers = ()
        for place in range(len(self._orders)):
            if self._left.limits:
                if not self._left.unmet(self._gone(numbers)):
                    return numbers
                rest = tuple(map(len, self._orders[place:]))
                if self._left.unmet(self._gone(numbers + rest)):
                    return None
            least = self._start - (place + 1) * drop / len(self._orders)
            numbers += (self._most(numbers, least),)
        return None if self._left.unmet(self._gone(numbers)) else numbers

    def _most(self, before: Numbers, least: float) -> int:
        """Return how many channels of the next group may go for that accuracy."""
        enough, too_many = 0, len(self._orders[len(before)]) + 1
        while too_many - enough > 1:
            middle = (enough + too_many) // 2
            is_right = self._top1((*before, middle)) >= least - 1e-9
            enough, too_many = (middle, too_many) if is_right else (enough, middle)
        return enough

    def _top1(self, numbers: Numbers) -> float:
        is_known = numbers in self._known
        if not is_known:
            self._told.state.note(numbers, self._right.top1(self._network.at(numbers)))
        self._told.after(self._orders[len(numbers) - 1][0][0], self._known[numbers], is_known)
        return self._known[numbers]


def orders_of(field: Field) -> tuple[list[list[int]], list[Order]]:
    """Return the classes that may go of each group, in forward order, those missed least first; and their names."""
    channels = field.channels
    names: dict[int, tuple[str, int]] = {}
    for path, classes in channels.outputs.items():
        for place, one in enumerate(classes.tolist()):
            names.setdefault(one, (path, place))
    found = []
    for group in channels.groups:
        mine = [one for one in field.in_order(group).tolist() if one in names]
        together = channels.spared(mine, field.worth)
        found.append([one for one in mine if one in together])
    found = [one for one in found if one]
    return found, [[names[one] for one in classes] for classes in found]
