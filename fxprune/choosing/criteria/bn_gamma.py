"""How large the scales of the batch norms are that channels pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import fx

from fxprune.choosing.criteria.base import Aggregate, ChannelCriterion, Needs
from fxprune.choosing.criteria.rows import Slices
from fxprune.choosing.samples import Samples
from fxprune.errors import FxpruneValueError
from fxprune.ir.arguments import require_kind
from fxprune.ops.call import Call
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.running import Worth
from fxprune.structures.channels.tensors import Record


@dataclass
class BatchNormGamma(ChannelCriterion):
    """|gamma| of the batch norm of a channel: network slimming (Liu et al., arXiv 1708.06519).

    The paper trains with an L1 penalty on all gammas first (:class:`fxprune.NetworkSlimming` does). The sum over all
    batch norms of what goes together is ours; what has none stays: its score is infinite.

    Args:
        aggregate: the "sum" over all batch norms of a class, or their "mean".

    Raises:
        FxpruneValueError: when it measures a graph without batch norms that have weights.
    """

    name: ClassVar[str] = "bn-gamma"
    needs: ClassVar[Needs] = "weights"
    aggregate: Aggregate = "sum"

    def __post_init__(self) -> None:
        require_kind(self.aggregate, Aggregate, type(self).__name__, "aggregate")

    def by_class(self, channels: Channels, samples: Samples) -> Worth:
        """Return the gammas of all classes."""
        records = {id(one): one for node in channels.graph_module.graph.nodes for one in _gammas(channels, node)}
        if not records:
            raise FxpruneValueError(
                f"criterion {self.name} needs batch norms with weights, and the graph has none: take l1, or a graph "
                "whose norms are not folded yet"
            )
        found = Slices(channels)
        for record in records.values():
            sizes = record.tensor.detach().abs().double().cpu().numpy()
            for labels in record.axes[0]:
                found.add(labels, sizes)
        return np.where(found.counts > 0, found.put_together(self.aggregate), np.inf)


def _gammas(channels: Channels, node: fx.Node) -> list[Record]:
    """Return the weight of the batch norm that ``node`` calls, if it is one of channels."""
    call = Call(node)
    record = channels.walk.record(call, "weight") if call.op is not None and call.op.name == "batch_norm" else None
    return [record] if record is not None and record.axes.get(0) else []
