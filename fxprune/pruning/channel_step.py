"""The pass that chooses channels, by the options that are given beside targets."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from fxprune.choosing.targets import Targets
from fxprune.errors import FxpruneTypeError, FxpruneValueError, did_you_mean
from fxprune.passes import RemoveChannels
from fxprune.pipelines.registry import options_of


def require_options(taker: str, options: Collection[str], without: Collection[str] = ()) -> None:
    """Raise FxpruneTypeError for an option that is none of ``taker``: see :func:`channel_step`."""
    known = [one for one in options_of(RemoveChannels) if not one.startswith("target_") and one != "indices"]
    known = [one for one in known if one not in without]
    for name in options:
        if name not in known:
            raise FxpruneTypeError(
                f"{taker} has no option {name!r}{did_you_mean(name, known)}; it has {', '.join(known)}"
            )


def channel_step(
    taker: str, targets: Targets, options: Mapping[str, Any], without: Collection[str] = ()
) -> RemoveChannels:
    """Return the pass with these options.

    Args:
        taker: the function that they were given to, for errors.
        targets: the shares of costs to leave; without any ``options`` have a ratio.
        options: those of :class:`fxprune.passes.RemoveChannels`, but for targets and indices.
        without: those of its options that are none of ``taker``.

    Raises:
        FxpruneError: an option is none, or makes no sense, or nothing says how much is to go.
    """
    require_options(taker, options, without)
    step = RemoveChannels(**{**options, **targets.options()})
    if step.amount.is_empty:
        raise FxpruneValueError(f"{taker} takes targets, or a ratio of channels: how much is to go?")
    return step
