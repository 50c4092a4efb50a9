"""What repairs.py compares: three ways to choose channels, and the repairs of what was cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import fx

from benchmarks.accuracy.published_repairs import cap, grail
from fxprune.choosing.criteria.base import ChannelCriterion, Criterion, Needs
from fxprune.choosing.criteria.l1 import L1
from fxprune.choosing.samples import Samples
from fxprune.passes import MeasureNorms, RemoveChannels, Repair
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.running import Worth

Images = Sequence[torch.Tensor]
Mend = Callable[[fx.GraphModule, fx.GraphModule, Images], fx.GraphModule]
"""(unpruned graph, pruned graph, images) -> repaired graph."""


class L1TimesL1(ChannelCriterion):
    """L1 norm of a channel's rows times that of the columns that read it."""

    name: ClassVar[str] = "L1 x L1"
    needs: ClassVar[Needs] = "weights"

    def by_class(self, channels: Channels, samples: Samples) -> Worth:
        """Return the products, by class."""
        columns = np.zeros(len(channels.labels))
        for reader in channels.walk.readers:
            if reader.weight is not None:
                others = [axis for axis in range(reader.weight.dim()) if axis != reader.axis]
                sizes = reader.weight.detach().double().abs().sum(others).cpu().numpy()
                for labels in reader.vectors:
                    np.add.at(columns, channels.class_of[labels], sizes[: len(labels)])
        return L1().by_class(channels, samples) * columns


MASKS: Mapping[str, str | Criterion] = {"L1 x L1": L1TimesL1(), "CaP's greedy": "cap", "ours": "read-share"}


def cut(graph: fx.GraphModule, mask: str, left: float, images: Images, only: Sequence[str]) -> fx.GraphModule:
    """Return the network without channels, the same share of each group, so that ``left`` of the MACs are left."""
    remove = RemoveChannels(target_macs=left, scope="uniform", criterion=MASKS[mask], data=images, only=only)
    return remove(graph).graph_module


def _none(reference: fx.GraphModule, pruned: fx.GraphModule, images: Images) -> fx.GraphModule:
    return pruned


def _ours(reference: fx.GraphModule, pruned: fx.GraphModule, images: Images, **options: str) -> fx.GraphModule:
    return Repair(data=images, reference=reference, **options)(pruned).graph_module  # type: ignore[arg-type]


REPAIRS: Mapping[str, Mend] = {
    "none": _none,
    "GRAIL": grail,
    "CaP": cap,
    "CaP, rescaled": partial(cap, rescaled=True),
    "ours": _ours,
    "ours, once": partial(_ours, statistics="once"),
}


def repaired(
    reference: fx.GraphModule, pruned: fx.GraphModule, repair: str, images: Images, norms: bool
) -> fx.GraphModule:
    """Return what a repair makes of a cut network; with ``norms`` these are measured anew behind it."""
    found = REPAIRS[repair](reference, pruned, images)
    return MeasureNorms(data=images)(found).graph_module if norms else found
