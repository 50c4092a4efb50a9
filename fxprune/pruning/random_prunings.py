"""Random prunings of a network, of all sizes: what a model of its latency is fitted to, and judged by."""

from __future__ import annotations

import random
import warnings

from torch import fx

from fxprune.costs.macs import total_macs
from fxprune.errors import FxpruneError, FxpruneWarning
from fxprune.ir.nodes import graphs_of
from fxprune.passes import RemoveChannels, RemoveLayers
from fxprune.passes.chains import AFTER_TRAINING
from fxprune.pipelines.chains import insert_scales
from fxprune.structures.channels.groups import Channels
from fxprune.structures.gated_layers import gates_of

_MOST, _LAYERS = 0.85, 0.35
_MULTIPLES = (1, 8, 1, 16)


def plain(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Return the network that is emitted of a graph: gates fused, norms folded; layers that stay are shared."""
    for one in AFTER_TRAINING:
        graph_module = one(graph_module).graph_module
    return graph_module


def random_prunings(graph_module: fx.GraphModule, count: int, *, seed: int = 0) -> list[fx.GraphModule]:
    """Return so many networks as they would be emitted; the first is ``graph_module`` itself, each has fewer MACs.

    Of each group of channels a random share goes, in every other network a multiple of 8 or 16 is left; of the layers
    that can go some do. Networks of which nothing can go are all the same.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FxpruneWarning)
        found = [plain(graph_module)]
        gated = _with_gates(graph_module)
        for place in range(1, count):
            found.append(_pruned(gated, place, place / max(1, count - 1), random.Random(f"{seed} {place}")))
        return sorted(found, key=total_macs, reverse=True)


def _with_gates(graph_module: fx.GraphModule) -> fx.GraphModule:
    if gates_of(graph_module):
        return graph_module
    try:
        return insert_scales(graph_module, what="convs,branches", verify=False).graph_module
    except FxpruneError:  # it has none that can go
        return graph_module


def _pruned(gated: fx.GraphModule, place: int, share: float, draw: random.Random) -> fx.GraphModule:
    paths = [gate.path for gate in gates_of(gated) if gate.removable and draw.random() < _LAYERS * share]
    if paths:
        gated = RemoveLayers(paths=paths)(gated).graph_module
    network = plain(gated)
    names = dict.fromkeys(
        group.name for _, graph in graphs_of(network) for group in Channels(graph).groups if len(group.free) > 1
    )
    ratios = {name: draw.uniform(0.02, _MOST * (0.3 + 0.7 * share)) for name in names if name}
    if not ratios:
        return network
    multiple = _MULTIPLES[place % len(_MULTIPLES)]
    thinner = RemoveChannels(ratio=ratios, criterion="random", seed=place, multiple_of=multiple)(network)
    return plain(thinner.graph_module)
