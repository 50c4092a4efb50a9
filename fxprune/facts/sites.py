"""Which convolutions can become ResConvs, and for every other one the reason why not."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx, nn

from fxprune.facts.convs import CONV_CLASSES, NORM_CLASSES, ConvCall, conv_call, is_conv, own_module
from fxprune.facts.costs import batch_size, node_macs, node_params
from fxprune.facts.shapes import same_shape, shape
from fxprune.graph import CallSites, called_module, module_path, only_user
from fxprune.resconv import Conv, ResConv


@dataclass(frozen=True)
class ConvSite:
    """One convolution: its node, module path, MACs a sample, parameters; ``reason`` is None if it is eligible."""

    node: fx.Node
    path: str
    macs: int
    params: int
    reason: str | None
    conv: ConvCall | None = None
    norm: fx.Node | None = None

    @property
    def eligible(self) -> bool:
        """Whether a ResConv can take the conv's place, and later be removed."""
        return self.reason is None


def find_conv_sites(graph_module: fx.GraphModule) -> list[ConvSite]:
    """Return every convolution of the graph, in graph order, those inside opaque modules included."""
    sites = CallSites(graph_module)
    batch = batch_size(graph_module)
    found: list[ConvSite] = []
    for node in graph_module.graph.nodes:
        if is_conv(node):
            conv, norm, reason = _examine(node, sites)
            found.append(
                ConvSite(node, module_path(node), node_macs(node) // batch, node_params(node), reason, conv, norm)
            )
        else:
            found.extend(_hidden(node))
    return found


def _hidden(node: fx.Node) -> list[ConvSite]:
    module = called_module(node)
    if module is None or isinstance(module, ResConv):
        return []
    return [
        ConvSite(
            node,
            f"{node.target}.{name}",
            0,
            sum(p.numel() for p in inner.parameters()),
            f"it is inside an opaque module, {type(module).__name__}",
        )
        for name, inner in module.named_modules()
        if name and isinstance(inner, CONV_CLASSES)
    ]


def _examine(node: fx.Node, sites: CallSites) -> tuple[ConvCall | None, fx.Node | None, str | None]:
    call = conv_call(node, sites)
    if isinstance(call, str):
        return None, None, call
    if shape(node) is None or shape(call.input) is None:
        return call, None, "its shape is unknown; trace with fxprune.trace(model, example_inputs)"
    if not same_shape(call.input, node) or any(step != 1 for step in call.module.stride):
        return call, None, _shape_reason(call)
    tap = dirac_tap(call.module)
    if isinstance(tap, str):
        return call, None, tap
    norm = _following_norm(node, sites)
    if isinstance(norm, fx.Node) and not is_batched(node, call.module):
        return call, None, f"its norm {norm.name} reads an unbatched output"
    return (call, None, norm) if isinstance(norm, str) else (call, norm, None)


def is_batched(node: fx.Node, conv: Conv) -> bool:
    """Say whether the output of ``conv`` at ``node`` has a batch dimension before the channels."""
    return len(shape(node) or ()) == len(conv.kernel_size) + 2


def _shape_reason(call: ConvCall) -> str:
    conv, before, after = call.module, shape(call.input), shape(call.node)
    if conv.in_channels != conv.out_channels:
        return f"it changes the channels ({conv.in_channels} -> {conv.out_channels})"
    if any(step != 1 for step in conv.stride):
        return f"its stride is {_short(conv.stride)}"
    return f"it changes the shape ({_short(before or ())} -> {_short(after or ())})"


def _short(numbers: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in numbers)


def left_padding(conv: Conv) -> tuple[int, ...]:
    """Return how many elements ``conv`` pads before its input, per axis."""
    if conv.padding == "same":
        spans = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        return tuple(span // 2 for span in spans)
    if conv.padding == "valid":
        return (0,) * len(conv.kernel_size)
    padding = tuple(int(p) for p in conv.padding)
    return padding * len(conv.kernel_size) if len(padding) == 1 else padding


def dirac_tap(conv: Conv) -> tuple[int, ...] | str:
    """Return the kernel index, per axis, at which ``conv`` reads the element it writes; or why there is none.

    The index t with ``t * dilation == left padding``; exact at the borders in every padding mode.
    """
    taps = []
    dilations = tuple(conv.dilation) * (len(conv.kernel_size) if len(conv.dilation) == 1 else 1)
    for left, dilation, size in zip(left_padding(conv), dilations, conv.kernel_size, strict=True):
        tap, remainder = divmod(left, dilation)
        if remainder or tap >= size:
            return f"no tap of its {_short(conv.kernel_size)} kernel reads the element that it writes"
        taps.append(tap)
    return tuple(taps)


def _following_norm(node: fx.Node, sites: CallSites) -> fx.Node | str | None:
    """Return the batch norm that directly follows ``node``, None if none does, or what stands in the way."""
    norms = [user for user in node.users if isinstance(called_module(user), NORM_CLASSES)]
    if not norms:
        return None
    if only_user(node) is None:
        return f"its output is read by others before its norm {norms[0].name}"
    module = called_module(norms[0])
    assert isinstance(module, nn.Module)
    obstacle = own_module(module, NORM_CLASSES, sites)
    if obstacle is None and module.running_mean is None:
        obstacle = "it keeps no running statistics, so it cannot be fused later"
    return f"its norm {norms[0].name}: {obstacle}" if obstacle else norms[0]
