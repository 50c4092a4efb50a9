"""Which layers stay because the user says so: patterns over the paths of modules, read here alone.

    keep=("layer4", "*.conv3")    what one of these matches stays
    only=("backbone.*",)          the layers that none of these matches stay too

A pattern is one of :mod:`fnmatch`, for dotted paths: ``*`` matches dots too. What it matches stays with all that lies
below it, so ``layer4`` is that module as a whole. In a region (see :func:`fxprune.ir.nodes.graphs_of`) paths begin
with that of the region. A conv or a branch stays if removing it would take out anything that stays: a branch with a
layer that is kept does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import lru_cache

from torch import fx

from fxprune.errors import FxpruneValueError
from fxprune.ir.module_tree import every_path, is_opaque
from fxprune.ir.nodes import called_module, module_path
from fxprune.structures.branches import Branch, computes_with_weights, find_branches
from fxprune.structures.conv_sites import ConvSite, find_conv_sites

KEPT = "kept by the user"


@dataclass(frozen=True)
class Kept:
    """What ``keep`` and ``only`` say, of any graph."""

    keep: Sequence[str] = ()
    only: Sequence[str] = ()

    def holds(self, nodes: Collection[fx.Node], region: str = "") -> bool:
        """Say whether ``nodes``, of the graph of ``region``, which would be removed together, are to stay."""
        if not self.keep and not self.only:
            return False
        paths = {node: _path(node, region) for node in nodes}
        layers = [path for node, path in paths.items() if computes_with_weights(node)] or paths.values()
        is_kept = any(matches(self.keep, path) for path in paths.values())
        return is_kept or (bool(self.only) and not all(matches(self.only, path) for path in layers))

    def conv_sites(self, graph_module: fx.GraphModule, region: str = "") -> list[ConvSite]:
        """Return what :func:`~fxprune.structures.conv_sites.find_conv_sites` does; what is kept is declined."""

        def judged(site: ConvSite) -> ConvSite:
            nodes = [site.node] if site.norm is None else [site.node, site.norm]
            if not (site.eligible or site.reshaping) or not self.holds(nodes, region):
                return site
            return replace(site, reason=KEPT if site.eligible else f"{KEPT}, and {site.reason}", reshaping=False)

        return [judged(site) for site in find_conv_sites(graph_module)]

    def branches(self, graph_module: fx.GraphModule, region: str = "") -> list[Branch]:
        """Return what :func:`~fxprune.structures.branches.find_branches` does; those that are kept are declined."""

        def judged(branch: Branch) -> Branch:
            stays = branch.eligible and self.holds(branch.nodes, region)
            return replace(branch, reason=KEPT) if stays else branch

        return [judged(branch) for branch in find_branches(graph_module)]

    def require_sense(self, graphs: Sequence[tuple[str, fx.GraphModule]]) -> None:
        """Raise FxpruneValueError if a pattern matches nothing in ``graphs``, or all layers in them stay."""
        if not self.keep and not self.only:
            return
        require_matches({"keep": self.keep, "only": self.only}, graphs)
        layers = [(n, region) for region, graph in graphs for n in graph.graph.nodes if computes_with_weights(n)]
        if layers and all(self.holds([node], region) for node, region in layers):
            given = " and ".join(name for name, one in (("keep", self.keep), ("only", self.only)) if one)
            raise FxpruneValueError(f"nothing that may go is left by {given}: all {len(layers)} layers are {KEPT}")


def require_matches(given: Mapping[str, Iterable[str]], graphs: Sequence[tuple[str, fx.GraphModule]]) -> None:
    """Raise FxpruneValueError if a pattern matches nothing in ``graphs``; they are ``given`` by the option's name."""
    paths = dict.fromkeys(path for region, graph in graphs for path in _paths(graph, region))
    for name, patterns in given.items():
        for pattern in patterns:
            _require_match(name, pattern, paths)


def _require_match(name: str, pattern: str, paths: Iterable[str]) -> None:
    if any(matches((pattern,), path) for path in paths):
        return
    nearest = ", ".join(map(repr, get_close_matches(pattern, paths, cutoff=0.5)))
    advice = f"the nearest paths are {nearest}" if nearest else "fxprune inspect lists the paths"
    raise FxpruneValueError(f"{name} has {pattern!r}, which matches no module of the model; {advice}")


@lru_cache(maxsize=1 << 14)
def _at_and_above(path: str) -> tuple[str, ...]:
    atoms = path.split(".")
    return tuple(".".join(atoms[:depth]) for depth in range(len(atoms), 0, -1))


def matches(patterns: Sequence[str], path: str) -> bool:
    """Say whether one of ``patterns`` matches ``path`` or a module that it lies in."""
    return any(fnmatchcase(one, pattern) for pattern in patterns for one in _at_and_above(path))


def _path(node: fx.Node, region: str) -> str:
    """Return what reports call ``node``, a layer: its module's path, or its name where the model itself calls it."""
    path = module_path(node) or node.name
    return f"{region}.{path}" if region else path


def _paths(graph_module: fx.GraphModule, region: str) -> Iterator[str]:
    """Yield the paths of all that a graph calls, and of the modules that it lies in."""
    for node in graph_module.graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        yield from reversed(_at_and_above(_path(node, region)))
        module = called_module(node)
        if module is not None and is_opaque(module):
            yield from (f"{_path(node, region)}.{inner}" for inner in every_path(module) if inner)
