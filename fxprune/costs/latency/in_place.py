"""A graph whose ReLUs and sums overwrite their inputs where they can, as those of the emitted network do."""

from __future__ import annotations

import copy
import operator
from typing import Any

from torch import fx

from fxprune.facts.overwriting import is_sum, overwritten
from fxprune.ir.copies import copy_graph_module
from fxprune.ir.nodes import called_module


def in_place_copy(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Return a copy that is run, not edited: it is no functional graph any more; layers are shared but for ReLUs."""
    duplicate = copy_graph_module(graph_module)
    for node, source in overwritten(duplicate.graph).items():
        module = called_module(node)
        if module is not None:
            owner = duplicate.get_submodule(str(node.target).rpartition(".")[0])
            made: Any = copy.copy(module)
            made.inplace = True
            owner._modules[str(node.target).rpartition(".")[2]] = made
        elif is_sum(node):
            (other,) = (one for one in node.all_input_nodes if one is not source)
            node.target, node.args, node.kwargs = operator.iadd, (source, other), {}
        else:
            node.kwargs = {**node.kwargs, "inplace": True}
    duplicate.recompile()
    return duplicate
