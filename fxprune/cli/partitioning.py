"""``fxprune prune --partition``: its options, and which of the others are no use beside them.

What takes torch is imported where it is used: help and errors of usage come at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from fxprune.cli.options import collected

if TYPE_CHECKING:
    from fxprune.training.partition_job import Partitioning

_NO_USE = (
    *("target_macs", "target_params", "target_memory", "target_ms", "target_latency", "frontier", "strength"),
    *("plan", "criterion", "search", "what", "layers", "finetune_epochs", "shrink_share"),
    *("backend", "batch", "threads", "latency_device", "method", "alpha"),
)


@dataclass(frozen=True)
class Partition:
    """What is asked for: nothing where ``partition`` is None."""

    partition: int | None
    partition_search: str
    keep_cross: float
    parallel: bool

    def way(self, options: Mapping[str, Any], trains: bool, images: int) -> Partitioning | None:
        """Return how the head is split; raises UsageError for options that would do nothing."""
        given = click.get_current_context().get_parameter_source
        is_given = {name for name in (*_NO_USE, *_OWN) if given(name) in _BY_USER}
        if self.partition is None:
            for name in [one for one in _OWN if one in is_given]:
                raise click.UsageError(f"--{name.replace('_', '-')} needs --partition")
            return None
        for name in [one for one in _NO_USE if one in is_given]:
            raise click.UsageError(
                f"--{name.replace('_', '-')} is of layers or channels that go: not for --partition"
            )
        from fxprune.training.partition_job import Partitioning

        if self.parallel and self.keep_cross:
            raise click.UsageError("--parallel is for blocks that need nothing of each other: leave --keep-cross out")
        search: Any = self.partition_search
        norms = options["norms"] or Partitioning.norms
        kept = tuple(options["keep"]), tuple(options["only"])
        return Partitioning(self.partition, search, trains, images, self.keep_cross, self.parallel, *kept, norms)


_OWN = ("partition_search", "keep_cross", "parallel")
_BY_USER = (click.core.ParameterSource.COMMANDLINE,)
_count = click.option(
    "--partition",
    type=click.IntRange(2, 16),
    metavar="K",
    help="Split chains of linear layers into K blocks that need nothing of each other; no layers and channels go.",
)
_search = click.option(
    "--partition-search",
    type=click.Choice(["alternating", "spectral", "min-cut", "random"]),
    default="alternating",
    show_default=True,
    help="How features are shared out to blocks.",
)
_cross = click.option(
    "--keep-cross",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    help="Share of the weights across blocks that two layers of low rank may have, which are added; none by default.",
)
_parallel = click.option(
    "--parallel", is_flag=True, help="Write parts/ too: a network a block, and run.py, which runs them as processes."
)


def partition_options(command: Any) -> Any:
    """Give ``command`` the options of :class:`Partition`, as one value ``partition``."""
    return _count(_search(_cross(_parallel(collected("partition", Partition)(command)))))
