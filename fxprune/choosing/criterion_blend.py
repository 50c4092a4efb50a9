"""A blend of criteria: how much each counts, group by group of channels.

worth of a channel = sum over c of f_c s_c / mean(s_c), over the sum of all f_c
                     c: the criteria of its group, f_c: their factors, mean: over the channels that can go

blend = Blend({"layer1.0.conv1": {"taylor": 1.0, "l1": 0.3}})
blend.save("blend.json")                                           # plain data
fxprune.choose(traced, targets=fxprune.Targets(macs=0.5), criterion=Blend.load("blend.json"), data=loader)

That criteria are blended by calibration factors is He et al. (arXiv 2107.05033); how they are is ours, of which the
paper's abstract says nothing. :func:`fxprune.pruning.blend.search.search_blend` finds the factors.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import fx

from fxprune.choosing.channel_scores import normalized
from fxprune.choosing.criteria.base import Criterion, Needs, Score
from fxprune.choosing.named import known_criteria, made
from fxprune.choosing.samples import Samples
from fxprune.choosing.sites import ChannelSite, Site
from fxprune.errors import FxpruneTypeError, FxpruneValueError, LoadError, did_you_mean
from fxprune.files import read_json_of, write_json
from fxprune.ir.arguments import require_kind
from fxprune.structures.channels.running import Worth

Factors = Mapping[str, Mapping[str, float]]
"""By group, as :func:`key_of` has it, and criterion, by its name."""
FORMAT = 1
_FORMAT = "fxprune_blend"
_NEEDS: tuple[Needs, ...] = ("weights", "inputs", "labels")


@dataclass
class Blend(Criterion):
    """Several criteria of channels in one, with factors of their own in each group.

    Args:
        factors: what each criterion counts, by group and by its name; criteria that are left out count nothing.
        top1: the held-out top-1 that it was found by, for a person; None if nobody measured it.

    Raises:
        FxpruneValueError: there is no such criterion, or the factors of a group are not numbers from 0, or all 0.
    """

    name: ClassVar[str] = "blend"
    factors: Factors
    top1: float | None = None

    def __post_init__(self) -> None:
        require_kind(self.factors, Mapping[str, Mapping[str, Any]], "Blend", "factors")
        require_kind(self.top1, float | None, "Blend", "top1")
        known = known_criteria()
        for path, group in self.factors.items():
            for name, factor in group.items():
                if name not in known or name == self.name:
                    hint = did_you_mean(name, known)
                    raise FxpruneValueError(f"the blend of {path} has {name!r}, which is no criterion{hint}")
                if type(factor) not in (int, float) or not 0 <= factor < math.inf:
                    raise FxpruneValueError(f"the factor of {name} of {path} is a number from 0; got {factor!r}")
            if not any(group.values()):
                raise FxpruneValueError(f"the blend of {path} has no factor above 0: give one criterion 1")

    @property
    def members(self) -> list[str]:
        """The names of the criteria that count anywhere, in order."""
        return sorted({name for group in self.factors.values() for name, factor in group.items() if factor})

    @property
    def needs(self) -> Needs:  # type: ignore[override]  # depends on the members
        """What the members look at."""
        return max((made(one, known_criteria(), "criterion").needs for one in self.members), key=_NEEDS.index)

    @contextmanager
    def measuring(self, graph_module: fx.GraphModule, sites: Collection[Site], samples: Samples) -> Iterator[Score]:
        """Return what blends the scores of a site; each member measures the graph once."""
        with ExitStack() as held:
            missed: dict[str, Score] = {}
            for name in self.members:
                one = made(name, known_criteria(), "criterion")
                one.comparing = self.comparing
                missed[name] = held.enter_context(one.measuring(graph_module, sites, samples))

            def score(site: Any) -> Worth:
                factors = self._of(site)
                return blended({name: missed[name](site) for name, factor in factors.items() if factor}, factors)

            yield score

    def _of(self, site: Any) -> Mapping[str, float]:
        if not isinstance(site, ChannelSite):
            raise FxpruneValueError(only_channels(site))
        key = key_of(site)
        if key not in self.factors:
            raise FxpruneValueError(
                f"the blend says nothing of the channels of {key}: it was found for another network, or for other "
                "groups of channels; search one for this (fxprune.pruning.blend.search.search_blend)"
            )
        return self.factors[key]

    def save(self, path: str | Path) -> None:
        """Write it as JSON; raises LoadError if it cannot be written."""
        write_json(Path(path), {_FORMAT: FORMAT, "top1": self.top1, "factors": self.factors})

    @classmethod
    def load(cls, path: str | Path) -> Blend:
        """Return the blend of a file; raises LoadError if it cannot be read, or is none."""
        content = read_json_of(path, "blend")
        if not isinstance(content, dict) or content.keys() != {_FORMAT, "top1", "factors"}:
            raise LoadError(f"{path} is no blend: Blend.save writes one, which has {_FORMAT!r}, top1 and factors")
        if content[_FORMAT] != FORMAT:
            raise LoadError(f"{path} is a blend of another format; this version reads {_FORMAT} {FORMAT}")
        try:
            return cls(content["factors"], content["top1"])
        except (FxpruneValueError, FxpruneTypeError) as error:
            raise LoadError(f"{path}: {error}") from error


def key_of(site: ChannelSite) -> str:
    """Return the path of a group, with #2 or so behind it where its layer makes several (queries beside values)."""
    alike = [one for one in site.channels.groups if one.name == site.group.name and len(one.free)]
    number = alike.index(site.group) + 1
    return site.path if number == 1 else f"{site.path}#{number}"


def only_channels(site: Any) -> str:
    """Return what to say where a blend is asked of a layer."""
    return (
        f"criterion {Blend.name} scores channels only, and {site.path} is a {site.kind}: take half-gate, l1, l2 or "
        "weight-norm for layers"
    )


def blended(scores: Mapping[str, Worth], factors: Mapping[str, float]) -> Worth:
    """Return the weighted mean of the scores of a group, (width,), each over its own mean; infinite ones stay so."""
    used = {name: normalized(worth, "mean") for name, worth in scores.items() if factors.get(name)}
    found: Worth = sum((factors[name] * worth for name, worth in used.items()), np.zeros(()))
    return found / sum(factors[name] for name in used)
