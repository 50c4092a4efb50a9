"""The parts of :func:`fxprune.diff`: entries, matching, comparing, and the forms that a diff can be written in."""
