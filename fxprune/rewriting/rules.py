"""Rules: each looks at one node, says what it found there or why not, and rewrites it; one worklist applies them all.

    while a rule has nodes that it has not looked at as they are now:
        check     all of them, on one version of the graph
        rewrite   in graph order; what an earlier rewrite changed waits for the next version

What a rule finds on one version must go together: each rewrite may count on the values that it reads, and names the
nodes of which it counts on more (see :meth:`Rule.check`). When nothing is left to look at, all look at all nodes once
more, for what changed may matter far away: a graph is done when no rule finds anything in it.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from itertools import cycle
from typing import Any, ClassVar, Protocol

from torch import fx, nn

from fxprune.rewriting.contract import Log, Pass
from fxprune.rewriting.rewriter import Facts, Rewriter

CALLS = ("call_module", "call_function", "call_method")
LAYERS = ("call_module",)
FUNCTIONS = ("call_function", "call_method")


class Rule(Protocol):
    """One rewrite of one node."""

    @property
    def name(self) -> str:
        """The name of the pass that it belongs to, which the nodes that it makes are made by."""

    @property
    def ops(self) -> Container[str]:
        """What nodes it looks at: their kinds, as torch.fx names them."""

    def check(self, node: fx.Node, facts: Facts) -> Any:
        """Return None if ``node`` is none of its own, a str if it is left alone, and why, else what rewriting needs.

        Every node in that, alone or in tuples and lists, is as it was when ``rewrite_at`` gets it: it calls the same,
        reads the same, and has no new readers. So name those whose op, layer or inputs ``check`` looked at. ``node``
        itself may read other nodes then, with the same values: ``rewrite_at`` takes them from its arguments.
        """

    def rewrite_at(self, node: fx.Node, found: Any, rewriter: Rewriter) -> None:
        """Rewrite ``node``, for which ``check`` returned ``found``; what it leaves must not be found again."""


class RulePass(Pass):
    """A pass that is a rule: it derives ``check`` and ``rewrite_at`` (see :class:`Rule`), and no ``rewrite``."""

    ops: ClassVar[Container[str]] = CALLS

    def check(self, node: fx.Node, facts: Facts) -> Any:
        """See :meth:`Rule.check`."""
        raise NotImplementedError(f"pass {self.name} has no check")

    def rewrite_at(self, node: fx.Node, found: Any, rewriter: Rewriter) -> None:
        """See :meth:`Rule.rewrite_at`."""
        raise NotImplementedError(f"pass {self.name} has no rewrite_at")

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        """Rewrite every node that is found, until none is."""
        apply_rules((self,), graph_module, log)


def apply_rules(rules: Sequence[Rule], graph_module: fx.GraphModule, log: Log) -> None:
    """Apply ``rules``, one after the other as long as it finds something, until none does."""
    declined: list[tuple[fx.Node, str]] = []
    rewriter = _Watched(graph_module, log, "")
    fired = True
    while fired:
        fired = False
        declined.clear()
        waiting = _Worklist(rewriter, len(rules))
        for number, rule in cycle(enumerate(rules)):
            while nodes := waiting.take(number, rule.ops):
                fired |= _apply(rule, nodes, waiting, rewriter, declined)
            if waiting.is_empty:
                break
    for node, why in declined:
        log.decline(node, why)


def _apply(
    rule: Rule, nodes: list[fx.Node], waiting: _Worklist, rewriter: _Watched, declined: list[tuple[fx.Node, str]]
) -> bool:
    """Check ``nodes`` on one version of the graph and rewrite what is found; return whether anything was."""
    check, facts = rule.check, rewriter.facts
    found: list[tuple[fx.Node, Any]] = []
    for node in nodes:
        one = check(node, facts)
        if one is None:
            continue
        if isinstance(one, str):
            declined.append((node, one))
        else:
            found.append((node, one))
    rewriter.made_by = rule.name
    for node, one in found:
        if rewriter.left_as_it_was(node, one):
            rule.rewrite_at(node, one, rewriter)
        else:  # it waits, and so does what looked into it
            rewriter.edited.add(node)
    waiting.add_edited()
    return bool(found)


class _Watched(Rewriter):
    """A rewriter that notes what was edited.

    Attributes:
        edited: the nodes that are new, or wait, or read another value, call another layer or have another reader.
        freed: those that lost a reader.
        gone: those that are in the graph no more.
    """

    def __init__(self, graph_module: fx.GraphModule, log: Log, made_by: str) -> None:
        super().__init__(graph_module, log, made_by)
        self.edited: set[fx.Node] = set()
        self.freed: set[fx.Node] = set()
        self.gone: set[fx.Node] = set()

    def insert(self, *args: Any, **options: Any) -> fx.Node:
        new = super().insert(*args, **options)
        self.edited.add(new)
        return new

    def set_layer(self, node: fx.Node, value: nn.Module | nn.Parameter, *absorbed: fx.Node) -> None:
        self.edited.add(node)
        super().set_layer(node, value, *absorbed)

    def replace(self, node: fx.Node, by: fx.Node, readers: Container[fx.Node] | None = None) -> None:
        self.edited.update(node.users, (by,))
        super().replace(node, by, readers)

    def replace_input(self, node: fx.Node, old: fx.Node, new: fx.Node) -> None:
        self.edited.update((node, new))
        self.freed.add(old)
        super().replace_input(node, old, new)

    def _erase(self, node: fx.Node) -> None:
        self.freed.update(node.all_input_nodes)
        self.gone.add(node)
        super()._erase(node)

    def left_as_it_was(self, node: fx.Node, found: Any) -> bool:
        """Say whether ``node`` is still there, and the nodes in what was ``found`` are as they were."""
        if node in self.gone:
            return False
        return not any(named in self.edited or named in self.gone for named in _nodes_in(found))


def _nodes_in(found: Any) -> Iterator[fx.Node]:
    """Yield the nodes in what a rule found."""
    if isinstance(found, fx.Node):
        yield found
    elif isinstance(found, (tuple, list)):
        for part in found:
            yield from _nodes_in(part)


class _Worklist:
    """What each rule has yet to look at: first all nodes, then those that were edited since it looked last."""

    def __init__(self, rewriter: _Watched, rules: int) -> None:
        self._rewriter = rewriter
        self._edited: list[fx.Node] = []
        self._seen: list[int | None] = [None] * rules  # how many of these; None: not even all nodes once

    @property
    def is_empty(self) -> bool:
        """Whether every rule has looked at everything."""
        return all(seen == len(self._edited) for seen in self._seen)

    def take(self, rule: int, ops: Container[str]) -> list[fx.Node]:
        """Return what the rule of this number is to look at now, in graph order: nodes of these kinds."""
        seen, self._seen[rule] = self._seen[rule], len(self._edited)
        if seen is None:
            return [node for node in self._rewriter.graph_module.graph.nodes if node.op in ops]
        if seen == len(self._edited):
            return []
        nodes = {node for node in self._edited[seen:] if node.op in ops}
        return sorted(nodes - self._rewriter.gone)

    def add_edited(self) -> None:
        """Have every rule look at what was edited since this was called last."""
        self._edited += self._rewriter.edited
        self._edited += self._rewriter.freed
        self._rewriter.edited.clear()
        self._rewriter.freed.clear()
