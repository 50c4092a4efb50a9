"""How others make up for channels that were cut, as published: CaP and GRAIL. By their formulas alone.

S, mu: covariance and mean of what a layer reads of the unpruned network; W: its weight there, without the rows that
are gone; K: what is left of what it reads

    CaP:    W' = W S[:,K] S[K,K]^-1,   b' = b + W mu - W' mu[K]      of patches: each tap by itself; no ridge
            rescaled: rows of W' times a factor, so that their outputs keep their variance
    GRAIL:  W' = W G[:,K] (G[K,K] + l)^-1,   l = 1e-3 mean of the diagonal of G[K,K]       G = E x x^T of channels,
            all taps alike, with means; biases stay

CaP is of Xie et al., arXiv 2108.13728; its rescaling is a switch of the authors' code, called experimental there.
GRAIL (Post-hoc Compensation by Linear Reconstruction) is as its authors' code for vision has it. Where CaP's Cholesky
decomposition fails its authors give the layer up: here it gets a ridge, the smallest of 1e-8, 1e-7, ... times the
mean of the diagonal that will do, which is said. Convs with groups are left as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import fx, nn
from torch.nn import functional

from fxprune.facts.counterparts import counterparts
from fxprune.ir.copies import copy_graphs
from fxprune.ir.node_targets import set_attribute
from fxprune.ir.nodes import called_module, input_at

Layer = nn.Conv2d | nn.Linear
Say = Callable[[str], None]


class Consumer(NamedTuple):
    """A layer of a pruned graph that reads less than before: as it was, which inputs and which outputs are left."""

    path: str
    layer: Layer
    inputs: torch.Tensor
    outputs: torch.Tensor


class Statistics:
    """Sums of what layers read, in float64: of patches, or of channels at all places."""

    def __init__(self, columns: int) -> None:
        self.count = 0
        self.first = torch.zeros(columns, dtype=torch.float64)
        self.second = torch.zeros(columns, columns, dtype=torch.float64)

    def add(self, rows: torch.Tensor) -> None:
        """Add samples, (n, columns)."""
        rows = rows.double()
        self.count += len(rows)
        self.first += rows.sum(0)
        self.second += rows.T @ rows


def cap(
    reference: fx.GraphModule,
    pruned: fx.GraphModule,
    batches: Sequence[torch.Tensor],
    *,
    rescaled: bool = False,
    say: Say = print,
) -> fx.GraphModule:
    """Return ``pruned`` with CaP's compensation, by statistics of ``reference`` on batches of images."""
    found = copy_graphs(pruned)[0][1]
    consumers = list(_consumers(pruned, reference))
    for one, seen in zip(consumers, _measured(reference, consumers, batches, patches), strict=True):
        mean = seen.first / seen.count
        covariance = seen.second / seen.count - mean.outer(mean)
        kept = _columns(one)
        old = one.layer.weight.detach().double()[one.outputs].flatten(1)
        inner = covariance[kept][:, kept]
        new = torch.cholesky_solve((old @ covariance[:, kept]).T, _cholesky(inner, one.path, say)).T
        if rescaled:
            before, after = (((w @ s) * w).sum(1) for w, s in ((old, covariance), (new, inner)))
            new *= torch.where(after > 0, before / after, torch.ones_like(after)).sqrt().unsqueeze(1)
        _put(found, one, new, old @ mean - new @ mean[kept])
    return found


def grail(reference: fx.GraphModule, pruned: fx.GraphModule, batches: Sequence[torch.Tensor]) -> fx.GraphModule:
    """Return ``pruned`` with GRAIL's compensation, by statistics of ``reference`` on batches of images."""
    found = copy_graphs(pruned)[0][1]
    consumers = list(_consumers(pruned, reference))
    for one, seen in zip(consumers, _measured(reference, consumers, batches, places), strict=True):
        kept = one.inputs
        inner = seen.second[kept][:, kept]
        inner += 1e-3 * inner.diagonal().mean() * torch.eye(len(kept), dtype=torch.float64)
        shared = torch.linalg.solve(inner, seen.second[kept])
        old = one.layer.weight.detach().double()[one.outputs]
        _put(found, one, torch.einsum("oi...,ki->ok...", old, shared), None)
    return found


def patches(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    """Return what a layer reads for each place of its output, (places, columns), padding included."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    assert not isinstance(layer.padding, str)
    found = functional.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return found.mT.reshape(-1, found.shape[1])


def places(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    """Return all places of what a layer reads, (places, channels)."""
    return x.movedim(1, -1).reshape(-1, x.shape[1]) if isinstance(layer, nn.Conv2d) else x.reshape(-1, x.shape[-1])


def _consumers(pruned: fx.GraphModule, reference: fx.GraphModule) -> Iterator[Consumer]:
    others = counterparts(pruned, reference)
    for node in pruned.graph.find_nodes(op="call_module"):
        layer = called_module(node)
        is_known = isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
        source = input_at(node)
        if not is_known or source not in others:
            continue
        before = called_module(others[node].node)
        assert isinstance(before, (nn.Conv2d, nn.Linear))
        axis, width = (1, before.in_channels) if isinstance(before, nn.Conv2d) else (-1, before.in_features)
        axis = axis % len(others[source].node.meta["tensor_meta"].shape) if axis < 0 else axis
        left = others[source].places.get(axis)
        if left is not None and len(left) < width:
            rows = others[node].places.get(1 if isinstance(before, nn.Conv2d) else axis)
            every = torch.arange(len(before.weight))
            yield Consumer(
                str(node.target), before, torch.from_numpy(left), every if rows is None else torch.from_numpy(rows)
            )


def _measured(
    reference: fx.GraphModule,
    consumers: Sequence[Consumer],
    batches: Sequence[torch.Tensor],
    rows_of: Callable[[Layer, torch.Tensor], torch.Tensor],
) -> list[Statistics]:
    """Return the statistics of what consumers read of the unpruned network: one run."""
    found: list[Statistics | None] = [None] * len(consumers)

    def hook(place: int) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def note(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            for image in torch.split(inputs[0], 16):
                rows = rows_of(consumers[place].layer, image)
                seen = found[place] or Statistics(rows.shape[1])
                seen.add(rows)
                found[place] = seen

        return note

    handles = [one.layer.register_forward_pre_hook(hook(place)) for place, one in enumerate(consumers)]
    try:
        with torch.no_grad():
            for images in batches:
                reference(images)
    finally:
        for handle in handles:
            handle.remove()
    return [one for one in found if one is not None]


def _columns(one: Consumer) -> torch.Tensor:
    """Return the columns of patches that are left: all taps of a channel."""
    taps = one.layer.weight[0, 0].numel()
    return (one.inputs.unsqueeze(1) * taps + torch.arange(taps)).flatten()


def _cholesky(square: torch.Tensor, path: str, say: Say) -> torch.Tensor:
    level = square.diagonal().mean().clamp_min(1e-30) * torch.eye(len(square), dtype=square.dtype)
    for ridge in (0.0, *(10.0**power for power in range(-8, 1))):
        if ridge:
            say(f"CaP: the covariance of what {path} reads has no Cholesky decomposition: a ridge of {ridge:g}")
        factor: torch.Tensor
        factor, failed = torch.linalg.cholesky_ex(square + ridge * level)
        if not int(failed):
            return factor
    raise SystemExit(f"CaP: the covariance of what {path} reads has no Cholesky decomposition")


def _put(graph: fx.GraphModule, one: Consumer, weight: torch.Tensor, shift: torch.Tensor | None) -> None:
    """Have a layer of the graph, which is ours, compute with other weights; a bias appears where it needs one."""
    old = graph.get_submodule(one.path)
    assert isinstance(old, (nn.Conv2d, nn.Linear))
    new = copy.deepcopy(old)
    new.weight = nn.Parameter(weight.reshape(old.weight.shape).to(old.weight))
    if shift is not None:
        before = one.layer.bias
        bias = shift if before is None else before.detach().double()[one.outputs] + shift
        new.bias = nn.Parameter(bias.to(old.weight))
    set_attribute(graph, one.path, new)
