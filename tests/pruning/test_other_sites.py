"""A target that one kind of sites cannot meet: what can, and what else could go."""

from __future__ import annotations

import pytest
import torch
from channel_training import Blocks, gated

import fxprune
from fxprune.choosing.targets import Targets
from fxprune.errors import TargetError
from fxprune.pipelines.chains import insert_scales
from fxprune.pruning.other_sites import require_met


@pytest.mark.parametrize(
    ("what", "macs", "said"),
    [
        ("branches", 0.05, r"2 removable layers 0\.\d+ of .*; convs, branches and channels together can meet it"),
        ("channels", 0.02, r"all that can go .*; convs, branches and channels together can meet it: --what all$"),
        (
            "channels",
            1e-5,
            r"all that can go .*; nor is it met by convs, branches and channels together: .* cannot be",
        ),
    ],
)
def test_it_is_said_whether_all_kinds_together_can(what: str, macs: float, said: str) -> None:
    traced = fxprune.trace(Blocks().eval(), torch.randn(2, 3, 8, 8))
    sparse = insert_scales(traced, what=what).graph_module
    with pytest.raises(TargetError, match=f"^target_macs={macs:g} cannot be met: without .*{said}") as caught:
        require_met(traced, sparse, Targets(macs=macs))
    assert "\n" not in str(caught.value)
    require_met(traced, sparse, Targets(macs=0.9))


def test_in_a_loop_of_ones_own_the_kinds_without_scales_are_named() -> None:
    with pytest.raises(
        TargetError, match=r'; or give convs and branches scales too, if any can go: what="all" \(--what all\)$'
    ):
        fxprune.SteeredL1(gated("channels"), targets=Targets(macs=0.001), meet_after=9)
    with pytest.raises(TargetError, match=r"ask for at least 0\.\d+$"):
        fxprune.SteeredL1(gated("all"), targets=Targets(macs=1e-6), meet_after=9)
