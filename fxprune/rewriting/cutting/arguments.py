"""The calls of a graph once channels are gone: sizes, parts and indices are counted anew."""

from __future__ import annotations

from typing import Any

from torch import fx

from fxprune.facts.shapes import META, metadata_in
from fxprune.ops.call import Call
from fxprune.rewriting.cutting.argument_rules import RULES, SIZED
from fxprune.rewriting.cutting.sizes import Sizes


class Arguments(Sizes):
    """Writes the calls of a graph, whose values keep what ``kept`` says, anew."""

    def rewritten(self, node: fx.Node) -> tuple[Any, Any, dict[str, Any]] | None:
        """Return target, arguments and named arguments of ``node`` if they change; None if they do not.

        Raises Fault.
        """
        if node.op in ("placeholder", "get_attr"):
            return None
        if not metadata_in(node.meta.get(META)) and node.op != "output" and Call(node).kind != "check":
            return None  # a number: judged where it is used
        call = Call(node)
        op = call.exact
        rule = None if op is None or call.module is not None else RULES.get(op.name)
        target, args, kwargs = node.target, node.args, dict(node.kwargs)
        if rule is not None:
            target, args, kwargs = rule(self, call)
        handled = rule is not None and op is not None and op.name in SIZED
        args, kwargs = fx.map_arg((args, kwargs), lambda one: one if handled else self.as_value(node, one))
        return None if (target, args, kwargs) == (node.target, node.args, node.kwargs) else (target, args, kwargs)
