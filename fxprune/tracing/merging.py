"""Two traces of a model, one a mode, become one graph.

    eval:  c = conv(x); y = x + c           train:  c = conv(x); d = c * mask; y = x + d
    both:  c = conv(x); d = c * mask (train); y = x + by_mode(training, d, c)

Nodes that do the same at the same place in both traces become one; what only one trace has is marked with its mode;
where they read different values they read the choice between them (see :mod:`fxprune.ir.by_mode`).
"""

from __future__ import annotations

import operator
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from typing import Any

import torch
from torch import fx, nn

from fxprune.ir.by_mode import MODE, CodeByMode, Mode, by_mode
from fxprune.ir.node_targets import attribute, free_target, set_attribute, set_buffer
from fxprune.ir.nodes import innermost_module
from fxprune.ir.trace_notes import Assumption

_CONSTANT = "_tensor_constant"  # how fx names tensors that forward makes


def merge(in_eval: fx.GraphModule, in_training: fx.GraphModule) -> dict[fx.Node, fx.Node]:
    """Let ``in_eval`` do in train mode what ``in_training``, another functional graph of the same modules, does.

    Both are taken apart. Returns what stands for each of their nodes in the new graph of ``in_eval``.
    """
    _take_over_state(in_eval, in_training)
    merger = _Merger(in_eval.graph, in_training.graph)
    in_eval.graph = merger.run()
    return merger.new


def merge_assumptions(
    new: Mapping[fx.Node, fx.Node], known: Sequence[Assumption], in_training: Sequence[Assumption]
) -> tuple[Assumption, ...]:
    """Return what train mode alone assumes, with the names that the nodes which check it have in the merged graph."""
    names = {old.name: made.name for old, made in new.items() if made.meta.get(MODE) == "train"}
    return tuple(replace(one, node=names[one.node]) for one in in_training if one.node in names and one not in known)


def _take_over_state(target: fx.GraphModule, source: fx.GraphModule) -> None:
    """Give ``target`` what the nodes of ``source`` use and it lacks; tensors that forward made are told by value."""
    constants = {n: attribute(target, n) for n in _read(target.graph) if n.startswith(_CONSTANT)}
    renamed: dict[str, str] = {}
    for node in source.graph.nodes:
        name = str(node.target)
        if node.op not in ("call_module", "get_attr") or name == "training":
            continue
        value = attribute(source, name)
        if name not in renamed:
            same = (known for known, tensor in constants.items() if same_tensor(tensor, value))
            is_constant = name.startswith(_CONSTANT)
            renamed[name] = next(same, free_target(target, name)) if is_constant else name
            if renamed[name] not in constants and not _holds(target, renamed[name], value):
                is_buffer = isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter)
                (set_buffer if is_buffer else set_attribute)(target, renamed[name], value)
        node.target = renamed[name]


def _read(graph: fx.Graph) -> list[str]:
    return [str(node.target) for node in graph.find_nodes(op="get_attr", sort=False)]


def same_tensor(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Say whether two tensors hold the same values, in the same dtype and on the same device."""
    is_alike = (a.device, a.dtype, a.is_meta) == (b.device, b.dtype, False)
    return is_alike and torch.equal(a, b)


def _holds(owner: nn.Module, name: str, value: Any) -> bool:
    try:
        return attribute(owner, name) is value
    except AttributeError:
        return False


class _Merger:
    """One merge: the new graph, and what stands in it for each node of the two."""

    def __init__(self, in_eval: fx.Graph, in_training: fx.Graph) -> None:
        self.graph = fx.Graph()
        self.graph.set_codegen(CodeByMode())
        self._in_eval, self._in_training = list(in_eval.nodes), list(in_training.nodes)
        self.new: dict[fx.Node, fx.Node] = {}
        self._choices: dict[Hashable, fx.Node] = {}
        self._reads: dict[Any, fx.Node] = {}  # by attribute
        self._flag: fx.Node | None = None

    def run(self) -> fx.Graph:
        """Return the graph of both modes."""
        self._inputs()
        ours, theirs = ([n for n in nodes if n.op != "placeholder"] for nodes in (self._in_eval, self._in_training))
        matcher = SequenceMatcher(None, [_key(n) for n in ours], [_key(n) for n in theirs], autojunk=False)
        for tag, a, b, c, d in matcher.get_opcodes():
            if tag == "equal":
                for one, other in zip(ours[a:b], theirs[c:d], strict=True):
                    self._pair(one, other)
                continue
            for node in ours[a:b]:
                self._copy(node, "eval")
            for node in theirs[c:d]:
                self._copy(node, "train")
        return self.graph

    def _inputs(self) -> None:
        """Make the inputs: those of evaluation first, those that training alone has with a default."""
        own = {str(n.target): n for n in self._in_eval if n.op == "placeholder"}
        for node in own.values():
            self.new[node] = self.graph.node_copy(node)
        for node in (n for n in self._in_training if n.op == "placeholder"):
            twin = own.get(str(node.target))
            if twin is not None:
                self.new[node] = self.new[twin]
                continue
            made = self.new[node] = self.graph.placeholder(str(node.target), default_value=None)
            made.meta.update(node.meta, **{MODE: "train"})

    def _copy(self, node: fx.Node, mode: Mode) -> None:
        if node.op == "get_attr" and node.target in self._reads:
            self._read_by(node, mode)
            return
        made = self.new[node] = self.graph.node_copy(node, self.new.__getitem__)
        made.meta[MODE] = mode
        if node.op == "get_attr":
            self._reads[node.target] = made

    def _read_by(self, node: fx.Node, mode: Mode | None) -> None:
        """Let ``node`` be the read that there is of its attribute: wherever it stands, it is the same tensor."""
        made = self.new[node] = self._reads[node.target]
        if made.meta.get(MODE) != mode:
            made.meta.pop(MODE, None)

    def _pair(self, one: fx.Node, other: fx.Node) -> None:
        """Make one node of two that do the same to values that may differ."""
        if one.op == "get_attr" and one.target in self._reads:
            self._read_by(one, None)
            self._read_by(other, None)
            return
        args = self._joined(one.args, other.args, one)
        kwargs = self._joined(one.kwargs, other.kwargs, one)
        made = self.graph.create_node(one.op, one.target, args, kwargs, one.name, one.type)
        made.meta.update(one.meta)
        self.new[one] = self.new[other] = made
        if one.op == "get_attr":
            self._reads[one.target] = made

    def _joined(self, ours: Any, theirs: Any, reader: fx.Node) -> Any:
        """Return the argument that is ``ours`` in eval mode and ``theirs`` in train mode."""
        if isinstance(ours, fx.Node) and isinstance(theirs, fx.Node) and self.new[ours] is self.new[theirs]:
            return self.new[ours]
        if ours is False and theirs is True:
            return self._training()
        if _is_nest(ours) and _is_nest(theirs) and type(ours) is type(theirs):
            if isinstance(ours, Mapping) and list(ours) == list(theirs):
                return {key: self._joined(part, theirs[key], reader) for key, part in ours.items()}
            if isinstance(ours, slice):
                ends = ((ours.start, theirs.start), (ours.stop, theirs.stop), (ours.step, theirs.step))
                return slice(*(self._joined(*pair, reader) for pair in ends))
            if not isinstance(ours, Mapping) and len(ours) == len(theirs):
                parts = [self._joined(*pair, reader) for pair in zip(ours, theirs, strict=True)]
                return type(ours)(*parts) if hasattr(ours, "_fields") else type(ours)(parts)
        if _is_plain(ours) and type(ours) is type(theirs) and str(ours) == str(theirs):
            return ours
        return self._choice(ours, theirs, reader)

    def _choice(self, ours: Any, theirs: Any, reader: fx.Node) -> fx.Node:
        in_eval, in_training = (fx.map_arg(one, self.new.__getitem__) for one in (ours, theirs))
        key = (repr(in_eval), repr(in_training))
        if key not in self._choices:
            made = self.graph.call_function(by_mode, (self._training(), in_training, in_eval))
            like = next((one for one in (theirs, ours) if isinstance(one, fx.Node)), reader)
            made.meta.update({name: value for name, value in like.meta.items() if name != "tensor_meta"})
            self._choices[key] = made
        return self._choices[key]

    def _training(self) -> fx.Node:
        if self._flag is None:
            inputs = [node for node in self.graph.nodes if node.op == "placeholder"]
            with self.graph.inserting_after(inputs[-1]) if inputs else self.graph.inserting_before():
                self._flag = self.graph.create_node("get_attr", "training")
        return self._flag


def _is_nest(value: Any) -> bool:
    return isinstance(value, (tuple, list, dict, slice))


def _is_plain(value: Any) -> bool:
    """Say whether ``value`` is told apart from others of its type by its text."""
    return value is None or isinstance(
        value, (bool, int, float, complex, str, torch.dtype, torch.device, torch.memory_format, torch.layout, range)
    )


def _key(node: fx.Node) -> Hashable:
    """Return what nodes of two traces have in common that are one: what they call, where, in which line."""
    if node.op in ("call_module", "output"):
        return node.op, str(node.target)
    is_read = node.target in (getattr, operator.getitem)
    names = [str(one) for one in node.args[1:] if not isinstance(one, fx.Node)] if is_read else []
    return node.op, node.target, *names, innermost_module(node), str(node.meta.get("stack_trace"))
