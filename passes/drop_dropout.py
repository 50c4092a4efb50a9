"""Drop dropout and stochastic depth from a graph in eval mode, where they return their input.

Dropout(x), F.dropout(x, p, training), stochastic_depth(x, ...)   ->   x
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from fxprune.ops.call import Call
from fxprune.rewriting.contract import Contract
from fxprune.rewriting.rewriter import Facts, Rewriter
from fxprune.rewriting.rules import RulePass


@dataclass(frozen=True)
class DropDropout(RulePass):
    """Drop dropout and stochastic depth from a model in eval mode."""

    name: ClassVar[str] = "drop-dropout"
    contract: ClassVar[Contract] = Contract.VALUES
    changes_shapes: ClassVar[bool] = False

    def check(self, node: fx.Node, facts: Facts) -> bool | str | None:
        """Find dropout, and decline what is active."""
        call = Call(node)
        if call.kind != "dropout" or call.exact is None or call.input is None:
            return None
        active = _is_active(call, facts.graph_module)
        return "it is active in train mode; call .eval() on the graph to drop it" if active else True

    def rewrite_at(self, node: fx.Node, found: bool, rewriter: Rewriter) -> None:
        """Let its readers read its input."""
        source = Call(node).input
        assert source is not None
        rewriter.log.rewrote(node, "dropout in eval mode returns its input")
        rewriter.replace(node, source)


def _is_active(call: Call, graph_module: fx.GraphModule) -> bool:
    """Say whether a dropout drops anything now."""
    assert call.op is not None
    flag = call.argument(call.op.train_flag)
    if isinstance(flag, fx.Node):
        return graph_module.training or flag.op != "get_attr" or flag.target != "training"
    return bool(flag) and not (call.module is not None and call.argument("p") == 0)
