"""Which convs uniform channel pruning judges, and which of them have to be alike (Chang et al., arXiv 2010.01251).

    plain networks      every conv whose output channels can go
    basic blocks        likewise, and the blocks of a stage are alike: their first convs have one width, ... [paper]
    bottlenecks         the k x k convs between the 1x1 ones [paper]

What is a stage, in any graph, is ours: blocks whose sums have the same channels and the same size. So is that 1x1
convs on single pixels, as in squeeze and excitation, are not judged: they are linear layers.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from torch import fx

from fxprune.facts.shapes import shape
from fxprune.ir.by_mode import MODE
from fxprune.ops.call import is_conv
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.labels import Array
from fxprune.structures.channels.values import Value
from fxprune.structures.residual_convs import Block, is_pointwise, kernel_of, residual_blocks

_BATCHED = 3  # a sample, channels and one axis of space


@dataclass(frozen=True, eq=False)
class JudgedConv:
    """A conv whose output channels are judged.

    Attributes:
        node: its call.
        path: where its layer is; the name of the node where the model itself calls a function.
        classes: the class of each output channel, (C,).
        tie: what it shares with those that have to be as wide as it, channel by channel; None if there are none.
    """

    node: fx.Node
    path: str
    classes: Array
    tie: Hashable = None

    @property
    def width(self) -> int:
        """How many output channels it has."""
        return len(self.classes)


def judged_convs(channels: Channels) -> Iterator[JudgedConv | tuple[fx.Node, str]]:
    """Yield the judged convs of a graph, in its order, and the others with the reason why they are not."""
    graph_module = channels.graph_module
    blocks = residual_blocks(graph_module)
    of_block = {conv: block for block in blocks for conv in block.convs}
    ends = [_classes(channels, block.convs[-1]) for block in blocks if block.is_bottleneck]
    streams = {one for end in ends if end is not None for one in end.tolist()}
    for node in graph_module.graph.nodes:
        if not is_conv(node):
            continue
        classes, block = _classes(channels, node), of_block.get(node)
        reason = _obstacle(node, classes, block)
        if reason is not None or classes is None:
            yield node, reason or "its output channels are not followed"
        elif channels.stays[classes].all():
            yield node, f"none of its output channels can go: {channels.reasons[int(classes[0])].why}"
        elif not streams.isdisjoint(classes.tolist()):
            yield node, "bottlenecks are added to its output: the conv between their 1x1 ones is judged"
        else:
            yield JudgedConv(node, _path(node), classes, _tie(channels, node, block))


def _path(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name


def _classes(channels: Channels, node: fx.Node) -> Array | None:
    """Return the class of each output channel of a conv, if each has one."""
    value = channels.walk.value(node)
    vectors = channels.walk.along(value, 1) if isinstance(value, Value) and len(value.shape) >= _BATCHED else ()
    return channels.class_of[vectors[0]] if len(vectors) == 1 else None


def _obstacle(node: fx.Node, classes: Array | None, block: Block | None) -> str | None:
    """Return why a conv is not judged, whatever can go of it."""
    size = shape(node) or ()
    if node.meta.get(MODE) == "train":
        return "train mode alone computes it"
    if len(size) != len(kernel_of(node)) + 2:
        return "its output has no axis of samples"
    if is_pointwise(node) and all(one == 1 for one in size[2:]):
        return "is a linear layer: a 1x1 conv on single pixels"
    if block is not None and block.is_bottleneck and is_pointwise(node):
        return "is a 1x1 conv of a bottleneck: the conv between them is judged"
    return None if classes is not None else "its output channels are not followed"


def _tie(channels: Channels, node: fx.Node, block: Block | None) -> Hashable:
    """Return what the convs at one place of the blocks of a stage have in common."""
    if block is None or block.is_bottleneck:
        return None
    stream = _classes(channels, block.addition)
    if stream is None:
        return None
    sizes = shape(block.addition), shape(node), kernel_of(node)
    return (stream.tobytes(), *sizes, block.convs.index(node))
