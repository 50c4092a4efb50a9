"""What was chosen to go, as data: to be read, edited, compared and applied.

plan = fxprune.choose(traced, targets=fxprune.Targets(macs=0.5))
plan.save("plan.json")                                             # one site a line
result = fxprune.PruningPlan.load("plan.json").apply(traced)       # a plan for another network is refused
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import fx

from fxprune.choosing.fingerprint import fingerprint, first_difference
from fxprune.choosing.planned_sites import PlannedSite, widths_of
from fxprune.choosing.sites import Groups, Statistics
from fxprune.choosing.targets import Targets
from fxprune.errors import FxpruneTypeError, FxpruneValueError, LoadError
from fxprune.files import write_text
from fxprune.gates.words import told_by_kind
from fxprune.ir.arguments import option_kinds, require_arguments, require_kind
from fxprune.passes import RemoveChannels
from fxprune.passes.chains import FINISHING, Norms
from fxprune.pipelines import KIND_OF
from fxprune.pipelines.pipeline import Pipeline
from fxprune.pipelines.result import PipelineResult
from fxprune.pruning.layer_sites import removing
from fxprune.pruning.plan_file import plan_text, read_plan


@dataclass(frozen=True, repr=False)
class PruningPlan:
    """What goes of one network, and why; :func:`fxprune.choose` makes it.

    Args:
        sites: what goes, each a :class:`~fxprune.choosing.planned_sites.PlannedSite`.
        fingerprint: the layers of the network that it is for (see :mod:`fxprune.choosing.fingerprint`).
        criterion: what the scores are of, by name; for a person.
        targets: what was asked for; for a person.
        groups, statistics: how channels go together, as :class:`fxprune.passes.RemoveChannels` takes them.

    Raises:
        FxpruneError: one is of another kind.
    """

    sites: Sequence[PlannedSite] = ()
    fingerprint: Sequence[str] = ()
    criterion: str = ""
    targets: Targets = field(default_factory=Targets)
    groups: Groups = "within"
    statistics: Statistics = "exact"

    def __post_init__(self) -> None:
        for name, hint in option_kinds(PruningPlan).items():
            require_kind(getattr(self, name), hint, "PruningPlan", name)
        for name in ("sites", "fingerprint"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def __repr__(self) -> str:
        return f"<PruningPlan: {self}>"

    def __str__(self) -> str:
        counts = Counter(one.kind for one in self.sites if one.kind != "channels")
        told = [told_by_kind(counts)] if counts else []
        channels = [len(places) for places in self.indices.values()]
        told += (
            [f"{sum(channels):,} channels of {len(channels)} layer{'s' * (len(channels) != 1)}"] if channels else []
        )
        return f"{' and '.join(told) or 'nothing'}, by {self.criterion or 'hand'}, for {self.targets}"

    @property
    def indices(self) -> dict[str, list[int]]:
        """The output channels that go, by the paths of layers: those of :class:`fxprune.passes.RemoveChannels`."""
        found: dict[str, list[int]] = {}
        for one in self.sites:
            if one.kind == "channels":
                found.setdefault(one.path, []).extend(one.indices)
        return found

    @property
    def what(self) -> tuple[str, ...]:
        """Of what it has sites, of "convs", "branches" and "channels"."""
        kinds = {one.kind for one in self.sites if one.indices}
        return tuple(word for word, kind in KIND_OF.items() if kind in kinds)

    def layers(self, kind: str) -> list[str]:
        """Return the paths of the "conv" or "branch" sites that go."""
        return list(dict.fromkeys(one.path for one in self.sites if one.kind == kind and one.indices))

    def save(self, path: str | Path) -> None:
        """Write it as JSON, a site a line; raises LoadError if it cannot be written."""
        require_arguments(PruningPlan.save, locals())
        write_text(Path(path), self.to_json())

    def to_json(self) -> str:
        """Return it as the text of a file."""
        head = {"criterion": self.criterion, "targets": self.targets.options()}
        lists = {"sites": [one.to_json() for one in self.sites], "fingerprint": self.fingerprint}
        return plan_text({**head, "groups": self.groups, "statistics": self.statistics}, lists)

    @classmethod
    def load(cls, path: str | Path) -> PruningPlan:
        """Return the plan of a file.

        Raises:
            LoadError: it cannot be read, is no plan, or an index in it is out of range.
        """
        require_arguments(PruningPlan.load, locals())
        content = read_plan(Path(path))
        try:
            targets = Targets.of_options(content.pop("targets", {}))
            sites = [PlannedSite.read(one) for one in content.pop("sites")]
            return cls(sites, targets=targets, **content)
        except (FxpruneValueError, FxpruneTypeError) as error:
            raise LoadError(f"{path}: {error}") from error

    def require_fits(self, graph_module: fx.GraphModule) -> None:
        """Raise LoadError if it is a plan for another network: with the first layer, or width, that differs."""
        difference = first_difference(self.fingerprint, fingerprint(graph_module))
        if difference is not None:
            raise LoadError(f"the plan is for another network: {difference}; make one with fxprune plan")
        self._require_widths(graph_module)

    def apply(self, graph_module: fx.GraphModule, *, norms: Norms = "keep", verify: bool = True) -> PipelineResult:
        """Return the network without what the plan says: channels first, then convs and branches.

        Args:
            graph_module: what :func:`fxprune.trace` returned; it is never changed.
            norms: of the plain network: "keep" batch norms, to train on, or "fold" them into the weights.
            verify: check in float64 that what promises equal values keeps them.

        Raises:
            LoadError: it is a plan for another network; says where they differ.
            FxpruneValueError: what it says is not there, or cannot go.
        """
        require_arguments(PruningPlan.apply, locals())
        self.require_fits(graph_module)
        layers = {kind: self.layers(kind) for kind in ("conv", "branch")}
        steps = removing(graph_module, self.cut, layers)
        return Pipeline([*steps, *FINISHING[norms]], verify=verify)(graph_module)

    @property
    def cut(self) -> RemoveChannels | None:
        """The pass that takes the channels out; None if none go."""
        indices = self.indices
        return RemoveChannels(indices=indices, groups=self.groups, statistics=self.statistics) if indices else None

    def _require_widths(self, graph_module: fx.GraphModule) -> None:
        """Raise LoadError if a site says another width than its layer has: somebody edited one of the two."""
        widths = dict(widths_of(graph_module))
        for one in self.sites:
            if one.kind == "channels" and one.path in widths and widths[one.path] != one.width:
                raise LoadError(f"the plan says that {one.path} has {one.width} channels; it has {widths[one.path]}")
