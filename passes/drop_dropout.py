"""Drop dropout and stochastic depth from a graph in eval mode, where they return their input.

Dropout(x), F.dropout(x, p, training), stochastic_depth(x, ...)   ->   x
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx, nn
from torch.nn import functional

from fxprune.ir.module_tree import has_hooks
from fxprune.ir.nodes import called_module, input_at
from fxprune.rewriting.contract import Contract
from fxprune.rewriting.rewriter import Facts, Rewriter
from fxprune.rewriting.rules import RulePass

_MODULES = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
# Where the functions take their training flag.
_FLAG_POSITION: dict[Any, int] = {
    functional.dropout: 2,
    functional.dropout1d: 2,
    functional.dropout2d: 2,
    functional.dropout3d: 2,
    functional.alpha_dropout: 2,
}
_FLAG_POSITION_BY_NAME = {"stochastic_depth": 3, "drop_block2d": 5, "drop_block3d": 5}


@dataclass(frozen=True)
class DropDropout(RulePass):
    """Drop dropout and stochastic depth from a model in eval mode."""

    name: ClassVar[str] = "drop-dropout"
    contract: ClassVar[Contract] = Contract.VALUES
    changes_shapes: ClassVar[bool] = False

    def check(self, node: fx.Node, facts: Facts) -> bool | str | None:
        """Find dropout, and decline what is active."""
        active = _is_active(node, facts.graph_module)
        if active is None or not node.args or not isinstance(node.args[0], fx.Node):
            return None
        return "it is active in train mode; call .eval() on the graph to drop it" if active else True

    def rewrite_at(self, node: fx.Node, found: bool, rewriter: Rewriter) -> None:
        """Let its readers read its input."""
        rewriter.log.rewrote(node, "dropout in eval mode returns its input")
        rewriter.replace(node, input_at(node))


def _is_active(node: fx.Node, graph_module: fx.GraphModule) -> bool | None:
    """Say whether ``node`` drops anything now; None if it is no dropout."""
    module = called_module(node)
    if module is not None:
        is_dropout = isinstance(module, _MODULES) and not has_hooks(module)
        return bool(module.training and module.p != 0) if is_dropout else None
    if node.op != "call_function":
        return None
    name = getattr(node.target, "__name__", "") if _from_torchvision(node.target) else ""
    position = _FLAG_POSITION.get(node.target, _FLAG_POSITION_BY_NAME.get(name))
    if position is None:
        return None
    flag = node.args[position] if len(node.args) > position else node.kwargs.get("training", True)
    if isinstance(flag, fx.Node):
        return graph_module.training or flag.op != "get_attr" or flag.target != "training"
    return bool(flag)


def _from_torchvision(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).startswith("torchvision.ops")
