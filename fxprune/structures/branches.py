"""The residual branches of a graph: single-entry single-exit regions R between a tensor x and a sum x + R(x).

Found by dominators on the dataflow graph, whatever the source code looked like. A region is the part of the graph
between x and R's last node b: x dominates b (no path from the inputs reaches b but through x), and nothing
outside reads the inside. Sizes that are read from tensors and values computed from parameters alone are no inputs
of a region. In a longer sum, x + P(x) + Q(x), each of P and Q is a branch; nn.Identity and dropout pass x on.

Nested and overlapping candidates: two such regions are disjoint or one holds the other. Both are branches; removing
the outer one takes the inner ones with it, and their cost is counted once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from torch import fx, nn

from fxprune.costs.macs import batch_size, node_macs
from fxprune.costs.parameter_holders import Holders
from fxprune.facts.dominators import Flow
from fxprune.facts.effects import is_foreign
from fxprune.facts.equal_shapes import EqualShapes
from fxprune.facts.shapes import is_floating, same_shape
from fxprune.ir.by_mode import MODE
from fxprune.ir.node_targets import attribute
from fxprune.ir.nodes import called_module, module_path, uses
from fxprune.ops.call import Call, is_conv, operands


@dataclass(frozen=True)
class Branch:
    """A residual branch, or a sum that is none.

    ``addition`` is the sum, whose operand number ``side`` is the branch, ``entry`` the x of R(x), ``nodes`` those of
    R in graph order. ``holders`` knows who holds which parameter; ``reason`` is None if the branch is removable.
    """

    addition: fx.Node
    side: int
    entry: fx.Node | None
    nodes: tuple[fx.Node, ...]
    holders: Holders = field(compare=False, repr=False)
    reason: str | None

    @property
    def shortcut(self) -> fx.Node:
        """The operand that the branch is added to, as the graph is now: edits may have put another node there."""
        return self._operand(1 - self.side)

    @property
    def exit(self) -> fx.Node:
        """The operand that the branch computes, as the graph is now: it may end in another sum, which was edited."""
        return self._operand(self.side)

    def _operand(self, position: int) -> fx.Node:
        both = operands(self.addition, "add")
        assert both is not None
        operand = both[position]
        assert isinstance(operand, fx.Node)
        return operand

    @cached_property
    def macs(self) -> int:
        """The MACs a sample of R; ask for them before the graph changes."""
        owner = self.addition.graph.owning_module
        assert isinstance(owner, fx.GraphModule)
        return int(sum(node_macs(node) for node in self.nodes) // batch_size(owner))

    @cached_property
    def params(self) -> int:
        """The parameters that R alone holds; ask for them before the graph changes."""
        return self.holders.only_by(frozenset(self.nodes))

    @property
    def path(self) -> str:
        """Where it is, for a person: the block's module path and the branch's first and last node."""
        block = module_path(self.addition)
        span = f"{_short(self.nodes[0])} ... {_short(self.nodes[-1])}" if self.nodes else self.addition.name
        return f"{block} [{span}]" if block else f"[{span}]"

    @property
    def eligible(self) -> bool:
        """Whether the branch can be scaled, and later be removed."""
        return self.reason is None


def _short(node: fx.Node) -> str:
    return str(node.target).rpartition(".")[2] if node.op == "call_module" else node.name


def find_branches(graph_module: fx.GraphModule) -> list[Branch]:
    """Return every sum of two tensors of one shape, in graph order: a branch, or the reason why it is none."""
    sums = [node for node in graph_module.graph.nodes if _is_sum(node)]
    if not sums:
        return []
    flow, holders, shapes = Flow(graph_module), Holders(graph_module), EqualShapes(graph_module)
    return [_examine(node, flow, holders, shapes) for node in sums]


def _is_sum(node: fx.Node) -> bool:
    terms = operands(node, "add")
    if terms is None or not is_floating(node):
        return False
    return terms[0] is not terms[1] and all(isinstance(one, fx.Node) and same_shape(one, node) for one in terms)


def _examine(addition: fx.Node, flow: Flow, holders: Holders, shapes: EqualShapes) -> Branch:
    left, right = operands(addition, "add") or (None, None)
    assert isinstance(left, fx.Node)
    assert isinstance(right, fx.Node)
    declined: Branch | None = None
    for side, shortcut, exit_node in ((1, left, right), (0, right, left)):
        for entry in _shortcut_terms(shortcut):
            if entry is not exit_node and flow.dominates(entry, exit_node):
                inside = flow.between(entry, exit_node)
                nodes = tuple(sorted(inside, key=flow.position.__getitem__))
                obstacle = _obstacle(addition, exit_node, inside, flow)
                if obstacle is None and not (shapes.equal(addition, shortcut) and shapes.equal(addition, exit_node)):
                    obstacle = "x and R(x) are not known to have one shape for every input"
                found = Branch(addition, side, entry, nodes, holders, obstacle)
                if found.eligible:
                    return found
                declined = declined or found
    return declined or Branch(
        addition, 1, None, (), holders, "no residual: neither side is computed from the other alone"
    )


def _shortcut_terms(node: fx.Node) -> Iterator[fx.Node]:
    """Yield ``node``, what it passes through unchanged, and, where these are sums, their terms."""
    while (source := _passed_through(node)) is not None:
        yield node
        node = source
    yield node
    for term in operands(node, "add") or ():
        if isinstance(term, fx.Node):
            yield _without_identities(term)


def _without_identities(node: fx.Node) -> fx.Node:
    while (source := _passed_through(node)) is not None:
        node = source
    return node


def _passed_through(node: fx.Node) -> fx.Node | None:
    """Return the input that ``node`` returns unchanged in eval mode, or None."""
    call = Call(node)
    op = call.exact
    return call.input if op is not None and (op.kind == "dropout" or op.name == "identity") else None


def _obstacle(addition: fx.Node, exit_node: fx.Node, inside: set[fx.Node], flow: Flow) -> str | None:
    if addition.meta.get(MODE) == "train":
        return "train mode alone computes it"
    if uses(exit_node) != 1 and any(flow.live.needed(user) and user is not addition for user in exit_node.users):
        return f"its output {exit_node.name} is read by others too"
    for node in sorted(inside, key=flow.position.__getitem__):  # the first one is told
        if flow.live.has_effect(node):
            return f"{node.name} inside it {'is opaque, and may change' if is_foreign(node) else 'changes'} state"
        outside = flow.reader_outside(node, inside, addition if node is exit_node else None)
        if outside is not None:
            return f"{node.name} inside it is read by {outside.name} outside"
    if not any(node_macs(node) or computes_with_weights(node) for node in inside):
        return "it holds no convolution and no linear layer"
    return None


def computes_with_weights(node: fx.Node) -> bool:
    """Say whether ``node`` is a conv, or computes with a parameter that is more than a vector."""
    if is_conv(node):
        return True
    module, owner = called_module(node), node.graph.owning_module
    tensors = list(module.parameters()) if module is not None else []
    for source in node.all_input_nodes:
        if source.op == "get_attr" and owner is not None:
            tensors.append(attribute(owner, str(source.target)))
    return any(isinstance(t, nn.Parameter) and t.numel() > max(t.shape, default=1) for t in tensors)
