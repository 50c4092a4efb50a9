"""Which nodes of two graphs of different traces may stand for one another: a guess.

Three looks, each only at what the ones before left:

1. by name: the n-th call of one op at one module path;
2. by a neighbourhood that only one node of each graph has: op and shape, of the node and of those around it
   (Weisfeiler-Lehman labels);
3. by what is matched already: the same op and shape, reading nodes that are matched, or read by such.

Each is linear in the nodes and what they read.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable

from torch import fx

from fxprune.diffing.entries import NodeInfo
from fxprune.diffing.matching import Matches, Nodes
from fxprune.diffing.nodes import reads

_RADIUS = 3


def match_by_guess(before: Nodes, after: Nodes) -> Matches:
    """Match the nodes of two graphs that share no origins, one to one, with the same op."""
    pairs: dict[fx.Node, fx.Node] = {}
    taken: set[fx.Node] = set()

    def pair(old_keys: dict[fx.Node, Hashable], new_keys: dict[fx.Node, Hashable]) -> None:
        """Match nodes whose keys are the same and of which there is one each."""
        counts = Counter(old_keys.values()), Counter(new_keys.values())
        by_key = {key: node for node, key in old_keys.items()}
        for node, key in new_keys.items():
            if counts[0][key] == counts[1][key] == 1:
                pairs[node] = by_key[key]
                taken.add(by_key[key])

    def left(nodes: Nodes, done: Iterable[fx.Node]) -> list[fx.Node]:
        gone = set(done)
        return [node for node in nodes if node not in gone]

    pair(_names(before), _names(after))
    labels = _neighbourhoods(before), _neighbourhoods(after)
    pair({n: labels[0][n] for n in left(before, taken)}, {n: labels[1][n] for n in left(after, pairs)})
    for around, order in ((reads, list), (_readers, _reversed)):
        _pair_by_neighbours(before, after, pairs, taken, around, order)
    return {node: (old,) for node, old in pairs.items()}


def _reversed(nodes: Iterable[fx.Node]) -> list[fx.Node]:
    return list(nodes)[::-1]


def _readers(node: fx.Node) -> list[fx.Node]:
    return list(node.users)


def _names(nodes: Nodes) -> dict[fx.Node, Hashable]:
    seen: Counter[tuple[str, str]] = Counter()
    keys: dict[fx.Node, Hashable] = {}
    for node, info in nodes.items():
        place = (str(node.target) if node.op in ("get_attr", "call_module") else info.path, info.op)
        keys[node] = (*place, seen[place])
        seen[place] += 1
    return keys


def _sample(info: NodeInfo) -> tuple[int, ...] | None:
    """Return the shape of one sample, where the first dimension is the batch's."""
    return info.shape and info.shape[1:]


def _neighbourhoods(nodes: Nodes) -> dict[fx.Node, Hashable]:
    labels: dict[fx.Node, int] = {node: hash((info.op, _sample(info), info.detail)) for node, info in nodes.items()}
    for _ in range(_RADIUS):
        labels = {
            node: hash((own, tuple(labels[n] for n in reads(node)), tuple(sorted(labels[n] for n in node.users))))
            for node, own in labels.items()
        }
    return dict(labels)


def _pair_by_neighbours(
    before: Nodes,
    after: Nodes,
    pairs: dict[fx.Node, fx.Node],
    taken: set[fx.Node],
    around: Callable[[fx.Node], list[fx.Node]],
    order: Callable[[Iterable[fx.Node]], list[fx.Node]],
) -> None:
    """Match nodes with the same op and shape around which the matched nodes are the same, the first first."""
    waiting: dict[Hashable, deque[fx.Node]] = {}
    for old in order(before):
        if old not in taken:
            key = (before[old].op, _sample(before[old]), tuple(around(old)))
            waiting.setdefault(key, deque()).append(old)
    for new in order(after):
        if new in pairs:
            continue
        neighbours = tuple(pairs.get(n) for n in around(new))
        same = waiting.get((after[new].op, _sample(after[new]), neighbours))
        if same:
            pairs[new] = same.popleft()
            taken.add(pairs[new])
