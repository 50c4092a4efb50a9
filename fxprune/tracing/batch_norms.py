"""Recover batch norms from graphs of modules that spell them out.

    F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, ...)   ->   bn(x)

Subclasses of nn.BatchNorm2d that add an activation (timm's BatchNormAct2d is one) are traced through, so that the
norm itself is a function call, which counts no batches and hides the norm from every pass. It becomes the plain layer
with the same tensors; what the module held beside them (its activation) moves to a name next to it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from fxprune.facts.shapes import shape
from fxprune.ir.node_targets import attribute, free_target, set_attribute

_RANKS: dict[type[_BatchNorm], tuple[int, ...]] = {
    nn.BatchNorm1d: (2, 3),
    nn.BatchNorm2d: (4,),
    nn.BatchNorm3d: (5,),
}
_TENSORS = ("running_mean", "running_var", "weight", "bias")
_SIGNATURE = ("input", *_TENSORS, "training", "momentum", "eps")


def recover_batch_norms(graph_module: fx.GraphModule, original: nn.Module, readers: Collection[nn.Module]) -> None:
    """Make every spelt-out batch norm of ``graph_module``, which was traced from ``original``, a layer again.

    Needs shapes. Only calls that pass the tensors, the momentum and the eps of one batch-norm module are changed. In
    eval mode that module must be one of ``readers`` of its train flag: another one is frozen.
    """
    plain: dict[str, nn.Module] = {}
    graph = graph_module.graph
    for node in list(graph.nodes):
        if node.target is not functional.batch_norm:
            continue
        arguments: dict[str, Any] = dict(zip(_SIGNATURE, node.args, strict=False)) | node.kwargs
        path = _owner(arguments, original, readers)
        source = arguments["input"]
        if path is None or not isinstance(source, fx.Node):
            continue
        module = original.get_submodule(path)
        kind = next((k for k in _RANKS if isinstance(module, k)), None)
        if kind is None or len(shape(source) or ()) not in _RANKS[kind]:
            continue
        if path not in plain:
            plain[path] = _plain(module, kind, graph_module.get_submodule(path).training)
            _move_children(graph_module, path)
            set_attribute(graph_module, path, plain[path])
        _drop_rank_check(source, len(shape(source) or ()))
        with graph.inserting_before(node):
            call = graph.call_module(path, (source,))
        call.meta = dict(node.meta)
        node.replace_all_uses_with(call, propagate_meta=False)
        graph.erase_node(node)
    if plain:
        for node in reversed(graph.nodes):
            own = str(node.target).rpartition(".")[0] in plain or node.target == "training"
            if node.op == "get_attr" and not node.users and own:
                graph.erase_node(node)
        graph.lint()
        graph_module.recompile()


def _owner(arguments: dict[str, Any], original: nn.Module, readers: Collection[nn.Module]) -> str | None:
    """Return the path of the batch norm whose tensors and settings the call passes, in eval mode; None if none is."""
    reads = {name: arguments.get(name) for name in _TENSORS}
    paths = {str(read.target).rpartition(".")[0] for read in reads.values() if isinstance(read, fx.Node)}
    path = paths.pop() if len(paths) == 1 else None
    if path is None or path not in dict(original.named_modules()):
        return None
    module = original.get_submodule(path)
    if not isinstance(module, _BatchNorm) or module.momentum is None or module.running_mean is None:
        return None
    for name, read in reads.items():
        own = getattr(module, name, None)
        is_own = isinstance(read, fx.Node) and read.op == "get_attr" and attribute(original, str(read.target)) is own
        if not (is_own if own is not None else read is None):
            return None
    training = arguments.get("training", False)
    follows = isinstance(training, fx.Node) and training.op == "get_attr" and training.target == "training"
    same = (arguments.get("momentum", 0.1), arguments.get("eps", 1e-5)) == (module.momentum, module.eps)
    return path if same and (follows or (training is False and module in readers)) else None


def _plain(module: nn.Module, kind: type[_BatchNorm], training: bool) -> nn.Module:
    """Return the torch.nn layer with the tensors and settings of ``module``."""
    assert isinstance(module, _BatchNorm)
    layer = kind(module.num_features, module.eps, module.momentum, device="meta")
    layer.affine = module.affine
    layer._parameters = module._parameters
    layer._buffers = module._buffers
    layer.training = training
    return layer


def _move_children(graph_module: fx.GraphModule, path: str) -> None:
    """Give what is called below ``path`` a place beside it: ``bn.act`` becomes ``bn_act``."""
    moved: dict[str, str] = {}
    for node in graph_module.graph.nodes:
        target = str(node.target)
        if node.op == "call_module" and target.startswith(f"{path}."):
            if target not in moved:
                moved[target] = free_target(graph_module, f"{path}_{target[len(path) + 1 :].replace('.', '_')}")
                set_attribute(graph_module, moved[target], graph_module.get_submodule(target))
            node.target = moved[target]


def _drop_rank_check(source: fx.Node, rank: int) -> None:
    """Erase the assertion that ``source`` has ``rank`` axes: the layer checks that itself."""
    for axes in [user for user in source.users if user.target is getattr and user.args[1:] == ("ndim",)]:
        for equal in [user for user in axes.users if user.args == (axes, rank)]:
            for check in [user for user in equal.users if user.target is torch._assert]:
                equal.graph.erase_node(check)
            if not equal.users:
                equal.graph.erase_node(equal)
        if not axes.users:  # also one that was only read for the message of the assertion
            axes.graph.erase_node(axes)
