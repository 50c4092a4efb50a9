"""Which share a channel has in what is computed of it."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from fxprune.choosing.criteria.activations import look
from fxprune.choosing.criteria.base import ChannelCriterion, Needs
from fxprune.choosing.samples import Samples
from fxprune.gates.base import ungated
from fxprune.ops.call import Call
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.running import Read, Worth
from fxprune.structures.channels.walk import Reader


class ReadShare(ChannelCriterion):
    """sum over readers of E[x^2] |W|^2 / the sum of that over all their channels: ours.

    x is what arrives in a channel, W the columns that read it: its share in the energy of what each reader computes,
    were channels independent. To channels it is what |W| |x| is to single weights (Sun et al., arXiv 2306.11695).
    Where activations are multiplied |W| is 1.
    """

    name: ClassVar[str] = "read-share"
    needs: ClassVar[Needs] = "inputs"

    def by_class(self, channels: Channels, samples: Samples) -> Worth:
        """Return the shares; 0 of what nobody reads."""
        energy: dict[tuple[fx.Node, int], NDArray[np.float64]] = {}
        seen: dict[tuple[fx.Node, int], Read] = {}

        def note(read: Read, value: torch.Tensor) -> None:
            key = read.node, read.axis
            found = read.per_channel(value.detach().double().square())
            energy[key] = energy[key] + found if key in energy else found
            seen[key] = read

        look(channels, samples, note)
        kernels = {reader.node: _squares(reader) for reader in channels.walk.readers if reader.weight is not None}
        worth = np.zeros(len(channels.labels))
        for key, read in seen.items():
            found = energy[key] * kernels.get(read.node, 1.0)
            for classes in read.classes:
                np.add.at(worth, classes, found / max(float(found.sum()), 1e-300))
        return worth


def _squares(reader: Reader) -> NDArray[np.float64]:
    """Return for each channel that a reader reads the sum of squares of its columns; (channels,)."""
    assert reader.weight is not None
    weight = reader.weight.detach().double().square()
    kernel = weight if weight.dim() == 2 else weight.flatten(2).sum(2)
    call = Call(reader.node)
    layer = None if call.module is None else ungated(call.module)
    if reader.axis == 0:
        columns = kernel.sum(1)
    else:
        groups = int(getattr(layer, "groups", 1)) if layer is not None else _groups(call)
        columns = kernel.view(groups, -1, kernel.shape[1]).sum(1).flatten()
    found: NDArray[np.float64] = columns.cpu().numpy()
    return found


def _groups(call: Call) -> int:
    groups = call.argument("groups") if call.kind == "conv" else 1
    return groups if isinstance(groups, int) else 1
