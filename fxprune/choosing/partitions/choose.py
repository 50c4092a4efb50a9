"""The blocks of the layers of a chain: chosen by name of search and of what counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from fxprune.choosing.partitions.alternating import Alternating
from fxprune.choosing.partitions.base import BlockSearch, kept_mass, sizes
from fxprune.choosing.partitions.masses import By, mass_of
from fxprune.choosing.partitions.min_cut import MinCut
from fxprune.choosing.partitions.random_blocks import RandomBlocks
from fxprune.choosing.partitions.spectral import Spectral
from fxprune.errors import FxpruneValueError
from fxprune.ir.weight_blocks import Assignment, WeightBlocks
from fxprune.structures.partitions.chains import Chain

SearchName = Literal["random", "alternating", "spectral", "min-cut"]
SEARCHES: Mapping[str, type[BlockSearch]] = {one.name: one for one in (RandomBlocks, Alternating, Spectral, MinCut)}
MOST = 16


@dataclass(frozen=True, eq=False)
class ChosenBlocks:
    """The blocks of all layers of a chain but for the last.

    Attributes:
        layers: in order.
        kept: the share of each layer's mass that lies in its blocks.
    """

    layers: tuple[WeightBlocks, ...]
    kept: tuple[float, ...]


def require_blocks(blocks: int) -> None:
    """Raise FxpruneValueError unless ``blocks`` is a number of blocks that layers may be split into."""
    if not 2 <= blocks <= MOST:
        raise FxpruneValueError(f"blocks is a number from 2 to {MOST}; got {blocks}")


def require_room(chain: Chain, blocks: int) -> None:
    """Raise FxpruneValueError if a layer of ``chain`` has fewer features than there are to be blocks."""
    names = (f"{chain.enters_by or chain.paths[0]} has {{}} to enter by", *(f"{one} has {{}}" for one in chain.paths))
    for width, name in zip(chain.widths, names, strict=False):
        if width < blocks:
            what = "channels or features" if "enter" in name else "outputs"
            raise FxpruneValueError(f"blocks={blocks}, but {name.format(f'{width} {what}')}: give fewer, or keep= it")


def uneven(chain: Chain, blocks: int) -> list[str]:
    """Return what to say of the layers whose features are not shared out evenly."""
    enters = f"the channels of {chain.enters_by}" if chain.enters_by else f"the inputs of {chain.paths[0]}"
    names = (enters, *(f"the outputs of {one}" for one in chain.paths[:-1]))
    told = []
    for width, name in zip(chain.widths, names, strict=True):
        if width % blocks:
            large, small = max(sizes(width, blocks)), min(sizes(width, blocks))
            told.append(f"{blocks} does not divide {name} ({width}): blocks of {large} and of {small}")
    return told


def choose_blocks(
    chain: Chain, blocks: int, search: BlockSearch, by: By, reads: Sequence[torch.Tensor | None], seed: int
) -> ChosenBlocks:
    """Share the features of a chain out to ``blocks``.

    Args:
        chain: what is split; its last layer is not, but by its inputs.
        blocks: how many.
        search: what shares them out.
        by: what counts.
        reads: what each layer but for the last reads, as rows; None where ``by`` does not look at it.
        seed: of what is drawn.

    Raises:
        FxpruneValueError: a layer has fewer features than blocks, or numbers are not finite.
    """
    require_room(chain, blocks)
    split = chain.layers[:-1]
    plain = (np.arange(one.in_features, dtype=np.int64) for one in split[1:])
    units = [chain.entry, *plain]
    masses = [mass_of(layer, by, read, of) for layer, read, of in zip(split, reads, units, strict=True)]
    for path, mass in zip(chain.paths, masses, strict=False):
        if not np.isfinite(mass).all():
            raise FxpruneValueError(f"{path} has weights, or reads numbers, that are not finite: mend them first")
    found = search.find(masses, blocks, np.random.default_rng(seed))
    totals = [max(float(one.sum()), 1e-300) for one in masses]
    kept = tuple(part / whole for part, whole in zip(kept_mass(masses, found), totals, strict=True))
    return ChosenBlocks(_layers(chain, found), kept)


def _layers(chain: Chain, found: Sequence[Assignment]) -> tuple[WeightBlocks, ...]:
    entering = [found[0][chain.entry], *found[1:-1]]
    return tuple(WeightBlocks(rows, columns) for columns, rows in zip(entering, found[1:], strict=True))
