"""The gates of a graph, on convs, residual branches and whatever else, and how many of them must go for a target.

for gate in fxprune.gates_of(graph):
    gate.assign(scale=mask[gate.path])
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import fx

from fxprune.costs.macs import batch_size, node_macs, total_macs
from fxprune.errors import FxpruneError, TargetError
from fxprune.facts.liveness import Liveness
from fxprune.gates.gate import ScaledLayer
from fxprune.gates.words import told_by_kind
from fxprune.ir.arguments import require_arguments
from fxprune.ir.node_targets import attribute
from fxprune.ir.nodes import TRACED_MACS, called_module, called_modules, graphs_of, require_graph
from fxprune.structures.missing_scales import why_no_scales


@dataclass(frozen=True, repr=False)
class Gate:
    """What scales a conv, a residual branch, or whatever else a :class:`ScaledLayer` stands for, in a graph.

    ``node`` calls ``module`` at ``path``, in the graph of ``region`` (see :func:`fxprune.ir.nodes.graphs_of`);
    ``nodes`` are those that nobody needs once the gate is removed, none if it cannot be. Those of a branch hold those
    of the gates inside it.
    """

    node: fx.Node
    module: ScaledLayer
    region: str
    path: str
    nodes: frozenset[fx.Node]

    def __repr__(self) -> str:
        return f"Gate({self.kind!r}, {self.path!r}, width={self.width})"

    @property
    def kind(self) -> str:
        """What it gates: "conv", "branch", "channels"."""
        return self.module.kind

    @property
    def owner(self) -> str:
        """The path of the model's own module that it gates, or whose forward has what it gates."""
        return self.path if self.module.operands == 1 else self.path.rpartition(".")[0]

    @property
    def subject(self) -> str:
        """What it gates, as a person would call it: "branch layer1.0", "conv layer1.0.conv1"."""
        second = self.module.operands > 1 and self.path.rpartition("_")[2].isdecimal()  # of several in one module
        return f"{self.kind} {self.path if second or not self.owner else self.owner}"

    @property
    def width(self) -> int:
        """How many scales it has: 1 for a layer."""
        return self.module.width

    @property
    def removable(self) -> bool:
        """Whether :class:`fxprune.passes.RemoveLayers` can take it out."""
        return self.module.removable

    @property
    def scale(self) -> torch.Tensor:
        """The effective scale, as it is trained: 1 at insertion, 0 where it is closed; (width,), detached."""
        return self.module.effective_scales

    def assign(
        self, *, scale: float | torch.Tensor | None = None, shortcut: float | torch.Tensor | None = None
    ) -> None:
        """Set the factor that what is gated has from now on; 0 is off, 1 as it is without a gate.

        A branch that is off leaves x, a conv the shortcut times x: 0, unless the shortcut is set too.
        Wakes a gate that rests, and reopens a closed one. In a graph that shrinks, set gates before the
        :class:`fxprune.SteeredL1` is made: it moves them by a schedule of its own.

        Args:
            scale: a number, or a tensor of shape (width,); :attr:`scale` is its size afterwards.
            shortcut: likewise, the factor of the shortcut around a conv; of other kinds none is taken.

        Raises:
            FxpruneError: something else was given, or a number that is not finite.
        """
        require_arguments(Gate.assign, locals())
        if scale is None and shortcut is None:
            raise FxpruneError(f"Gate.assign takes a scale, a shortcut or both for {self.path}, got neither")
        if shortcut is not None and not self.module.has_shortcut:
            raise FxpruneError(
                f"Gate.assign takes no shortcut for {self.path}: a gate of kind {self.kind!r} has none of its own; "
                "give its scale alone"
            )
        values = self._values("scale", scale), self._values("shortcut", shortcut)
        with torch.no_grad():
            self.module.set_scale(*values, *gauge_weights(self.node))

    def _values(self, name: str, given: float | torch.Tensor | None) -> torch.Tensor | None:
        """Return ``given`` as a tensor of shape (width,) in float64, on the CPU."""
        if given is None:
            return None
        values = (
            given.detach() if isinstance(given, torch.Tensor) else torch.tensor(float(given), dtype=torch.float64)
        )
        if values.is_complex() or (values.dim() and values.shape != (self.width,)):
            raise FxpruneError(
                f"Gate.assign takes a number or real numbers of shape ({self.width},) for {name} of {self.path}, "
                f"got {values.dtype} of shape {tuple(values.shape)}"
            )
        values = values.to("cpu", torch.float64).expand(self.width)
        if not values.isfinite().all():
            raise FxpruneError(f"Gate.assign takes finite numbers for {name} of {self.path}, got {values.tolist()}")
        return values

    @cached_property
    def macs(self) -> int:
        """The MACs a sample of its nodes; ask for them before the graph changes."""
        return self.macs_beside(())

    def macs_beside(self, gone: Collection[fx.Node]) -> int:
        """Return the MACs a sample that removing the layer saves once the nodes ``gone`` are removed already."""
        graph_module = self.node.graph.owning_module
        assert isinstance(graph_module, fx.GraphModule)
        return int(sum(node_macs(node) for node in self.nodes if node not in gone) // batch_size(graph_module))

    def coefficients(self) -> tuple[float, float]:
        """Return the factors of what is gated and of the shortcut, as Python floats."""
        return self.module.coefficients(*gauge_weights(self.node))

    def coefficient(self) -> float:
        """Return the factor of what is gated."""
        return self.coefficients()[0]

    @contextmanager
    @torch.no_grad()
    def lowered(self, factor: float) -> Iterator[None]:
        """Inside, the gate is open, and ``factor`` times what it was."""
        with awake(self):
            self.module.gate.mul_(factor)
            yield

    def wake(self) -> None:
        """Open a gate that rests, in units of the weights as they are now."""
        self.module.wake(*gauge_weights(self.node))


def by_kind(gates: Iterable[Gate]) -> dict[str, list[str]]:
    """Return by kind the paths of the model's own modules that ``gates`` are of."""
    found: dict[str, list[str]] = {}
    for gate in gates:
        found.setdefault(gate.kind, []).append(gate.owner)
    return found


def counted(gates: Iterable[Gate]) -> str:
    """Return how many there are of each kind, in words: "13 convs and 5 branches"."""
    return told_by_kind({kind: len(paths) for kind, paths in by_kind(gates).items()})


@contextmanager
@torch.no_grad()
def awake(layer: Gate) -> Iterator[None]:
    """Inside, ``layer`` is open, and its gate and units may be set; afterwards all is as before."""
    module = layer.module
    trains = module.gate.requires_grad
    before = [(tensor, tensor.clone()) for tensor in (module.gate, *module.buffers())]
    if module.resting or module.closed:
        layer.wake()
    try:
        yield
    finally:
        for tensor, value in before:
            tensor.copy_(value)
        module.gate.requires_grad_(trains)


def gauge_weights(node: fx.Node) -> list[torch.Tensor]:
    """Return the weights that the scale at ``node``, the call of a gate, is in units of."""
    owner, module = node.graph.owning_module, called_module(node)
    assert owner is not None
    assert isinstance(module, ScaledLayer)
    return [attribute(owner, str(read.target)) for read in node.args[module.operands :] if isinstance(read, fx.Node)]


def gates_of(graph_module: fx.GraphModule) -> list[Gate]:
    """Return all gates of a graph and of its regions (what is compiled inside opaque modules), in graph order.

    Those that training alone uses too, such as a conv's that changes its input's shape: they are not ``removable``.
    """
    require_arguments(gates_of, locals())
    graphs = graphs_of(require_graph(graph_module, "gates_of"))
    return [gate for region, graph in graphs for gate in _gates(graph, region)]


def layers(graph_module: fx.GraphModule) -> list[Gate]:
    """Return the gates of a graph and of its regions that can be removed, in graph order."""
    return [gate for region, graph in graphs_of(graph_module) for gate in layers_of_graph(graph, region)]


def layers_of_graph(graph_module: fx.GraphModule, region: str = "") -> list[Gate]:
    """Return the gates of one graph that can be removed, those of its regions left out."""
    return [gate for gate in _gates(graph_module, region) if gate.removable]


def _gates(graph_module: fx.GraphModule, region: str) -> Iterator[Gate]:
    found = [(n, one) for n, one in called_modules(graph_module).items() if isinstance(one, ScaledLayer)]
    if not found:
        return
    live = Liveness(graph_module.graph)
    for node, module in found:
        source = node.args[0] if node.args else None
        nodes = live.dead_once_passed_by(node, source) if module.removable and isinstance(source, fx.Node) else ()
        path = f"{region}.{node.target}" if region else str(node.target)
        yield Gate(node, module, region, path, frozenset(nodes))


def macs_in_turn(removed: Iterable[Gate]) -> Iterator[int]:
    """Yield the MACs a sample that each saves beside those before it: what lies in both is saved once."""
    gone: set[fx.Node] = set()
    for layer in removed:
        yield layer.macs_beside(gone)
        gone |= layer.nodes


def count_for_target(graph_module: fx.GraphModule, ranked: Sequence[Gate], target_macs: float, kept: int = 0) -> int:
    """Return how many of ``ranked``, from its start, must go to leave at most ``target_macs`` of the traced MACs.

    ``kept`` is how many others the user keeps, for what is said.
    Raises TargetError if all of them are not enough, or there are none.
    """
    left = total_macs(graph_module)
    total = graph_module.meta.get(TRACED_MACS, left)
    if left <= target_macs * total:
        return 0
    for count, saved in enumerate(macs_in_turn(ranked), start=1):
        left -= saved
        if left <= target_macs * total:
            return count
    if not ranked:
        why = f"all {kept} layers with a scale are kept by the user"
        if not kept:
            why = f"the graph has no layer with a scale; {why_no_scales(graph_module)}"
        raise TargetError(f"target_macs={target_macs:g} cannot be met: {why}")
    raise TargetError(
        f"target_macs={target_macs:g} cannot be met: without all {len(ranked)} removable layers "
        f"{left / total:.3f} of the MACs are left; ask for at least {left / total + 5e-4:.3f}"
    )


def enough_for_target(
    graph_module: fx.GraphModule,
    ranked: Sequence[Gate],
    target_macs: float,
    missed: Mapping[fx.Node, float],
    kept: int = 0,
) -> list[Gate]:
    """Return which of ``ranked`` go to leave at most ``target_macs`` of the traced MACs: those at its start.

    The last one is, of those that each save all that is still missing, the one that is ``missed`` least times what it
    saves over what it leaves: it overshoots little. Raises as :func:`count_for_target`.
    """
    count = count_for_target(graph_module, ranked, target_macs, kept)
    if count == 0:
        return []
    first, rest = list(ranked[: count - 1]), ranked[count - 1 :]
    gone: frozenset[fx.Node] = frozenset().union(*(layer.nodes for layer in first))
    total = total_macs(graph_module)
    left = total - sum(macs_in_turn(first))
    most = target_macs * graph_module.meta.get(TRACED_MACS, total)
    saved = {layer.node: layer.macs_beside(gone) for layer in rest}
    lasts = [layer for layer in rest if left - saved[layer.node] <= most]

    def loss(layer: Gate) -> float:
        return missed[layer.node] * saved[layer.node] / max(left - saved[layer.node], 1)

    return [*first, min(lasts, key=loss)]
