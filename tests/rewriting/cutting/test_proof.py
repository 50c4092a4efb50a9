"""The proof that shapes cannot give: calls of the right shapes with the wrong channels are faults."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from channel_nets import NETS
from torch import fx

import fxprune
from fxprune.rewriting.cutting.arguments import Arguments
from fxprune.rewriting.cutting.kept import Kept
from fxprune.rewriting.cutting.proof import require_proof
from fxprune.rewriting.cutting.sizes import Fault
from fxprune.structures.channels.groups import Channels


def planned(name: str) -> tuple[Kept, dict[fx.Node, Any]]:
    torch.manual_seed(0)
    model, inputs = NETS[name]()
    channels = Channels(fxprune.trace(model.eval(), inputs))
    worth = np.random.default_rng(1).random(len(channels.labels))
    gone = {one for group in channels.groups for one in group.free[: group.width // 2].tolist()}
    kept = Kept(channels.walk, channels.spared(gone, worth))
    edits = {node: Arguments(kept).rewritten(node) for node in channels.graph_module.graph.nodes}
    return kept, {node: edit for node, edit in edits.items() if edit is not None}


@pytest.mark.parametrize("name", ["Slices", "SplitSizes", "SplitShuffle", "PaddedShortcut", "Attention"])
def test_what_is_planned_is_proved_and_the_graph_stays(name: str) -> None:
    kept, edits = planned(name)
    before = str(kept.walk.graph_module.graph)
    require_proof(kept, edits)
    assert str(kept.walk.graph_module.graph) == before


def test_a_slice_of_the_right_size_at_the_wrong_place_is_a_fault() -> None:
    kept, edits = planned("Slices")
    node = next(one for one in edits if one.name == "getitem_1")
    target, (x, index), kwargs = edits[node]
    old = index[1]
    moved = slice(old.start - 1, old.stop - 1, None)
    edits[node] = target, (x, (*index[:1], moved, *index[2:])), kwargs
    with pytest.raises(Fault, match="would"):
        require_proof(kept, edits)


def test_parts_exchanged_are_a_fault() -> None:
    kept, edits = planned("SplitSizes")
    node = next(one for one in edits if one.name.startswith("split"))
    target, (x, sizes, axis), kwargs = edits[node]
    edits[node] = target, (x, list(reversed(sizes)), axis), kwargs
    with pytest.raises(Fault):
        require_proof(kept, edits)
