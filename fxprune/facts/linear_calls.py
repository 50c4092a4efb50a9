"""One view of every call of F.linear whose parameters are its own: as an nn.Linear."""

from __future__ import annotations

from torch import fx, nn

from fxprune.facts.module_uses import CallSites
from fxprune.ir.node_targets import attribute
from fxprune.ops.call import Call


def linear_call(node: fx.Node, sites: CallSites) -> nn.Linear | str:
    """Return an nn.Linear that holds the parameters of ``node``, an F.linear, or the reason why there is none."""
    call = Call(node)
    read = {name: part for name in ("weight", "bias") if (part := call.argument(name)) is not None}
    owner = node.graph.owning_module
    assert owner is not None
    tensors: dict[str, nn.Parameter] = {}
    for name, part in read.items():
        is_read = isinstance(part, fx.Node) and part.op == "get_attr"
        tensor = attribute(owner, str(part.target)) if is_read else None
        if not isinstance(tensor, nn.Parameter):
            return f"its {name} is no parameter"
        if sites.reads(tensor) != 1:
            return f"its {name} is shared by {sites.reads(tensor)} call sites"
        tensors[name] = tensor
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    rows = shapes["weight"][:1]
    if call.input is None or len(shapes["weight"]) != 2 or shapes.get("bias", rows) != rows:
        return "its weight is no matrix, or its bias has another length"
    layer = nn.Linear(shapes["weight"][1], rows[0], bias="bias" in tensors, device="meta")
    for name, tensor in tensors.items():
        setattr(layer, name, tensor)
    return layer.train(owner.training)
