"""Wrap every eligible conv, and the norm behind it, in a ResConv that training can shrink.

    norm(conv(x))   ->   s * norm(conv(x)) + a * x          s = 1, a = 0: the same function

Xu et al., arXiv 2011.14356; the eligible convs are those of :mod:`fxprune.structures.conv_sites`. A conv whose weight
the graph computes from parameters takes that computation along, as a parametrization.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from fxprune.facts.constants import Constants
from fxprune.facts.input_rms import input_sizes
from fxprune.gates.resconv import Parametrization, ResConv
from fxprune.ir.node_targets import module_target
from fxprune.ir.nodes import called_module
from fxprune.rewriting.contract import Contract, Log
from fxprune.rewriting.keeping_pass import KeepingPass
from fxprune.rewriting.rewriter import Facts, Rewriter
from fxprune.structures.computed_weights import computed_weights, trainable_conv
from fxprune.structures.conv_sites import ConvSite
from fxprune.weights.exact import in_float64


@dataclass(frozen=True)
class InsertResConv(KeepingPass):
    """Wrap each eligible conv and its norm in a ResConv, whose scale training can shrink.

    Args:
        shortcut: initial shortcut a; at 0 the function stays the same.
        parametrization: "gain-gate" or "free", see :class:`fxprune.ResConv`.
        include_reshaping: wrap convs with a stride or other output channels too, for training plain networks: their
            shortcut is a partial identity. They can be fused, but not removed.
        keep, only: which convs stay as they are (see :mod:`fxprune.choosing.keeping`).
    """

    name: ClassVar[str] = "insert-resconv"
    changes_shapes: ClassVar[bool] = False
    shortcut: float = 0.0
    parametrization: Parametrization = "gain-gate"
    include_reshaping: bool = False

    @property
    def contract(self) -> Contract:  # type: ignore[override]  # depends on the option
        """Equal values at shortcut 0, an equal signature otherwise."""
        return Contract.VALUES if self.shortcut == 0 else Contract.SIGNATURE

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        """Insert a ResConv at every eligible site."""
        rewriter = Rewriter(graph_module, log, self.name)
        eligible: list[ConvSite] = []
        for site in self.kept.conv_sites(graph_module, log.region):
            if site.eligible or (self.include_reshaping and site.reshaping):
                eligible.append(site)
            else:
                log.decline(site.node, str(site.reason))
        # a shortcut of zero needs no unit yet
        sizes = input_sizes(graph_module, [site.node for site in eligible] if self.shortcut else [])
        made = [self._resconv(site, sizes.get(site.node, 1.0), rewriter.facts) for site in eligible]
        for site in eligible:
            rewriter.log.rewrote(site.node, f"is now a ResConv with scale 1, shortcut {self.shortcut:g}")
        for site, resconv in zip(eligible, made, strict=True):
            _put(rewriter, site, resconv)

    def _resconv(self, site: ConvSite, input_rms: float, facts: Facts) -> ResConv:
        assert site.conv is not None
        conv = trainable_conv(site.conv, facts(Constants)) if site.conv.computed else site.conv.module
        norm = called_module(site.norm)
        made = ResConv(conv, norm, input_rms=input_rms, parametrization=self.parametrization)
        if computed_weights(conv) and self.parametrization == "gain-gate":
            # the same function in float64 too: computed weights are rounded
            gauge = float(in_float64(made).eval().gauge().detach())
            made.set_units(initial_gauge=gauge, gain=gauge)
        if self.shortcut != 0:
            made.assign(scale=1.0, shortcut=self.shortcut)
        return made


def _put(rewriter: Rewriter, site: ConvSite, resconv: ResConv) -> None:
    assert site.conv is not None
    node, norm = site.node, site.norm
    sources = [node] if norm is None else [node, norm]
    if not site.conv.functional:
        rewriter.set_layer(node, resconv, *sources[1:])
        if norm is not None:
            rewriter.replace(norm, node)
        return
    # read from the node: the input that was found may have become a ResConv itself by now
    source = node.args[0] if node.args else node.kwargs["input"]
    assert isinstance(source, fx.Node)
    target = rewriter.put(module_target(rewriter.graph_module, node, source), resconv)
    new = rewriter.insert("call_module", target, (source,), before=node, of=sources)
    if norm is not None:
        rewriter.replace(norm, new)
    rewriter.replace_computation(node, new)
