"""torch.fx's Interpreter, calling functions with the arguments that the graph's own code would pass, in less time."""

from __future__ import annotations

from typing import Any

from torch import fx, nn
from torch.fx.immutable_collections import immutable_dict, immutable_list

from fxprune.ir.autocast import autocast_kept
from fxprune.ir.by_mode import only_in
from fxprune.ir.pytrees import PLAIN


class Interpreter(fx.Interpreter):
    """Runs a graph node by node; lists and dicts among the arguments are new and may be written to.

    What the mode that the graph is in does not compute is None.
    """

    def __init__(self, graph_module: fx.GraphModule, *, keep: bool = False) -> None:
        # torch.fx's own would list every module, and note more of each node than is asked for here
        self.module, self.graph = graph_module, graph_module.graph
        self.env: dict[fx.Node, Any] = {}
        self._keep = keep

    def run(self, *args: Any, **_: Any) -> Any:
        """Return what the graph returns for ``args``, in the mode that it is in."""
        self.begin(*args)
        with autocast_kept():  # also where a node fails
            for node in self.graph.nodes:
                self.step(node)
        return self.returned

    def begin(self, *args: Any) -> None:
        """Take ``args``, and nothing else from an earlier run."""
        self.args_iter = iter(self.graph.process_inputs(*args))
        self.returned: Any = None
        others = only_in(self.graph, "eval" if self.module.training else "train")
        self.env = {node: None for node in others if node.op != "placeholder"}
        self._last_reads = {} if self._keep else last_reads(self.graph)

    def step(self, node: fx.Node) -> None:
        """Work out the value of the next node."""
        env = self.env
        if node not in env:
            env[node] = self.run_node(node)
        if node.op == "output":
            self.returned = self.graph.process_outputs(env[node])
        for read in self._last_reads.get(node, ()):
            del env[read]

    def run_node(self, n: fx.Node) -> Any:
        """Return what ``n`` computes from the values in ``env``, without what torch.fx notes for other tools."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return getattr(self, n.op)(n.target, args, kwargs)

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return what ``n`` is called with; torch.fx would pass its own immutable lists."""
        env, value_of = self.env, self._value_of
        args = tuple([env[one] if type(one) is fx.Node else value_of(one) for one in n.args])
        return args, {name: value_of(one) for name, one in n.kwargs.items()} if n.kwargs else {}

    def _value_of(self, argument: Any) -> Any:
        return argument if type(argument) in PLAIN else plain(fx.map_arg(argument, self.env.__getitem__))

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return what the module at ``target`` returns."""
        return self.submodule(target)(*args, **kwargs)

    def submodule(self, target: str) -> nn.Module:
        """Return the module at ``target``."""
        module: Any = self.module
        for atom in target.split("."):
            module = module._modules[atom]  # several times as fast as to ask for an attribute
        return module  # type: ignore[no-any-return]


def last_reads(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """Return, by the node that reads them last, the nodes whose values are not needed any more."""
    found: dict[fx.Node, list[fx.Node]] = {}
    seen: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        for read in node.all_input_nodes:
            if read not in seen:
                seen.add(read)
                found.setdefault(node, []).append(read)
    return found


def plain(value: Any) -> Any:
    """Return ``value`` with torch.fx's immutable lists and dicts in it as ordinary ones."""
    if isinstance(value, immutable_list):
        return [plain(item) for item in value]
    if isinstance(value, immutable_dict):
        return {key: plain(item) for key, item in value.items()}
    if type(value) is tuple:
        return tuple(plain(item) for item in value)
    return value
