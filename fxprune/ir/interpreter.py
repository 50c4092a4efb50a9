"""torch.fx's Interpreter, calling functions with the arguments that the graph's own code would pass."""

from __future__ import annotations

from typing import Any

from torch import fx
from torch.fx.immutable_collections import immutable_dict, immutable_list

from fxprune.ir.autocast import autocast_kept
from fxprune.ir.by_mode import only_in


class Interpreter(fx.Interpreter):
    """Runs a graph node by node; lists and dicts among the arguments are new and may be written to.

    What the mode that the graph is in does not compute is None.
    """

    def __init__(self, graph_module: fx.GraphModule, *, keep: bool = False) -> None:
        super().__init__(graph_module, garbage_collect_values=not keep)
        self.extra_traceback = False

    def run(self, *args: Any, **options: Any) -> Any:
        """Return what the graph returns for ``args``, in the mode that it is in."""
        others = only_in(self.graph, "eval" if self.module.training else "train")
        known = {node: None for node in others if node.op != "placeholder"}
        with autocast_kept():  # also where a node fails
            return super().run(*args, **{"initial_env": known, **options} if known else options)

    def run_node(self, n: fx.Node) -> Any:
        """Return what ``n`` computes from the values in ``env``, without what torch.fx notes for other tools."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return getattr(self, n.op)(n.target, args, kwargs)

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return what ``n`` is called with; torch.fx would pass its own immutable lists."""
        args = fx.map_arg(n.args, self.env.__getitem__)
        kwargs = fx.map_arg(n.kwargs, self.env.__getitem__) if n.kwargs else {}
        return tuple([plain(value) for value in args]), {name: plain(value) for name, value in kwargs.items()}


def plain(value: Any) -> Any:
    """Return ``value`` with torch.fx's immutable lists and dicts in it as ordinary ones."""
    if isinstance(value, immutable_list):
        return [plain(item) for item in value]
    if isinstance(value, immutable_dict):
        return {key: plain(item) for key, item in value.items()}
    if type(value) is tuple:
        return tuple(plain(item) for item in value)
    return value
