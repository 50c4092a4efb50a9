"""Which channels are read: by what stands in the columns of weights, and in the gates before them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from fxprune.gates.channel_gate import ChannelScale, ScaledAxis, ScaledColumns
from fxprune.ir.node_targets import attribute
from fxprune.ir.nodes import called_module
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.walk import Reader

Flags = NDArray[np.bool_]


def unread(channels: Channels, threshold: float = 0.0) -> set[int]:
    """Return the classes that can go and of which nothing reaches anybody: all columns that read them are zero.

    Or all of their scales are at most ``threshold``, if that is above 0.
    """
    read = np.zeros(len(channels.labels), dtype=bool)
    for reader in channels.walk.readers:
        if channels.all_stay(reader.vectors):
            continue
        alive = _alive(channels, reader, threshold)
        for vector in reader.vectors:
            read[channels.class_of[vector[alive]]] = True
    return {one for group in channels.groups for one in group.free[~read[group.free]].tolist()}


def _alive(channels: Channels, reader: Reader, threshold: float) -> Flags:
    """Return which columns of a reader are not zero, NaN included, and have scales above ``threshold``."""
    alive = np.ones(len(reader.vectors[0]), dtype=bool)
    if reader.weight is not None:
        alive &= _nonzero(reader.weight.detach(), reader.axis)
    for node in (reader.node, *reader.node.all_input_nodes):
        module = called_module(node)
        is_operand = isinstance(module, ScaledAxis) and node is not reader.node
        if (isinstance(module, ScaledColumns) and node is reader.node) or (is_operand and _is_weight(node, reader)):
            alive &= ~_is_small(factor_at(node), threshold)
        elif is_operand:
            alive &= ~_zero_at(channels, node, threshold)[channels.class_of[reader.vectors[0]]]
    return alive


def _is_weight(node: fx.Node, reader: Reader) -> bool:
    """Say whether ``node`` multiplies the weight of ``reader``, and not an activation."""
    owner, read = node.graph.owning_module, node.args[0]
    assert isinstance(owner, fx.GraphModule)
    assert isinstance(read, fx.Node)
    return read.op == "get_attr" and attribute(owner, str(read.target)) is reader.weight


def _nonzero(weight: torch.Tensor, axis: int) -> Flags:
    """Return which columns, along ``axis``, hold anything but zeros; most are told by one row."""
    others = [one for one in range(weight.dim()) if one != axis]
    row = weight.narrow(others[0], 0, 1)
    found = (row != 0).sum(others).cpu().numpy() > 0
    quiet = np.flatnonzero(~found)
    if len(quiet):
        rest = weight.index_select(axis, torch.from_numpy(quiet).to(weight.device))
        found[quiet] = (rest != 0).sum(others).cpu().numpy() > 0
    alive: Flags = found
    return alive


def _is_small(factor: NDArray[np.float64], threshold: float) -> Flags:
    """Say of each factor whether it is at most ``threshold``; NaN is not."""
    return np.abs(factor) <= threshold


def _zero_at(channels: Channels, node: fx.Node, threshold: float) -> Flags:
    """Return, by class, what a gate before a product makes zero: all that is of the class."""
    flags = np.zeros(len(channels.labels), dtype=bool)
    module = called_module(node)
    assert isinstance(module, ScaledAxis)
    vectors = channels.walk.along(channels.walk.value(node), module.axis)
    zero = _is_small(factor_at(node), threshold)
    for vector in vectors:
        flags[channels.class_of[vector[zero]]] = True
    for vector in vectors:
        flags[channels.class_of[vector[~zero]]] = False
    return flags


def factor_at(node: fx.Node) -> NDArray[np.float64]:
    """Return the factor of each column of what ``node`` calls, a module that multiplies by scales."""
    module = called_module(node)
    assert isinstance(module, (ScaledColumns, ScaledAxis))
    with torch.no_grad():
        factor = module.factor(1 + module.axis, scales_of(node)).flatten()
    found: NDArray[np.float64] = factor.detach().double().cpu().numpy()
    return found


def scales_of(node: fx.Node) -> list[torch.Tensor]:
    """Return the scales that ``node`` multiplies by, as they are."""
    modules = [called_module(one) for one in node.args[1:]]
    return [one().detach() for one in modules if isinstance(one, ChannelScale)]
