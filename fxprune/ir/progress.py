"""How far something is that takes long, told by logging, as any library does: below ``fxprune``, at level INFO.

A record's ``share``, between 0 and 1, is how much is done; its text has the time that is left.
"""

from __future__ import annotations

import logging
import time


class Progress:
    """Tells of ``of`` parts, one after the other."""

    def __init__(self, logger: logging.Logger, of: int) -> None:
        self._logger = logger
        self._of = max(of, 1)
        self._start = time.monotonic()

    def tell(self, done: int, doing: str) -> None:
        """Say what is being done once so many parts are."""
        left = ""
        if done:
            seconds = (time.monotonic() - self._start) / done * (self._of - done)
            left = f", about {seconds / 60:.0f} min left" if seconds > 90 else f", about {seconds:.0f} s left"
        message = f"{doing}, {done + 1} of {self._of}{left}"
        self._logger.info("%s", message, extra={"share": done / self._of})
