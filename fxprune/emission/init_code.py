"""The body of ``Model.__init__``: every layer, parameter and buffer under the name that it has in the state dict."""

from __future__ import annotations

from typing import Any

from torch import nn

from fxprune.emission.expressions import access, access_tensor, is_name, literal
from fxprune.emission.layer_spec import LayerSpec
from fxprune.emission.state_layout import StateLayout, TensorSpec


def init_lines(layout: StateLayout) -> list[str]:
    """Return the statements that make every layer and tensor of ``layout``, under its own name."""
    tree: dict[str, Any] = {}
    for path, spec in layout.layers.items():
        _branch(tree, path.split(".")[:-1])[path.rpartition(".")[2]] = spec
    tensors = []
    for target, tensor in layout.tensors.items():
        owner = target.rpartition(".")[0]
        _branch(tree, owner.split(".") if owner else [])
        tensors.append(_tensor_text(target, tensor))
    lines = []
    for name, content in tree.items():
        text = _layer_text(content, "") if isinstance(content, LayerSpec) else _container_text(content, "")
        lines += (f"self.{name} = {text}" if is_name(name) else f"self.add_module({literal(name)}, {text})").split(
            "\n"
        )
    frozen = [
        f"{access_tensor(f'{path}.{name}')}.requires_grad_(False)"
        for path, spec in layout.layers.items()
        for name in spec.frozen
        if not spec.all_frozen
    ]
    ties = [_tie(name, known, known in layout.layers) for name, known in layout.ties.items()]
    return lines + tensors + frozen + ties


def _branch(tree: dict[str, Any], atoms: list[str]) -> dict[str, Any]:
    for atom in atoms:
        tree = tree.setdefault(atom, {})
    return tree


def _container_text(content: dict[str, Any], indent: str) -> str:
    if not content:
        return "nn.ModuleDict()"
    kind = "_Layers" if any(hasattr(nn.ModuleDict, name) for name in content) else "nn.ModuleDict"
    inner = indent + "    "
    rows = [
        f"{inner}{literal(name)}: "
        + (_layer_text(part, inner) if isinstance(part, LayerSpec) else _container_text(part, inner))
        for name, part in content.items()
    ]
    return f"{kind}({{\n" + ",\n".join(rows) + f",\n{indent}}})"


def _layer_text(spec: LayerSpec, indent: str) -> str:
    arguments = [
        literal(value) if name in spec.positional else f"{name}={literal(value)}"
        for name, value in spec.arguments.items()
    ]
    text = f"nn.{spec.kind}({', '.join(arguments)})"
    if spec.dtype is not None:
        text += f".to({spec.dtype})"
    return f"{text}.requires_grad_(False)" if spec.all_frozen else text


def _tensor_text(target: str, tensor: TensorSpec) -> str:
    owner, _, name = target.rpartition(".")
    dtype = "" if tensor.dtype == "torch.float32" else f", dtype={tensor.dtype}"
    empty = f"torch.empty({tensor.shape}{dtype})"
    if tensor.parameter:
        trained = "" if tensor.trainable else ", requires_grad=False"
        value = f"nn.Parameter({empty}{trained})"
        plain = f"{access(owner)}.{name} = {value}"
        return plain if is_name(name) else f"{access(owner)}.register_parameter({literal(name)}, {value})"
    return f"{access(owner)}.register_buffer({literal(name)}, {empty})"


def _tie(name: str, known: str, is_module: bool) -> str:
    """Return the statement that makes ``name`` the same object as ``known``."""
    owner, _, last = name.rpartition(".")
    same = access(known) if is_module else access_tensor(known)
    if is_module:
        return f"{access(owner)}.add_module({literal(last)}, {same})"
    return (
        f"{access(owner)}.{last} = {same}" if is_name(last) else f"setattr({access(owner)}, {literal(last)}, {same})"
    )
