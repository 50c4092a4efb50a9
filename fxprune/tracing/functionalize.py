"""Make a traced graph functional: every in-place op becomes its out-of-place twin.

    y = relu_(x); z = x + 1   ->   y = relu(x); z = y + 1

Exact where the mutated storage is read later only through the mutated tensor itself; where a view or
another alias of it is read later, the graph is refused, with the source line. Dead code elimination is
sound on the result, and no activation can overwrite a shortcut.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Hashable, Mapping
from typing import Any

import torch
from torch import fx, nn

from fxprune.errors import TraceError
from fxprune.facts.effects import IN_PLACE_OPERATORS, in_place_argument, is_foreign, is_in_place
from fxprune.facts.known_shapes import is_like_input
from fxprune.facts.shape_cache import Repeated, Values
from fxprune.facts.shapes import META, WRITES
from fxprune.ir.interpreter import Interpreter, plain
from fxprune.ir.module_tree import evaluating, has_hooks
from fxprune.ir.nodes import called_module, caller_path, place, require_order
from fxprune.ir.written_calls import Written
from fxprune.ops.call import Call
from fxprune.tracing.source import is_own

# Whether these return their input, a view of it or a copy depends on the dtype, the device, the layout, the sizes or
# the mode: never taken for certain. (Dropouts are told by their names, and foreign code may do anything.)
_CASTS = "bool byte char short int long half bfloat16 float double chalf cfloat cdouble to type type_as cpu cuda"
_SHAPES = "reshape reshape_as flatten ravel contiguous sum_to_size einsum cartesian_prod"
_OTHERS = "as_tensor asarray conj_physical dequantize pin_memory to_dense"
_MAYBE_VIEWS = frozenset(f"{_CASTS} {_SHAPES} {_OTHERS}".split())


def functionalize(graph_module: fx.GraphModule, values: Values) -> None:
    """Rewrite the in-place ops of ``graph_module``; ``values`` holds every node's (fake) value.

    So do calls of functions that torch.fx did not look into and that were seen to write into an argument.

    Raises TraceError for an in-place op that has no exact out-of-place form here.
    """
    nodes = list(graph_module.graph.nodes)
    writes = {node: _written_argument(node, values) for node in nodes if WRITES in node.meta}
    for node, written in writes.items():
        values[node] = values[written]
    position = {node: index for index, node in enumerate(nodes)}
    mutating = [node for node in nodes if node in writes or is_in_place(node)]
    if not mutating:
        return
    storages = _Storages(nodes, values, writes, frozenset(mutating))
    runner = Interpreter(graph_module, keep=True)
    for node in mutating:
        target = writes.get(node) or _mutated(node)
        if target is None:
            continue
        if not isinstance(values.raw(target), (torch.Tensor, Repeated)):
            _make_functional(node)  # a size or another number: nothing is written to
            continue
        if storages.is_state(target) and node not in writes:
            continue  # a buffer that the model updates: stays in place, and dead code elimination keeps it
        readers = {alias: _readers_after(alias, position, node) for alias in storages.aliases(target)}
        late = {alias: users for alias, users in readers.items() if users and alias is not node}
        for alias, users in late.items():
            if alias is not target and not storages.identical(alias, target):
                raise _refusal(
                    node, f"changes a tensor that {users[0].name} reads through {alias.name}{_source(node)}"
                )
        if node in writes:
            node.target = Written(node.target, node.args.index(target))
            node.meta[META] = target.meta[META]
        else:
            _make_functional(node)
            _require_same_kind(runner, node, values)
        for alias, users in late.items():
            alias.replace_all_uses_with(node, delete_user_cb=set(users).__contains__, propagate_meta=False)
    require_order(graph_module)
    graph_module.recompile()


def _written_argument(node: fx.Node, values: Values) -> fx.Node:
    """Return the one argument that a call of foreign code writes into; raises TraceError if it is not that simple."""
    name = getattr(node.target, "__name__", node.target)
    indices = node.meta.pop(WRITES)
    if node.op != "call_function" or node.kwargs or len(indices) != 1 or indices[0] is None:
        raise _refusal(node, f"({name}) writes into its arguments{_source(node)}")
    target, result = node.args[indices[0]], values[node]
    assert isinstance(target, fx.Node)
    if (node.users and result is not values[target]) or target.op == "get_attr":
        raise _refusal(node, f"({name}) writes into an argument and returns something else{_source(node)}")
    return target


def _refusal(node: fx.Node, why: str) -> TraceError:
    message = f"in-place op at {place(node)} {why}; write it out of place"
    return TraceError(message, path=caller_path(node), reason=message)


def _require_same_kind(runner: Interpreter, node: fx.Node, values: Values) -> None:
    """Raise TraceError if the out-of-place form that ``node`` now has computes another shape or dtype."""
    if is_like_input(called_module(node)):
        return
    args, kwargs = fx.map_arg((node.args, node.kwargs), values.raw)

    def compute(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = called_module(node)
        with evaluating(module) if module is not None else torch.no_grad():
            return getattr(runner, node.op)(node.target, plain(args), plain(kwargs))

    if _kind(values.calls.call(node, args, kwargs, compute)) != _kind(values.raw(node)):
        raise _refusal(node, "changes dtype or shape out of place")


def _kind(value: Any) -> tuple[torch.Size, torch.dtype]:
    kind = value.output.metadata if type(value) is Repeated else value
    return kind.shape, kind.dtype


def _readers_after(alias: fx.Node, position: dict[fx.Node, int], node: fx.Node) -> list[fx.Node]:
    """Return what reads ``alias``, itself computed before ``node``, after ``node`` wrote to it."""
    if position[alias] > position[node]:
        return []
    return [user for user in alias.users if position[user] > position[node]]


def _mutated(node: fx.Node) -> fx.Node | None:
    return Call(node).input


def _make_functional(node: fx.Node) -> None:
    if node.op == "call_module":
        module = called_module(node)
        assert module is not None
        module.inplace = False  # type: ignore[assignment]  # the tracer's own copy of the user's module
        return
    argument = in_place_argument(node)
    if isinstance(argument, str):
        node.update_kwarg(argument, False)
    elif isinstance(argument, int):
        node.update_arg(argument, False)
    elif node.op == "call_method" and callable(getattr(torch.Tensor, str(node.target)[:-1], None)):
        node.target = str(node.target)[:-1]
    elif node.target in IN_PLACE_OPERATORS:
        node.target = IN_PLACE_OPERATORS[node.target]
    elif (twin := _function_twin(node)) is not None:
        node.target = twin
    else:
        name = getattr(node.target, "__name__", node.target)
        raise _refusal(node, f"({name}) has no out-of-place form{_source(node)}")


def _function_twin(node: fx.Node) -> Any:
    name = getattr(node.target, "__name__", "")
    if not name.endswith("_"):
        return None
    for home in (torch, torch.nn.functional):
        if getattr(home, name, None) is node.target:
            return getattr(home, name[:-1], None)
    return None


def _source(node: fx.Node) -> str:
    """Return the innermost source line of the user's own that made ``node``."""
    lines = [line.strip() for line in str(node.meta.get("stack_trace") or "").splitlines()]
    own = [line for line in lines if line.startswith('File "') and is_own(line.split('"')[1])]
    return f", {own[-1]}" if own else ""


def _may_be_view(node: fx.Node) -> bool:
    if node.op not in ("call_module", "call_function", "call_method"):
        return False
    if node.target is operator.getitem:
        return isinstance(node.args[1], fx.Node)  # one number selects, others gather
    module = called_module(node)
    name = type(module).__name__.lower() if module is not None else getattr(node.target, "__name__", str(node.target))
    return name in _MAYBE_VIEWS or "dropout" in name or is_foreign(node)


def _passed_on(node: fx.Node) -> fx.Node | None:
    """Return the input that ``node`` returns itself, whatever it is, or None."""
    module = called_module(node)
    if type(module) is nn.Identity and module is not None and not has_hooks(module):
        return node.args[0] if isinstance(node.args[0], fx.Node) else None
    return None


class _Storages:
    """Which nodes may share memory: equal storages in the recorded run, and ops that may return views."""

    def __init__(
        self,
        nodes: list[fx.Node],
        values: Values,
        writes: Mapping[fx.Node, fx.Node],
        mutating: Collection[fx.Node],
    ) -> None:
        self._root: dict[Hashable, Hashable] = {}
        self._members: dict[Hashable, list[fx.Node]] = {}
        self._first: dict[fx.Node, fx.Node] = {}  # the node that made the very tensor
        # the output only reads; what it holds together is not one storage
        self._keys = {node: values.storages(node) if node.op != "output" else [] for node in nodes}
        for node in nodes:
            same = writes.get(node) or (_mutated(node) if node in mutating else _passed_on(node))
            self._first[node] = node if same is None else self._first[same]
            if node not in writes and _may_be_view(node):  # what was written into is what is returned
                self._join(*(key for one in (node, *node.all_input_nodes) for key in self._keys[one]))
        for node in nodes:
            for key in dict.fromkeys(self._find(key) for key in self._keys[node]):
                self._members.setdefault(key, []).append(node)

    def _find(self, key: Hashable) -> Hashable:
        while self._root.setdefault(key, key) != key:
            key = self._root[key]
        return key

    def _join(self, *keys: Hashable) -> None:
        roots = [self._find(key) for key in keys]
        for root in roots[1:]:
            self._root[root] = roots[0]

    def aliases(self, node: fx.Node) -> list[fx.Node]:
        found = {node: None}
        for key in self._keys[node]:
            found |= dict.fromkeys(self._members[self._find(key)])
        return list(found)

    def identical(self, a: fx.Node, b: fx.Node) -> bool:
        """Say whether both names are, for all inputs, one and the same tensor (an nn.Identity's input and output)."""
        return self._first[a] is self._first[b]

    def is_state(self, node: fx.Node) -> bool:
        return any(other.op == "get_attr" for other in self.aliases(node))
