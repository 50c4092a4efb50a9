"""Put a squeeze-and-excitation gate right behind each conv whose channels are judged.

    relu(norm(conv(x)))   ->   relu(norm(y * sigmoid(W2 relu(W1 mean(y))))),   y = conv(x)       W1, W2: drawn by seed

Uniform channel pruning, Chang et al., arXiv 2010.01251: the network is trained with these, the mean gate of a channel
says how much it counts, and they are thrown away. Which convs are judged: :mod:`fxprune.structures.judged_convs`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from fxprune.choosing.channel_choice import kept_classes
from fxprune.choosing.keeping import KEPT
from fxprune.facts.shapes import tensor_meta
from fxprune.gates.channel_attention import ChannelAttention
from fxprune.ir.node_targets import free_target
from fxprune.ir.nodes import called_module
from fxprune.rewriting.contract import Contract, Log
from fxprune.rewriting.keeping_pass import KeepingPass
from fxprune.rewriting.rewriter import Rewriter
from fxprune.structures.channels.groups import Channels
from fxprune.structures.judged_convs import JudgedConv, judged_convs


@dataclass(frozen=True)
class InsertChannelAttention(KeepingPass):
    """Put a squeeze-and-excitation gate behind each conv whose channels are judged, for training.

    Outputs change: the gates begin at random, near a half.

    Args:
        seed: of their weights.
        keep, only: layers whose output channels stay: behind these there is no gate (see
            :mod:`fxprune.choosing.keeping`).
    """

    name: ClassVar[str] = "insert-channel-attention"
    after: ClassVar[tuple[str, ...]] = ("split-attention",)
    contract: ClassVar[Contract] = Contract.SIGNATURE
    changes_shapes: ClassVar[bool] = False
    seed: int = 0

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        """Insert a gate behind every judged conv."""
        if any(isinstance(called_module(node), ChannelAttention) for node in graph_module.graph.nodes):
            log.warn("the graph has gates of channel attention already")
            return
        channels = Channels(graph_module)
        kept, _ = kept_classes(channels, self.kept, log.region)
        stays = channels.stays | channels.flagged(kept)
        rewriter = Rewriter(graph_module, log, self.name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            for one in list(judged_convs(channels)):
                if not isinstance(one, JudgedConv):
                    log.decline(*one)
                elif stays[one.classes].all():
                    log.decline(one.node, KEPT)
                else:
                    _insert(one, rewriter)


def _insert(conv: JudgedConv, rewriter: Rewriter) -> None:
    node, graph_module = conv.node, rewriter.graph_module
    gate = ChannelAttention(conv.width).to(dtype=_dtype(node), device=_device(graph_module))
    gate.train(graph_module.training)
    target = rewriter.put(free_target(graph_module, f"{conv.path}_attention"), gate)
    rewriter.log.rewrote(node, f"its {conv.width} channels now have gates that are computed from it")
    readers = set(node.users)
    rewriter.replace(node, rewriter.insert("call_module", target, (node,), before=node.next, of=[node]), readers)


def _dtype(node: fx.Node) -> torch.dtype:
    """Return the dtype of a conv's weights: of what it computes, but for autocast."""
    module = called_module(node)
    first = None if module is None else next(iter(module.parameters()), None)
    if first is not None:
        return first.dtype
    meta = tensor_meta(node)
    return torch.get_default_dtype() if meta is None else meta.dtype


def _device(graph_module: fx.GraphModule) -> torch.device:
    first = next(graph_module.parameters(), None)
    return torch.device("cpu") if first is None else first.device
