"""What every pass needs to read and rebuild a GraphModule: uses, submodules, regions, origins.

Origins are plain data in ``node.meta``: ``fxprune_origin`` holds the names of the traced nodes that a node
stands for (in traced order, the one whose value it computes last), ``fxprune_path`` the module path it came
from, and ``fxprune_passes`` the passes that made it. New nodes get them through :func:`inherit`.
"""

from __future__ import annotations

import copy
import copyreg
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import fx, nn

from fxprune.errors import FxpruneError

ORIGIN = "fxprune_origin"
PATH = "fxprune_path"
PASSES = "fxprune_passes"
EXAMPLE_INPUTS = "fxprune_example_inputs"
TRACED_MACS = "fxprune_traced_macs"
TRACE = "fxprune_trace"  # of a whole graph: what origins are names in, see fxprune.trace
OPAQUE = "fxprune_opaque"
TIER = "fxprune_tier"
CALLS = "fxprune_calls"  # of a region: the elements that it reads in all its calls, over those of its example
PER_SAMPLE = "fxprune_per_sample"  # of a region: what its MACs are divided by to be those of one sample
PRESERVED = "_user_preserved_attributes"  # torch.fx's own key: attributes that copies keep


def regions_in(module: nn.Module) -> list[tuple[str, fx.GraphModule]]:
    """Return the graphs that were compiled inside an opaque module, with their paths in it; not those inside them."""
    found: list[tuple[str, fx.GraphModule]] = []
    seen: set[int] = set()

    def visit(owner: nn.Module, prefix: str) -> None:
        for name, child in owner.named_children():
            if id(child) in seen:
                continue
            seen.add(id(child))
            if is_region(child):
                found.append((prefix + name, child))
            else:
                visit(child, f"{prefix}{name}.")

    if not isinstance(module, fx.GraphModule):
        visit(module, "")
    return found


def is_region(module: nn.Module) -> TypeGuard[fx.GraphModule]:
    """Say whether ``module`` is a graph that was compiled inside an opaque module."""
    return isinstance(module, fx.GraphModule) and CALLS in module.meta


def is_layer(module: nn.Module) -> bool:
    """Say whether ``module`` is a layer of torch's own, which is always one call."""
    return type(module).__module__.startswith(("torch.nn", "torch.ao.nn")) and not isinstance(module, nn.Sequential)


def mark_opaque(module: nn.Module, opaque: bool = True) -> None:
    """Mark ``module`` as one whose calls are kept whatever happens to what they return, and need real tensors."""
    if opaque:
        module.__dict__["_is_impure"] = True  # the name that torch.fx asks for
    else:
        module.__dict__.pop("_is_impure", None)


def is_opaque(module: nn.Module | None) -> bool:
    """Say whether ``module`` could not be traced and is one call."""
    return module is not None and bool(module.__dict__.get("_is_impure"))


def opaque_children(module: nn.Module) -> Iterator[nn.Module]:
    """Yield ``module`` and all below it, but for regions and what is inside them."""
    yield module
    for child in module.children():
        if not is_region(child):
            yield from opaque_children(child)


def graphs_of(graph_module: fx.GraphModule) -> list[tuple[str, fx.GraphModule]]:
    """Return ``graph_module`` (its path is "") and every region in its opaque modules, with paths, recursively."""
    found = [("", graph_module)]
    seen: set[int] = set()
    for node in graph_module.graph.nodes:
        module = called_module(node)
        if module is None or id(module) in seen:
            continue
        seen.add(id(module))
        for path, region in regions_in(module):
            here = f"{node.target}.{path}"
            found += [(f"{here}.{inner}" if inner else here, graph) for inner, graph in graphs_of(region)]
    return found


def remove_unused_state(graph_module: fx.GraphModule) -> list[str]:
    """Delete submodules, parameters and buffers that no node uses; return their paths, the outermost ones."""
    used = {str(node.target) for node in graph_module.graph.nodes if node.op in ("call_module", "get_attr")}
    removed: list[str] = []

    def sweep(module: nn.Module, path: str) -> bool:
        """Return whether ``module`` holds anything that is used."""
        if path in used:
            return True
        if path and type(module) is not nn.Module:
            return False  # a layer that was called before, still shared with the input graph: leave it whole
        prefix = f"{path}." if path else ""
        for name in [*module._parameters, *module._buffers]:
            if prefix + name not in used:
                delattr(module, name)
                removed.append(prefix + name)
        for name, child in list(module._modules.items()):
            if child is None or not sweep(child, prefix + name):
                delattr(module, name)
                removed.append(prefix + name)
        return bool(module._parameters or module._buffers or module._modules)

    sweep(graph_module, "")
    gone = set(removed)
    return [path for path in removed if gone.isdisjoint(_owners(path))]


def _owners(path: str) -> Iterator[str]:
    """Yield the paths of all modules that what stands at ``path`` is inside of, but for the outermost one."""
    while path := path.rpartition(".")[0]:
        yield path


def example_inputs_of(graph_module: fx.GraphModule) -> tuple[Any, ...]:
    """Return the example inputs that ``graph_module`` was traced with; raises FxpruneError if there are none."""
    inputs = graph_module.meta.get(EXAMPLE_INPUTS)
    if inputs is None:
        raise FxpruneError("the graph has no example inputs; make it with fxprune.trace(model, example_inputs)")
    return tuple(inputs)


def origins(node: fx.Node) -> tuple[str, ...]:
    """Return the names of the traced nodes that ``node`` stands for."""
    return tuple(node.meta.get(ORIGIN, (node.name,)))


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
    new.meta = {**old[-1].meta, ORIGIN: tuple(names), PASSES: tuple(makers)}
    return new


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
    return next(iter(node.users)) if uses(node) == 1 else None


def called_module(node: Any) -> nn.Module | None:
    """Return the module that ``node`` calls; None if it calls none."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    module: nn.Module | None = node.graph.owning_module
    assert module is not None, "a pass reads nodes of a GraphModule"
    for atom in str(node.target).split("."):
        module = module._modules[atom]  # several times as fast as get_submodule, and every pass asks for every node
        assert module is not None
    return module


def has_hooks(module: nn.Module) -> bool:
    """Say whether calling ``module`` runs hooks, which may see or change its values."""
    tables = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, table, None) for table in tables)


def copy_module(module: nn.Module, *, share_weights: bool = False) -> nn.Module:
    """Return a deep copy of ``module``; with ``share_weights`` its parameters and buffers are those of ``module``.

    Tensors that it computed and keeps (the weight of an old-style ``torch.nn.utils.weight_norm``, say) are copied by
    value, which plain deep-copying refuses: they are computed again in every forward.
    """
    computed = (
        v for m in module.modules() for v in vars(m).values() if isinstance(v, torch.Tensor) and not v.is_leaf
    )
    memo: dict[int, Any] = {id(value): value.detach().clone() for value in computed}
    if share_weights:
        memo |= {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return _deepcopy_module(module, memo)


_TABLES = frozenset(vars(nn.Module()))  # torch's own, which modules do not share


def _deepcopy_module(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Do what ``copy.deepcopy`` does, several times as fast: most of what a module holds is empty, or a number."""
    if id(module) in memo:
        return memo[id(module)]  # type: ignore[no-any-return]
    kind = type(module)
    how = () if hasattr(kind, "__deepcopy__") else module.__reduce_ex__(4)
    if len(how) < 3 or how[:2] != (copyreg.__newobj__, (kind,)) or type(how[2]) is not dict:  # type: ignore[attr-defined]
        return copy.deepcopy(module, memo)
    duplicate = memo[id(module)] = kind.__new__(kind)
    state: dict[str, Any] = {}
    for name, value in how[2].items():  # what the module's own __getstate__ leaves of it
        if name == "_modules":
            value = type(value)((key, child and _deepcopy_module(child, memo)) for key, child in value.items())
        elif name in _TABLES and type(value) in (dict, OrderedDict, set) and not value:
            value = type(value)()
        elif type(value) not in (int, float, bool, str, type(None)):
            value = copy.deepcopy(value, memo)
        state[name] = value
    duplicate.__setstate__(state)  # type: ignore[no-untyped-call]
    return duplicate


def attribute(graph_module: nn.Module, target: str) -> Any:
    """Return what a dotted ``target`` names below ``graph_module``."""
    value: Any = graph_module
    for atom in target.split("."):
        value = getattr(value, atom)
    return value


def set_submodule(graph_module: fx.GraphModule, target: str, module: nn.Module) -> None:
    """Put ``module`` at ``target``, making the containers on the way."""
    _set(graph_module, target, module)


def set_parameter(graph_module: fx.GraphModule, target: str, parameter: nn.Parameter) -> None:
    """Put ``parameter`` at ``target``, making the containers on the way."""
    _set(graph_module, target, parameter)


def set_buffer(graph_module: fx.GraphModule, target: str, buffer: torch.Tensor) -> None:
    """Put ``buffer`` at ``target``, making the containers on the way."""
    owner, name = _owner(graph_module, target)
    owner.register_buffer(name, buffer)


def _set(graph_module: fx.GraphModule, target: str, value: nn.Module | nn.Parameter) -> None:
    setattr(*_owner(graph_module, target), value)


def _owner(graph_module: fx.GraphModule, target: str) -> tuple[nn.Module, str]:
    *parents, last = target.split(".")
    owner: nn.Module = graph_module
    for atom in parents:
        if not isinstance(getattr(owner, atom, None), nn.Module):
            owner.add_module(atom, nn.Module())
        owner = owner.get_submodule(atom)
    return owner, last


def free_target(graph_module: fx.GraphModule, wanted: str) -> str:
    """Return ``wanted``, or the first of ``wanted_1``, ``wanted_2``, ... that nothing has yet.

    What would stand inside a layer, which other graphs may share, gets a name beside it: ``conv_weight``.
    """
    atoms = wanted.split(".")
    for depth in range(1, len(atoms)):
        owner = ".".join(atoms[:depth])
        if _has_attribute(graph_module, owner) and type(attribute(graph_module, owner)) is not nn.Module:
            wanted = ".".join([*atoms[: depth - 1], "_".join(atoms[depth - 1 :])])
            break
    candidate, number = wanted, 0
    while _has_attribute(graph_module, candidate):
        number += 1
        candidate = f"{wanted}_{number}"
    return candidate


def module_target(graph_module: fx.GraphModule, node: fx.Node, source: fx.Node) -> str:
    """Return where a layer belongs that takes the place of ``node``, a function's call on ``source`` and weights.

    At the path of the module whose forward made the call, if all that is used of that module goes into the weights;
    else below it. So the weight of a layer with a forward of its own keeps its name.
    """
    path = module_path(node)
    if not path:
        return free_target(graph_module, node.name)
    own = {node}
    waiting = [weight for weight in node.all_input_nodes if weight is not source]
    while waiting:
        weight = waiting.pop()
        if all(user in own for user in weight.users):
            own.add(weight)
            waiting += weight.all_input_nodes
    used = (other for other in graph_module.graph.nodes if other.op in ("get_attr", "call_module"))
    below = [other for other in used if f"{other.target}.".startswith(f"{path}.")]
    if below and all(other.op == "get_attr" and other in own for other in below):
        return path
    return free_target(graph_module, f"{path}.{node.name}")


def erase_unread(node: fx.Node) -> None:
    """Erase ``node``, which nothing reads, and every read of a tensor and every computation that only it needed.

    What it needs must be free of side effects.
    """
    waiting = [node]
    while waiting:
        dead = waiting.pop()
        if dead.users or dead.op == "placeholder":
            continue
        sources = list(dead.all_input_nodes)
        dead.graph.erase_node(dead)
        waiting += [source for source in sources if source not in waiting]


def _has_attribute(graph_module: nn.Module, target: str) -> bool:
    try:
        attribute(graph_module, target)
    except AttributeError:
        return False
    return True


@contextmanager
def evaluating(graph_module: nn.Module) -> Iterator[None]:
    """Put every module in eval mode without gradients, and give each its own flag back at the end.

    So too the tensors that modules compute and keep (see :func:`copy_module`): those of this run may be fake.
    """
    flags = [(module, module.training) for module in graph_module.modules()]
    kept = [(m, k, v) for m, _ in flags for k, v in vars(m).items() if isinstance(v, torch.Tensor)]
    try:
        for module, _ in flags:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, flag in flags:
            module.training = flag
        for module, name, value in kept:
            vars(module)[name] = value
