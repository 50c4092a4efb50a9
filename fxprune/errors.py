"""The errors that fxprune raises: one line that says what was wrong, where, and what to do."""


class FxpruneError(Exception):
    """Base of every error that fxprune raises on purpose."""


class TraceError(FxpruneError):
    """A model could not be turned into a graph; the message names the source line or the node.

    ``path`` is that of the module whose own forward could not be traced, where one is known, and ``reason`` why.
    """

    def __init__(self, message: str, *, path: str | None = None, reason: str | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.reason = reason or message


class ContractError(FxpruneError):
    """A pass broke what it promised; the message names the pass and the first node that differs."""


class TargetError(FxpruneError):
    """A pruning target cannot be met; the message says what can."""


class PassSpecError(FxpruneError):
    """The text form of a pipeline names an unknown pass or option; the message suggests the nearest."""


class EmitError(FxpruneError):
    """A graph cannot be written as plain PyTorch; the message names the node or module."""


class LoadError(FxpruneError):
    """A file or folder is not what it should be: cut short, of another kind, or made for another model."""


class FxpruneWarning(UserWarning):
    """Something that works, but not quite as a user may think."""
