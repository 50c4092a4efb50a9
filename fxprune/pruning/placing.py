"""Put the layers of a graph into a copy of the model that it was traced from, under the model's own names.

    graph: conv1' -> relu -> conv2'          model: conv1 -> norm1 -> relu -> conv2
                                      ->            conv1' -> Identity -> relu -> conv2'

A layer of the same class stays the very object that it is, with its hooks and attributes, and gets the graph's
tensors and widths; another one is replaced wherever it stands. What has weights and is called by the model, but not
by the graph, becomes an Identity: the outermost module of which the graph has nothing.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fxprune.errors import FxpruneError
from fxprune.ir.copies import copy_module
from fxprune.ir.module_tree import every_module, every_path, every_tensor, is_opaque, regions_in, set_flags
from fxprune.ir.node_targets import attribute
from fxprune.ir.nodes import PASSES, called_module, graphs_of, innermost_module, is_there, place
from fxprune.ir.pytrees import PLAIN
from fxprune.ops.layer_classes import CONV_CLASSES, TRANSPOSED_CLASSES

_TABLES = ("_parameters", "_buffers")
_OWN = frozenset(("training", "inplace"))  # attributes that stay the model's
_CONSTANT = "_tensor_constant"  # how torch.fx names tensors that forward makes
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def place_layers(model: nn.Module, graph_module: fx.GraphModule, called: Collection[str]) -> list[str]:
    """Give ``model``, which is changed, the layers and tensors of ``graph_module``; copies of them.

    Args:
        model: the model that was traced, or a copy.
        graph_module: what passes made of its graph.
        called: paths of the modules that the model calls.

    Returns:
        The paths of what became an Identity.

    Raises:
        FxpruneError: the graph has a layer or a tensor that the model has no place for (names it).
    """
    placing = _Placing(model, called)
    whole = whole_call(model, graph_module)
    for path, graph in graphs_of(graph_module):
        if whole is None:
            placing.place(path, graph)
        elif path:
            placing.place(path.partition(".")[2], graph)
        else:
            placing.place_inside("", whole)
    placing.finish()
    return placing.removed


def whole_call(model: nn.Module, graph_module: fx.GraphModule) -> nn.Module | None:
    """Return what ``graph_module`` calls if ``model`` is opaque as a whole, and its graph one call; else None."""
    calls = graph_module.graph.find_nodes(op="call_module")
    module = called_module(calls[0]) if len(calls) == 1 else None
    return module if is_opaque(module) and type(module) is type(model) else None


class _Placing:
    """One model while it gets the layers of a graph. What becomes of a module, or a tensor, it becomes at every path.

    Attributes:
        removed: the paths of what became an Identity.
    """

    def __init__(self, model: nn.Module, called: Collection[str]) -> None:
        self.removed: list[str] = []
        self._model = model
        paths = every_path(model)
        self._called = {id(paths[path]) for path in called}
        self._placed: dict[int, nn.Module] = {}  # by what the model has: the graph's layer
        self._new: dict[int, nn.Module] = {}
        self._read: set[int] = set()  # modules whose tensors the graph reads by name
        self._tensors: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # the model's, and what it is now
        self._copies: dict[int, Any] = {}

    def place(self, prefix: str, graph_module: fx.GraphModule) -> None:
        """Place what one graph calls and reads, that of the module at ``prefix``, and remove what it does not."""
        graph = graph_module.graph
        calls = {node: self._path_of(node, prefix) for node in graph.find_nodes(op="call_module")}
        inside = {_join(prefix, path) for node in graph.nodes for path in _around(node)}
        inside |= {path[:end] for path in calls.values() for end in range(len(path)) if path[end] == "."}
        for node, path in calls.items():
            layer = called_module(node)
            assert layer is not None
            self._place_layer(path, layer, is_whole=path not in inside)
        for node in graph.find_nodes(op="get_attr"):
            self._place_read(node, prefix, attribute(graph_module, str(node.target)))
        used = {id(self._at(path)) for path in inside if is_there(self._model, path)}
        self._remove_unused(prefix, self._at(prefix), used)

    def finish(self) -> None:
        """Have every path of a module that was replaced, and every name of a tensor, mean what it is now."""
        for owner in _open_modules(self._model):
            for name, child in owner._modules.items():
                owner._modules[name] = self._new.get(id(child), child)
        for owner in _open_modules(self._model):
            for table in _TABLES:
                tensors = getattr(owner, table)
                for name, tensor in tensors.items():
                    if id(tensor) in self._tensors:
                        tensors[name] = self._tensors[id(tensor)][1]

    def _at(self, path: str) -> nn.Module:
        try:
            return self._model.get_submodule(path)
        except AttributeError as error:
            raise self._refusal(f"it has no {path}; give the model that was traced") from error

    def _path_of(self, node: fx.Node, prefix: str) -> str:
        """Return where the model has what ``node`` calls; tracing renames what is inside norms."""
        path, traced = (_join(prefix, one) for one in (str(node.target), innermost_module(node)))
        if is_there(self._model, path) and isinstance(attribute(self._model, path), nn.Module):
            return path
        if is_there(self._model, traced) and type(attribute(self._model, traced)) is type(called_module(node)):
            return traced
        raise self._refusal(f"it has no place for {place(node)}, which the graph calls: {_why_new(node)}")

    def _refusal(self, why: str) -> FxpruneError:
        return FxpruneError(f"{type(self._model).__name__} cannot be written back: {why}")

    def _place_layer(self, path: str, layer: nn.Module, *, is_whole: bool) -> None:
        """Place ``layer``; ``is_whole`` says that nothing else in the graph is of the module at ``path``."""
        own = self._at(path)
        if self._placed.setdefault(id(own), layer) is not layer:
            raise self._refusal(f"its {path} has several names, and the graph other layers under each")
        if is_opaque(layer):
            self.place_inside(path, layer)
        elif _is_alike(own, layer) or not is_whole:
            self._update(own, layer)
        else:
            new = self._new[id(own)] = copy_module(layer, memo=self._copies)
            set_flags(every_module(new), own.training)

    def place_inside(self, path: str, opaque: nn.Module) -> None:
        """Place the tensors of an opaque module at ``path``, whose regions are graphs of their own."""
        regions = {id(part) for _, region in regions_in(opaque) for part in every_module(region)}
        for inner, part in every_path(opaque).items():
            if id(part) not in regions and not isinstance(part, torch.jit.ScriptModule):
                self._put_tensors(self._at(_join(path, inner)), part)

    def _update(self, own: nn.Module, layer: nn.Module) -> None:
        self._put_tensors(own, layer)
        for name, value in vars(layer).items():
            if name in vars(own) and name not in _OWN and type(value) in (*PLAIN, tuple, torch.Size):
                setattr(own, name, value)

    def _put_tensors(self, own: nn.Module, layer: nn.Module) -> None:
        for table in _TABLES:
            for name, tensor in getattr(layer, table).items():
                self._put(getattr(own, table), name, tensor)

    def _put(self, table: dict[str, Any], name: str, tensor: torch.Tensor | None) -> None:
        old = table.get(name)
        if tensor is not None and tensor is not old:
            tensor = self._copy(tensor)
            if old is not None:
                self._tensors[id(old)] = old, tensor
        table[name] = tensor

    def _copy(self, tensor: torch.Tensor) -> torch.Tensor:
        return copy.deepcopy(tensor, self._copies)

    def _place_read(self, node: fx.Node, prefix: str, value: Any) -> None:
        """Place a tensor that the graph reads by name."""
        path = _join(prefix, str(node.target))
        owner, _, name = path.rpartition(".")
        if not isinstance(value, torch.Tensor) or name.startswith(_CONSTANT):
            return
        if not is_there(self._model, path):
            raise self._refusal(f"it has no {path}, a tensor that the graph reads: {_why_new(node)}")
        module = self._new.get(id(self._at(owner)), self._at(owner))
        table = next((getattr(module, one) for one in _TABLES if name in getattr(module, one)), vars(module))
        self._put(table, name, value)
        self._read.add(id(module))
        recount(module)

    def _remove_unused(self, path: str, module: nn.Module, used: Collection[int]) -> None:
        """Have what is called below ``module``, but of which the graph has nothing, be an Identity."""
        for name, child in module._modules.items():
            if child is None or id(child) in self._placed or id(child) in self._new:
                continue
            here = _join(path, name)
            if id(child) in used or _only_holds(child):
                self._remove_unused(here, child, used)
                if self._was_folded(child):
                    self._new[id(child)] = nn.Sequential(OrderedDict(child.named_children()))
                    self.removed.append(here)
            elif id(child) in self._called and every_tensor(child, *_TABLES):
                self._new[id(child)] = nn.Identity()
                self.removed.append(here)

    def _was_folded(self, module: nn.Module) -> bool:
        """Say whether ``module`` is a norm, as timm's, of which the graph has only the activation that is inside."""
        return isinstance(module, _BatchNorm) and id(module) in self._called and id(module) not in self._read


def recount(layer: nn.Module) -> None:
    """Make the attributes of a layer, of a class that derives from torch's, count the channels of its weight."""
    own: Any = layer
    weight = layer._parameters.get("weight")
    if weight is None:
        return
    if isinstance(layer, CONV_CLASSES):
        if own.groups == own.in_channels > 1:  # depthwise
            own.groups = weight.shape[0] * own.groups // own.out_channels
        own.out_channels, own.in_channels = weight.shape[0], weight.shape[1] * own.groups
    elif isinstance(layer, TRANSPOSED_CLASSES):
        own.in_channels, own.out_channels = weight.shape[0], weight.shape[1] * own.groups
    elif isinstance(layer, nn.Linear):
        own.out_features, own.in_features = weight.shape
    elif isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
        own.normalized_shape = tuple(weight.shape)
    elif isinstance(layer, (_BatchNorm, nn.GroupNorm, nn.Embedding)):
        count = "num_features" if isinstance(layer, _BatchNorm) else "num_channels"
        setattr(own, "embedding_dim" if isinstance(layer, nn.Embedding) else count, weight.shape[-1])


def _is_alike(own: nn.Module, layer: nn.Module) -> bool:
    """Say whether a layer of the model needs only other tensors to be ``layer``: it makes none from others."""
    same_hooks = len(own._forward_pre_hooks) == len(layer._forward_pre_hooks)
    return type(own) is type(layer) and same_hooks and not own._modules


def _only_holds(module: nn.Module) -> bool:
    """Say whether ``module`` does nothing but call what it holds one after the other, or nothing at all."""
    return any(isinstance(module, one) and type(module).forward is one.forward for one in _CONTAINERS)


def _around(node: fx.Node) -> Iterator[str]:
    """Yield the paths of the modules whose forward made ``node``; of a layer's call not the layer itself."""
    own = (str(node.target), innermost_module(node)) if node.op == "call_module" else ()
    for path, _ in (node.meta.get("nn_module_stack") or {}).values():
        if path not in own:
            yield str(path)
    if node.op == "get_attr":
        atoms = str(node.target).split(".")
        yield from (".".join(atoms[:end]) for end in range(1, len(atoms)))


def _open_modules(model: nn.Module) -> list[nn.Module]:
    """Return the modules of ``model`` but for those that torch.jit compiled, which nothing is put into."""
    return [module for module in every_module(model) if not isinstance(module, torch.jit.ScriptModule)]


def _why_new(node: fx.Node) -> str:
    made_by = node.meta.get(PASSES, ())
    told = (
        f"{' or '.join(made_by)} made it (leave that out, or take the graph itself: fxprune.emit), or "
        if made_by
        else ""
    )
    return f"{told}another model was traced"


def _join(prefix: str, path: str) -> str:
    return f"{prefix}.{path}" if prefix and path else prefix or path
