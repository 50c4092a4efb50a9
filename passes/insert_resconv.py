"""Wrap every eligible conv, and the norm behind it, in a ResConv that training can shrink.

    norm(conv(x))   ->   s * norm(conv(x)) + a * x          s = 1, a = 0: the same function

Xu et al., arXiv 2011.14356; the eligible convs are those of :mod:`fxprune.structures.conv_sites`. A conv whose weight
the graph computes from parameters takes that computation along, as a parametrization.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx, nn

from fxprune.facts.constants import Constants
from fxprune.facts.input_rms import input_sizes
from fxprune.gates.resconv import Parametrization, ResConv
from fxprune.ir.node_targets import module_target, set_attribute
from fxprune.ir.nodes import called_module, erase_unread, inherit
from fxprune.ops.layer_classes import Conv
from fxprune.rewriting.contract import Contract, Log
from fxprune.rewriting.keeping_pass import KeepingPass
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
        sites = self.kept.conv_sites(graph_module, log.region)
        eligible: list[ConvSite] = []
        for site in sites:
            if site.eligible or (self.include_reshaping and site.reshaping):
                eligible.append(site)
            else:
                log.decline(site.node, str(site.reason))
        made: list[tuple[ConvSite, ResConv]] = []
        # a shortcut of zero needs no unit yet
        sizes = input_sizes(graph_module, [site.node for site in eligible] if self.shortcut else [])
        constants = Constants(graph_module) if any(site.conv and site.conv.computed for site in eligible) else None
        for site in eligible:
            log.rewrote(site.node, f"is now a ResConv with scale 1, shortcut {self.shortcut:g}")
            assert site.conv is not None
            conv = site.conv.module
            if constants is not None:
                conv = trainable_conv(site.conv, constants)  # before the graph changes under the constants
            made.append((site, self._resconv(conv, called_module(site.norm), sizes.get(site.node, 1.0))))
        for site, resconv in made:
            self._put(graph_module, site, resconv)

    def _resconv(self, conv: Conv, norm: nn.Module | None, input_rms: float) -> ResConv:
        made = ResConv(conv, norm, input_rms=input_rms, parametrization=self.parametrization)
        if computed_weights(conv) and self.parametrization == "gain-gate":
            # the same function in float64 too: computed weights are rounded
            gauge = float(in_float64(made).eval().gauge().detach())
            made.set_units(initial_gauge=gauge, gain=gauge)
        if self.shortcut != 0:
            made.assign(scale=1.0, shortcut=self.shortcut)
        return made

    def _put(self, graph_module: fx.GraphModule, site: ConvSite, resconv: ResConv) -> None:
        assert site.conv is not None
        node, norm = site.node, site.norm
        sources = [node] if norm is None else [node, norm]
        if site.conv.functional:
            # read from the node: the input that was found may have become a ResConv itself by now
            source = node.args[0] if node.args else node.kwargs["input"]
            assert isinstance(source, fx.Node)
            target = module_target(graph_module, node, source)
            set_attribute(graph_module, target, resconv)
            with node.graph.inserting_before(node):
                new = node.graph.call_module(target, (source,))
            inherit(new, *sources, made_by=self.name)
        else:
            new = node
            set_attribute(graph_module, str(node.target), resconv)
            inherit(node, *sources, made_by=self.name)
        if norm is not None:
            norm.replace_all_uses_with(new, propagate_meta=False)
            node.graph.erase_node(norm)
        if new is not node:
            node.replace_all_uses_with(new, propagate_meta=False)
            erase_unread(node)
