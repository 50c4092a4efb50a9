"""How often the modules and parameters of a graph are used, and which of them forward writes to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

import torch
from torch import fx, nn

from fxprune.facts.updated_buffers import updated_storages, updated_tensor
from fxprune.ir.module_tree import every_module
from fxprune.ir.node_targets import attribute
from fxprune.ir.nodes import called_modules, uses


class CallSites:
    """How often each module and each parameter of a graph is used, by identity and not by name.

    Buffers count where the graph itself reads them: beside the layer that holds them, under whatever name.

    Args:
        graph_module: the graph.
        leaving_out: reads of parameters that do not count.
    """

    def __init__(self, graph_module: fx.GraphModule, leaving_out: Collection[fx.Node] = ()) -> None:
        self._calls: defaultdict[int, int] = defaultdict(int)  # a Counter takes twice the time
        self._reads: defaultdict[int, int] = defaultdict(int)
        self._updated = updated_storages(graph_module)
        for module in called_modules(graph_module).values():
            self._calls[id(module)] += 1
            if self._calls[id(module)] == 1:
                for part in every_module(module) if module._modules else (module,):
                    for parameter in part._parameters.values():
                        if parameter is not None:
                            self._reads[id(parameter)] += 1
        for node in graph_module.graph.find_nodes(op="get_attr", sort=False):
            if node in leaving_out:
                continue
            self._reads[id(attribute(graph_module, str(node.target)))] += max(uses(node), 1)

    def calls(self, module: nn.Module) -> int:
        """Return at how many call sites ``module`` stands, under whatever names."""
        return self._calls.get(id(module), 0)

    def shared_parameter(self, module: nn.Module) -> str | None:
        """Return the name of a parameter or buffer of ``module`` that something else reads too, if there is one."""
        for name, parameter in module.named_parameters() if module._modules else module._parameters.items():
            if self._reads.get(id(parameter), 0) > 1:
                return name
        buffers = module.named_buffers() if module._modules else module._buffers.items()
        return next((name for name, buffer in buffers if id(buffer) in self._reads), None)

    def updated_tensor(self, module: nn.Module) -> str | None:
        """Return the name of a parameter or buffer of ``module`` that forward may write to, under whatever name."""
        return updated_tensor(module, self._updated)

    def reads(self, tensor: torch.Tensor) -> int:
        """Return how many modules and nodes read ``tensor``."""
        return self._reads.get(id(tensor), 0)
