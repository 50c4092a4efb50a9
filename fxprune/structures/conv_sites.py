"""Which convolutions can become ResConvs, and for every other one the reason why not."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx, nn

from fxprune.costs.macs import batch_size, node_macs, node_params
from fxprune.facts.constants import Constants
from fxprune.facts.conv_calls import ConvCall, conv_call
from fxprune.facts.equal_shapes import EqualShapes
from fxprune.facts.foldable_norms import is_batched
from fxprune.facts.module_uses import CallSites
from fxprune.facts.own_layers import own_module
from fxprune.facts.shapes import same_shape, shape
from fxprune.gates.gate import ScaledLayer
from fxprune.ir.by_mode import MODE
from fxprune.ir.module_tree import opaque_children
from fxprune.ir.node_targets import attribute
from fxprune.ir.nodes import called_module, module_path, only_user
from fxprune.ops.call import is_conv
from fxprune.ops.layer_classes import CONV_CLASSES, NORM_CLASSES, Conv


@dataclass(frozen=True)
class ConvSite:
    """One convolution: its node, module path, MACs a sample, parameters; ``reason`` is None if it is eligible.

    ``reshaping``: a ResConv can go around it for training and be fused, but not be removed, for that ``reason``.
    """

    node: fx.Node
    path: str
    macs: int
    params: int
    reason: str | None
    conv: ConvCall | None = None
    norm: fx.Node | None = None
    reshaping: bool = False

    @property
    def eligible(self) -> bool:
        """Whether a ResConv can take the conv's place, and later be removed."""
        return self.reason is None


def find_conv_sites(graph_module: fx.GraphModule) -> list[ConvSite]:
    """Return every convolution of the graph, in graph order, those hidden in opaque modules included.

    Those in regions are sites of their regions (see :func:`fxprune.ir.nodes.graphs_of`).
    """
    sites, constants, shapes = CallSites(graph_module), Constants(graph_module), EqualShapes(graph_module)
    found: list[ConvSite] = []
    for node in graph_module.graph.nodes:
        found.extend([_examine(node, sites, constants, shapes)] if is_conv(node) else _hidden(node))
    return found


def _hidden(node: fx.Node) -> list[ConvSite]:
    module = called_module(node)
    if module is None or not module._modules or isinstance(module, ScaledLayer):
        return []
    own = {id(inner) for inner in opaque_children(module)}
    return [
        ConvSite(
            node,
            f"{node.target}.{name}",
            0,
            sum(p.numel() for p in inner.parameters()),
            f"it is inside an opaque module, {type(module).__name__}",
        )
        for name, inner in module.named_modules()
        if name and isinstance(inner, CONV_CLASSES) and id(inner) in own
    ]


def _examine(node: fx.Node, sites: CallSites, constants: Constants, shapes: EqualShapes) -> ConvSite:
    call = conv_call(node, sites, constants)
    macs, params = node_macs(node) // batch_size(_owner(node)), node_params(node)

    def site(reason: str | None, norm: fx.Node | None = None, reshaping: bool = False) -> ConvSite:
        conv = None if isinstance(call, str) else call
        return ConvSite(node, module_path(node), macs, params, reason, conv, norm, reshaping)

    if isinstance(call, str):
        return site(call)
    if node.meta.get(MODE) == "train":
        return site("train mode alone computes it")
    params += sum(p.numel() for p in _parameters_of(call, constants))
    if shape(node) is None or shape(call.input) is None:
        return site("its shape is unknown; trace with fxprune.trace(model, example_inputs)")
    changes_shape = not same_shape(call.input, node) or any(step != 1 for step in call.module.stride)
    obstacle, norm = _obstacle(call, sites, shapes)
    if not changes_shape:
        return site(obstacle, norm)
    reason = _shape_reason(call)
    if obstacle is not None:
        return site(f"{reason}, and {obstacle}" if _is_reshaping(call.module) else reason)
    return site(reason, norm, _is_reshaping(call.module))


def _owner(node: fx.Node) -> fx.GraphModule:
    owner = node.graph.owning_module
    assert isinstance(owner, fx.GraphModule)
    return owner


def _parameters_of(call: ConvCall, constants: Constants) -> list[nn.Parameter]:
    """Return what a functional conv trains; its node itself holds no parameters."""
    if not call.functional:
        return []
    held = [p for p in call.module.parameters() if not p.is_meta]
    values = [attribute(_owner(call.node), str(n.target)) for n in constants.leaves(*call.computed.values())]
    return list({id(v): v for v in (*held, *values) if isinstance(v, nn.Parameter)}.values())


def _is_reshaping(conv: Conv) -> bool:
    return conv.in_channels != conv.out_channels or any(step != 1 for step in conv.stride)


def _obstacle(call: ConvCall, sites: CallSites, shapes: EqualShapes) -> tuple[str | None, fx.Node | None]:
    """Return why no shortcut around the conv and its norm could be fused (None if one could), and the norm."""
    tap = dirac_tap(call.module)
    if isinstance(tap, str):
        return tap, None
    norm = _following_norm(call.node, sites)
    if isinstance(norm, str):
        return norm, None
    if norm is not None and not is_batched(call.node, call.module, shapes):
        return f"its norm {norm.name} may read an unbatched output", None
    return None, norm


def _shape_reason(call: ConvCall) -> str:
    conv, before, after = call.module, shape(call.input), shape(call.node)
    if conv.in_channels != conv.out_channels:
        return f"it changes the channels ({conv.in_channels} -> {conv.out_channels})"
    if any(step != 1 for step in conv.stride):
        return f"its stride is {_short(conv.stride)}"
    return f"it changes the shape ({_short(before or ())} -> {_short(after or ())})"


def _short(numbers: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in numbers)


def _left_padding(conv: Conv) -> tuple[int, ...]:
    """Return how many elements ``conv`` pads before its input, per axis."""
    if conv.padding == "same":
        spans = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        return tuple(span // 2 for span in spans)
    if conv.padding == "valid":
        return (0,) * len(conv.kernel_size)
    return tuple(int(p) for p in conv.padding)


def dirac_tap(conv: Conv) -> tuple[int, ...] | str:
    """Return the kernel index, per axis, at which ``conv`` reads the element it writes; or why there is none.

    The index t with ``t * dilation == left padding``; exact at the borders in every padding mode. With a stride it
    reads the elements at its multiples. All of them lie inside the input, whatever its size, unless the conv pads
    more than its kernel spans.
    """
    taps = []
    for left, dilation, size in zip(_left_padding(conv), conv.dilation, conv.kernel_size, strict=True):
        tap, remainder = divmod(left, dilation)
        if remainder or tap >= size:
            return f"no tap of its {_short(conv.kernel_size)} kernel reads the element that it writes"
        if 2 * left > dilation * (size - 1) and conv.padding != "same":
            return "it pads more than its kernel spans"
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
