"""Which gates go for a threshold and for a target, why, and what is said of it."""

from __future__ import annotations

import pytest
from helpers import tiny
from torch import fx

import fxprune
from fxprune import passes
from fxprune.choosing.removal import DEFAULT_THRESHOLD, choose, sizes_of_untrained
from fxprune.errors import TargetError
from fxprune.structures.gated_layers import Gate, layers


def gates(*scales: float) -> tuple[fx.GraphModule, list[Gate]]:
    """Return the tiny network with these scales on all layers that can be removed."""
    graph = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(tiny()).graph_module
    found = layers(graph)
    for gate, scale in zip(found, scales, strict=True):
        gate.assign(scale=scale)
    return graph, found


SCALES = (0.0, 0.5, 1e-3, 1.0, 0.2, 0.7)


@pytest.mark.parametrize(
    ("threshold", "target", "small", "wanted"),
    [
        (None, None, [0, 2], []),
        (0.0, None, [0], []),
        (0.5, None, [0, 2, 4, 1], []),
        (None, 1.0, [0], []),
        (0.5, 1.0, [0, 2, 4, 1], []),
    ],
)
def test_a_threshold_and_a_target(
    threshold: float | None, target: float | None, small: list[int], wanted: list[int]
) -> None:
    graph, found = gates(*SCALES)
    removal = choose(graph, found, "scale", threshold, target, 0)
    assert [found.index(gate) for gate in removal.small] == small
    assert [found.index(gate) for gate in removal.wanted] == wanted
    assert removal.going == {found[index].node for index in (*small, *wanted)}
    assert removal.threshold == (threshold if threshold is not None else DEFAULT_THRESHOLD if target is None else 0.0)


def test_each_gate_is_told_why_it_goes_or_stays() -> None:
    graph, found = gates(*SCALES)
    removal = choose(graph, found, "scale", 0.0, 0.6, 0)
    assert removal.why(found[0]) == "its scale is 0"
    assert removal.wanted
    assert f"is among the {len(removal.wanted)} smallest, for target_macs=0.6" in removal.why(removal.wanted[0])
    assert removal.why(found[3]) == "its scale 1 is larger than the target needs"
    assert choose(graph, found, "scale", 0.0, None, 0).why(found[3]) == "its scale 1 is above 0"


def test_ranks_by_scale_and_by_what_a_mac_costs() -> None:
    graph, found = gates(*(0.5,) * 6)
    by_macs = choose(graph, found, "scale-per-mac", 0.0, None, 0)
    assert [gate.macs for gate in by_macs.others] == sorted((gate.macs for gate in found), reverse=True)
    assert choose(graph, found, "scale", 0.0, None, 0).others == found


def test_warnings_say_what_was_not_removed_and_what_was_cut_early() -> None:
    graph, found = gates(*SCALES[1:], 0.3)
    nothing = choose(graph, found, "scale", 0.0, None, 0)
    assert list(nothing.warnings(())) == [
        "nothing was removed: the smallest of 6 scales is 0.001; train them to zero"
    ]
    early = choose(graph, found, "scale", None, 0.4, 0)
    said, over = early.warnings(early.going)
    assert "% of the MACs are left where target_macs=0.4 was asked for: layers go as a whole" in over
    assert said.startswith(f"{len(early.cut)} layers were cut for target_macs=0.4 though their scales go up to")
    assert not list(early.warnings(()))


def test_a_target_that_cannot_be_met_is_told() -> None:
    graph, found = gates(*SCALES)
    with pytest.raises(TargetError, match="cannot be met"):
        choose(graph, found, "scale", None, 1e-6, 0)


def test_sizes_are_asked_for_what_was_never_trained() -> None:
    found = layers(passes.InsertResConv()(tiny()).graph_module)
    assert sizes_of_untrained(found).keys() == {gate.node for gate in found}
    found[0].module.close()
    assert sizes_of_untrained(found).keys() == {gate.node for gate in found[1:]}
    branches = layers(passes.InsertBranchScale()(tiny()).graph_module)
    assert sizes_of_untrained(branches) == {}
