"""What a pass is, how it edits a graph, and what holds it to its contract."""

from fxprune.rewriting.contract import Contract, Log, Pass, PassResult, Site
from fxprune.rewriting.rewriter import Facts, Rewriter
from fxprune.rewriting.rules import Rule, RulePass, apply_rules

__all__ = [
    "Contract",
    "Facts",
    "Log",
    "Pass",
    "PassResult",
    "Rewriter",
    "Rule",
    "RulePass",
    "Site",
    "apply_rules",
]
