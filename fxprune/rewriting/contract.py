"""What a pass is: an immutable callable from GraphModule to PassResult that never changes its input.

A pass finds its sites, checks each (or says why not), and rewrites a copy of the graph that shares every
untouched submodule. Its contract says what stays true; :class:`fxprune.Pipeline` holds it to that.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import fx

from fxprune.errors import ContractError, FxpruneWarning, TraceError
from fxprune.facts.shapes import renew_shapes, require_shapes
from fxprune.ir.arguments import option_kinds, require_kind
from fxprune.ir.autocast import under_autocast
from fxprune.ir.copies import copy_graphs
from fxprune.ir.module_tree import outside_inference_mode
from fxprune.ir.nodes import module_path, origins, remove_unused_state, require_graph, require_order
from fxprune.rewriting.invariants import require_invariants


class Contract(IntEnum):
    """What a pass promises, weakest first."""

    NOTHING = 0
    SIGNATURE = 1
    """Same input and output shapes and dtypes; values may change."""
    VALUES = 2
    """Same outputs in eval mode."""


@dataclass(frozen=True)
class Site:
    """A place that a pass rewrote or declined: node name, module path, and the rule or the reason.

    ``origins`` are the traced nodes that it concerns (see :func:`fxprune.ir.nodes.origins`).
    """

    node: str
    path: str
    why: str
    origins: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = self.path if self.path and self.path != self.node else self.node
        return f"{where}: {self.why}"


@dataclass(frozen=True, repr=False)
class PassResult:
    """What a pass did. ``graph_module`` and ``modified`` are torch.fx's own names for these."""

    graph_module: fx.GraphModule
    modified: bool
    rewritten: tuple[Site, ...] = ()
    declined: tuple[Site, ...] = ()
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        counts = f"{len(self.rewritten)} rewritten, {len(self.declined)} declined, {len(self.warnings)} warnings"
        return f"<{type(self).__name__}: {counts}>"


@runtime_checkable
class StepResult(Protocol):
    """What a pass of a given name returned, as a step of a pipeline holds it."""

    @property
    def name(self) -> str:
        """The pass's name."""

    @property
    def result(self) -> PassResult:
        """What it returned."""


@dataclass
class Log:
    """Where a running pass writes down what it does."""

    rewritten: list[Site] = field(default_factory=list)
    declined: list[Site] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    region: str = ""
    """Path of the region whose graph is being rewritten; "" in the outermost graph."""

    def _site(self, node: fx.Node, why: str, others: Iterable[fx.Node] = ()) -> Site:
        names = (node.name, module_path(node))
        if self.region:
            names = (f"{self.region}.{names[0]}", f"{self.region}.{names[1]}" if names[1] else self.region)
        sources = dict.fromkeys(name for one in (node, *others) for name in origins(one))
        return Site(*names, why, tuple(sources))

    def rewrote(self, node: fx.Node, why: str, others: Iterable[fx.Node] = ()) -> None:
        """Note that ``node``, and with it ``others``, was rewritten by the rule ``why``."""
        self.rewritten.append(self._site(node, why, others))

    def decline(self, node: fx.Node, why: str) -> None:
        """Note that ``node`` was left alone because of ``why``."""
        self.declined.append(self._site(node, why))

    def warn(self, message: str) -> None:
        """Note something that the user should know about the result."""
        self.warnings.append(message)

    def show(self, stacklevel: int = 1) -> None:
        """Warn of all that was noted, each once, at the caller or ``stacklevel`` - 1 calls above it."""
        for message in dict.fromkeys(self.warnings):
            warnings.warn(message, FxpruneWarning, stacklevel=stacklevel + 1)


class Pass:
    """A graph rewrite. Subclasses are frozen dataclasses: their fields are the pass's options.

    ``name`` is the pass's name in the shell; the docstring's first line is its help there. ``changes_shapes`` says
    whether what it leaves between inputs and outputs may have other shapes than ``meta["tensor_meta"]`` tells: then
    all are worked out anew after a rewrite. A pass whose new nodes have true ones
    (:func:`fxprune.ir.nodes.inherit`, :func:`fxprune.facts.shapes.note_shape`) says False.
    """

    name: ClassVar[str]
    contract: ClassVar[Contract]
    changes_shapes: ClassVar[bool] = True
    after: ClassVar[tuple[str, ...]] = ()
    """Names of passes that come first where a pipeline has both."""

    def __post_init__(self) -> None:
        """Raise FxpruneTypeError if an option is not of the kind that it is annotated with."""
        kind: Any = type(self)
        for option, hint in option_kinds(kind).items():
            require_kind(getattr(self, option), hint, kind.__name__, option)

    def __call__(self, graph_module: fx.GraphModule) -> PassResult:
        """Apply the pass to a copy of ``graph_module`` and return the result; the input is never changed."""
        graph_module = require_graph(graph_module, f"pass {self.name}")
        require_shapes(graph_module)
        given = graph_module
        if not self.may_apply(given):
            return PassResult(given, False)
        log = Log()
        with outside_inference_mode():
            graphs = copy_graphs(given)
            self.rewrite_all(graphs, log)
            if log.rewritten:
                for _, graph_module in graphs:
                    require_order(graph_module, remove_unused_state(graph_module).kept)
                    graph_module.recompile()
                # under autocast the dtype of a value follows from who computes it
                if self.changes_shapes or any(under_autocast(graph.graph) for _, graph in graphs):
                    renew_shapes_after(self.name, graphs[0][1])
                require_invariants(self.name, graphs, is_ours=type(self).__module__.startswith("fxprune."))
        return PassResult(
            graphs[0][1] if log.rewritten else given,
            bool(log.rewritten),
            tuple(log.rewritten),
            tuple(log.declined),
            tuple(log.warnings),
        )

    def may_apply(self, graph_module: fx.GraphModule) -> bool:
        """Say whether the pass may find anything to rewrite or to decline: a quick look, which spares a copy.

        It answers for the regions too.
        """
        return True

    def rewrite_all(self, graphs: Sequence[tuple[str, fx.GraphModule]], log: Log) -> None:
        """Rewrite one graph after the other: the outermost, and the regions in its opaque modules.

        A pass that must see all ``graphs`` at once overrides this, and sets ``log.region`` to the path of the graph
        that it is in (see :func:`fxprune.ir.nodes.graphs_of`).
        """
        for log.region, graph in graphs:
            self.rewrite(graph, log)
        log.region = ""

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        """Rewrite ``graph_module`` in place (it is a copy; shared submodules must be replaced, not changed)."""
        raise NotImplementedError(f"pass {self.name} has neither rewrite nor rewrite_all")


def renew_shapes_after(name: str, graph_module: fx.GraphModule) -> None:
    """Work out the shapes of what the pass ``name`` made; raises ContractError if the example inputs do not fit."""
    try:
        renew_shapes(graph_module)
    except TraceError as error:
        raise ContractError(
            f"pass {name} left a graph that does not run: {error}, or have the pass note others with "
            "fxprune.ir.nodes.keep_example_inputs"
        ) from error
