"""The errors that fxprune raises: one line that says what was wrong, where, and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class FxpruneError(Exception):
    """Base of every error that fxprune raises on purpose."""


class FxpruneValueError(FxpruneError, ValueError):
    """An argument has a value that it may not have; a ValueError too, as PyTorch raises for it."""


class FxpruneTypeError(FxpruneError, TypeError):
    """An argument is of the wrong kind; a TypeError too, as PyTorch raises for it."""


class TraceError(FxpruneError):
    """A model could not be turned into a graph; the message names the source line or the node.

    ``path`` is that of the module whose own forward could not be traced, where one is known, ``reason`` says why, and
    ``source`` is the line of its code.
    """

    def __init__(
        self, message: str, *, path: str | None = None, reason: str | None = None, source: str | None = None
    ) -> None:
        super().__init__(message)
        self.path = path
        self.reason = reason or message
        self.source = source


class ContractError(FxpruneError):
    """A pass broke what it promised; the message names the pass and the first node that differs."""


class TargetError(FxpruneError):
    """A pruning target cannot be met; the message says what can."""


class PassSpecError(FxpruneValueError):
    """The text form of a pipeline names an unknown pass or option; the message suggests the nearest."""


class EmitError(FxpruneError):
    """A graph cannot be written as plain PyTorch; the message names the node or module."""


class LoadError(FxpruneError):
    """A file or folder is not what it should be: cut short, of another kind, or made for another model."""


class FxpruneWarning(UserWarning):
    """Something that works, but not quite as a user may think."""


class FxpruneDeprecationWarning(FxpruneWarning, DeprecationWarning):
    """Something that goes with a later version, and what to take in its place."""


def first_line(error: BaseException) -> str:
    """Return the first line of what ``error`` says, or its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip()


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """Return "; did you mean 'x'?" for the nearest of ``known``, or nothing."""
    close = get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]!r}?" if close else ""


def require_share(name: str, of: str, share: float | None) -> None:
    """Raise FxpruneValueError if ``share``, a target by that name, is given and no share to leave of something."""
    if share is not None and not 0 < share <= 1:
        raise FxpruneValueError(f"{name} is the share of {of} to leave, in (0, 1]; got {share}")
