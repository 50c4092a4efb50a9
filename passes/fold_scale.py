"""Fold a constant factor into the layers before or behind it.

conv(x) * a         ->   conv'(x),        W' = a W, b' = a b       through relu, pooling, sums (a > 0), products,
                                                                   stochastic depth
attention(x)[0] * a ->   attention'(x)[0],    the same in its last projection
norm(x) * a         ->   norm'(x),        gamma' = a gamma, beta' = a beta
(x * p) * a         ->   x * p',          p' = a p                 p: a parameter, as a layer scale is
conv(x * a)         ->   conv'(x),        W' = a W, b' = b         if every reader is such a layer

Which layers these are is in :mod:`fxprune.structures.factor_takers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import fx

from fxprune.facts.constant_factors import constant_factor
from fxprune.facts.module_uses import CallSites
from fxprune.facts.updated_buffers import updated_values
from fxprune.ir.folded_factors import note_factor
from fxprune.ir.node_targets import attribute
from fxprune.rewriting.contract import Contract
from fxprune.rewriting.rewriter import Facts, Rewriter
from fxprune.rewriting.rules import FUNCTIONS, RulePass
from fxprune.structures.factor_takers import FactorTakers
from fxprune.weights.scaling import scaled


class Factor(NamedTuple):
    """A constant factor on ``source``, and the nodes that take it; those behind it scale what they read."""

    source: fx.Node
    factor: float
    takers: list[fx.Node]
    behind: bool


@dataclass(frozen=True)
class FoldScale(RulePass):
    """Fold each constant factor into the weights of the layers that feed it or that it feeds."""

    name: ClassVar[str] = "fold-scale"
    contract: ClassVar[Contract] = Contract.VALUES
    changes_shapes: ClassVar[bool] = False
    ops: ClassVar[tuple[str, ...]] = FUNCTIONS

    def check(self, node: fx.Node, facts: Facts) -> Factor | str | None:
        """Find a factor and what can take it."""
        multiple = constant_factor(node)
        if multiple is None or multiple[1] == 0 or multiple[0] in facts(updated_values):  # x * a is a copy of x
            return None
        source, factor = multiple
        layers = FactorTakers(facts(CallSites), facts(updated_values))
        producers = layers.producers(source, node, factor)
        takers = producers or layers.consumers(node, factor)
        if takers is None:
            return f"factor {factor:.4g}: not all layers before it, nor all behind it, can take it"
        return Factor(source, factor, takers, behind=producers is None)

    def rewrite_at(self, node: fx.Node, found: Factor, rewriter: Rewriter) -> None:
        """Scale the weights, and take the factor out."""
        source, factor, takers, behind = found
        rewriter.log.rewrote(
            node, f"factor {factor:.4g} is now in {', '.join(taker.name for taker in takers)}", takers
        )
        for taker in takers:
            old = attribute(rewriter.graph_module, str(taker.target))
            rewriter.set_layer(taker, scaled(old, factor, with_bias=not behind))
        if not behind:
            note_factor(source, takers, factor)
        rewriter.replace(node, source)
