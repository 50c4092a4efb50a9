"""What a pass is, and what holds it to its contract."""

from fxprune.rewriting.contract import Contract, Log, Pass, PassResult, Site

__all__ = ["Contract", "Log", "Pass", "PassResult", "Site"]
