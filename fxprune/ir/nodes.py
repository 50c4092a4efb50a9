"""What every pass needs to read and rebuild a graph: uses, regions, origins, what is no longer used.

Origins are plain data in ``node.meta``: ``fxprune_origin`` holds the names of the traced nodes that a node
stands for (in traced order, the one whose value it computes last), ``fxprune_path`` the module path it came
from, and ``fxprune_passes`` the passes that made it. New nodes get them through :func:`inherit`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from fxprune.errors import FxpruneError, FxpruneTypeError
from fxprune.ir.module_tree import every_module, is_opaque, keeps_dtype, regions_in
from fxprune.ir.pytrees import map_tensors
from fxprune.ir.wrappers import inside

ORIGIN = "fxprune_origin"
PATH = "fxprune_path"
PASSES = "fxprune_passes"
EXAMPLE_INPUTS = "fxprune_example_inputs"
WEIGHTS_DTYPE = "fxprune_weights_dtype"  # what the weights were for these inputs, if they were all the same
TRACED_MACS = "fxprune_traced_macs"
TRACE = "fxprune_trace"  # of a whole graph: what origins are names in, see fxprune.trace
OPAQUE = "fxprune_opaque"
TIER = "fxprune_tier"
_WRAPPED = "is_wrapped"  # torch.fx's own key: the function is one that it does not look into, and code says so
PRESERVED = "_user_preserved_attributes"  # torch.fx's own key: attributes that copies keep


def graphs_of(graph_module: fx.GraphModule) -> list[tuple[str, fx.GraphModule]]:
    """Return ``graph_module`` (its path is "") and every region in its opaque modules, with paths, recursively."""
    found = [("", graph_module)]
    seen: set[int] = set()
    for node, module in called_modules(graph_module).items():
        if not is_opaque(module) or id(module) in seen:
            continue
        seen.add(id(module))
        for path, region in regions_in(module):
            here = f"{node.target}.{path}"
            found += [(f"{here}.{inner}" if inner else here, graph) for inner, graph in graphs_of(region)]
    return found


class Swept(NamedTuple):
    """Paths of submodules, parameters and buffers: those that were removed, the outermost ones, and those in use."""

    removed: list[str]
    kept: set[str]


def remove_unused_state(graph_module: fx.GraphModule) -> Swept:
    """Delete submodules, parameters and buffers that no node uses."""
    used = {str(node.target) for node in graph_module.graph.nodes if node.op in ("call_module", "get_attr")}
    reads = graph_module.graph.find_nodes(op="get_attr", sort=False)
    owners = {owner for node in reads for owner in _owners(str(node.target))}
    removed: list[str] = []
    kept: set[str] = set()

    def sweep(module: nn.Module, prefix: str) -> bool:
        """Return whether ``module``, a container, holds anything that is used."""
        for name in [*module._parameters, *module._buffers]:
            path = prefix + name
            if path in used:
                kept.add(path)
            else:
                delattr(module, name)
                removed.append(path)
        for name, child in list(module._modules.items()):
            path = prefix + name
            if path in used and child is not None:
                kept.add(path)
                continue
            if path in owners and child is not None and type(child) is not nn.Module:
                child = module._modules[name] = _container(child)  # of what is read it keeps the tensors
            # another layer was called before, and is shared with the input graph: it goes as a whole
            if child is None or type(child) is not nn.Module or not sweep(child, f"{path}."):
                delattr(module, name)
                removed.append(path)
        return bool(module._parameters or module._buffers or module._modules)

    sweep(graph_module, "")
    gone = set(removed)
    return Swept([path for path in removed if gone.isdisjoint(_owners(path))], kept)


def _container(layer: nn.Module) -> nn.Module:
    """Return a plain module with the tensors and children of ``layer``, which stays as it is."""
    container = nn.Module()
    container._parameters, container._buffers = dict(layer._parameters), dict(layer._buffers)
    container._modules = dict(layer._modules)
    return container


def require_order(graph_module: fx.GraphModule, there: Collection[str] = ()) -> None:
    """Raise what ``graph.lint()`` raises if a node reads what comes after it, or calls or reads what is not there.

    Targets that are ``there`` for certain are not looked up.
    """
    seen: set[fx.Node] = set()
    for node in graph_module.graph.nodes:
        if not seen.issuperset(node.all_input_nodes) or (
            node.op in ("call_module", "get_attr")
            and node.target not in there
            and not is_there(graph_module, str(node.target))
        ):
            graph_module.graph.lint()
        seen.add(node)


def is_there(graph_module: nn.Module, target: str) -> bool:
    """Say whether a dotted ``target`` names anything below ``graph_module``."""
    owner: Any = graph_module
    *parents, name = target.split(".")
    for atom in parents:
        owner = owner._modules.get(atom)
        if owner is None:
            return False
    return name in owner._modules or name in owner._parameters or name in owner._buffers or hasattr(owner, name)


def _owners(path: str) -> Iterator[str]:
    """Yield the paths of all modules that what stands at ``path`` is inside of, but for the outermost one."""
    while path := path.rpartition(".")[0]:
        yield path


def require_graph(value: Any, taker: str) -> fx.GraphModule:
    """Return the graph that ``value`` is, or wraps (as DDP does); raises FxpruneTypeError, naming who takes one."""
    found = inside(value) if isinstance(value, nn.Module) else value
    if isinstance(found, fx.GraphModule):
        return found
    has_graph = isinstance(getattr(value, "graph_module", None), fx.GraphModule)  # what a pass returned
    advice = "give it its .graph_module" if has_graph else "make one with fxprune.trace(model, example_inputs)"
    raise FxpruneTypeError(f"{taker} takes a graph, got {type(value).__name__}; {advice}")


def keep_example_inputs(graph_module: fx.GraphModule, inputs: Any) -> None:
    """Note ``inputs`` as the example inputs of ``graph_module``, whose weights are as these want them."""
    graph_module.meta[EXAMPLE_INPUTS] = tuple(inputs)
    graph_module.meta[WEIGHTS_DTYPE] = _weights_dtype(graph_module)


def example_inputs_of(graph_module: fx.GraphModule) -> tuple[Any, ...]:
    """Return the example inputs of ``graph_module``, as it takes them now (:func:`as_taken_now`).

    Raises FxpruneError if there are none.
    """
    inputs = graph_module.meta.get(EXAMPLE_INPUTS)
    if inputs is None:
        raise FxpruneError("the graph has no example inputs; make it with fxprune.trace(model, example_inputs)")
    return as_taken_now(graph_module, inputs)


def as_taken_now(graph_module: fx.GraphModule, inputs: Iterable[Any]) -> tuple[Any, ...]:
    """Return ``inputs``, made for ``graph_module`` as it was traced, where its weights are, and cast if they were.

    What had the weights' dtype gets the one that they have now; other inputs (labels, masks) keep theirs.
    """
    weight = next(graph_module.parameters(), None)
    if weight is None:
        return tuple(inputs)
    device, before, now = weight.device, graph_module.meta.get(WEIGHTS_DTYPE), _weights_dtype(graph_module)

    def taken(tensor: torch.Tensor) -> torch.Tensor:
        is_cast = now is not None and tensor.dtype == before
        return tensor.to(device, now if is_cast else tensor.dtype)

    found: tuple[Any, ...] = map_tensors(tuple(inputs), taken)
    return found


def is_cast(graph_module: fx.GraphModule) -> bool:
    """Say whether the weights have another dtype than they had when shapes and dtypes were noted."""
    noted = graph_module.meta.get(WEIGHTS_DTYPE)
    return noted is not None and _weights_dtype(graph_module) != noted


def _weights_dtype(graph_module: fx.GraphModule) -> torch.dtype | None:
    """Return the dtype of all weights (scalars and gates keep theirs); None if there are several, or no weights."""
    modules = (module for module in every_module(graph_module) if not keeps_dtype(module))
    weights = (one for module in modules for one in module._parameters.values() if one is not None)
    found = {one.dtype for one in weights if one.dim() and one.is_floating_point()}
    return found.pop() if len(found) == 1 else None


def origins(node: fx.Node) -> tuple[str, ...]:
    """Return the names of the traced nodes that ``node`` stands for."""
    return tuple(node.meta.get(ORIGIN, (node.name,)))


def node_count(graph_module: fx.GraphModule) -> int:
    """Return how many nodes ``graph_module`` and the regions in it have."""
    return sum(len(graph.graph.nodes) for _, graph in graphs_of(graph_module))


def module_path(node: fx.Node) -> str:
    """Return the path of the module that ``node`` came from (its own target for a module call)."""
    return str(node.target) if node.op == "call_module" else str(node.meta.get(PATH, ""))


def innermost_module(node: fx.Node) -> str:
    """Return the path of the innermost module that was being called when ``node`` was traced; its own for a call."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else module_path(node)


def caller_path(node: fx.Node) -> str:
    """Return the path of the module whose own forward made ``node``."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    depth = 2 if node.op == "call_module" else 1
    return str(stack[-depth][0]) if len(stack) >= depth else ""


def place(node: fx.Node) -> str:
    """Return where ``node`` is, for a person: its name, and its module path where that says more."""
    path = module_path(node)
    return node.name if path in ("", node.name) else f"{node.name} ({path})"


def inherit(new: fx.Node, *old: fx.Node, made_by: str) -> fx.Node:
    """Give ``new`` the metadata of the last of ``old``, the origins of them all, and its maker's name."""
    names = dict.fromkeys(name for node in old for name in origins(node))
    makers = dict.fromkeys((*(maker for node in old for maker in node.meta.get(PASSES, ())), made_by))
    meta = {**old[-1].meta, ORIGIN: tuple(names), PASSES: tuple(makers)}
    if _WRAPPED in meta and new.target is not old[-1].target:
        del meta[_WRAPPED]  # else the code of the graph would wrap the new one's function for good
    new.meta.clear()  # in place: torch.fx looks a node up anew whenever an attribute of it is set
    new.meta.update(meta)
    return new


def input_at(node: fx.Node, index: int = 0) -> fx.Node:
    """Return the argument of ``node`` at ``index``, which is a node."""
    found = node.args[index]
    assert isinstance(found, fx.Node), f"argument {index} of {node.name} is no node"
    return found


def uses(node: fx.Node) -> int:
    """Count how often ``node`` is read; ``x * x`` reads twice, though fx lists one user."""
    count = 0

    def visit(read: fx.Node) -> fx.Node:
        nonlocal count
        count += read is node
        return read

    for user in node.users:
        fx.map_arg((user.args, user.kwargs), visit)
    return count


def only_user(node: fx.Node) -> fx.Node | None:
    """Return the one node that reads ``node``, exactly once; None otherwise."""
    return next(iter(node.users)) if len(node.users) == 1 and uses(node) == 1 else None


def called_module(node: Any) -> nn.Module | None:
    """Return the module that ``node`` calls; None if it calls none."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    module: Any = node.graph.owning_module
    assert module is not None, "a pass reads nodes of a GraphModule"
    for atom in _atoms(node.target):
        module = module._modules[atom]  # several times as fast as get_submodule, and every pass asks for every node
    return module  # type: ignore[no-any-return]


def called_modules(graph_module: fx.GraphModule) -> dict[fx.Node, nn.Module]:
    """Return the module that each node calls, by node, in graph order; those that call none are left out.

    It finds each container once, and so takes less time than to ask :func:`called_module` for every node.
    """
    tables: dict[str, dict[str, nn.Module | None]] = {"": graph_module._modules}
    found: dict[fx.Node, nn.Module] = {}
    for node in graph_module.graph.nodes:
        if node.op == "call_module":
            path, _, name = node.target.rpartition(".")
            table = tables.get(path)
            if table is None:
                owner: Any = graph_module
                for atom in path.split("."):
                    owner = owner._modules[atom]
                table = tables[path] = owner._modules
            found[node] = table[name]  # type: ignore[assignment]
    return found


@lru_cache(maxsize=1 << 14)
def _atoms(target: Any) -> tuple[str, ...]:
    return tuple(target.split("."))
