import torch
from torch import fx, nn

from fxprune.ir.folded_factors import folded_factor, note_factor


def test_what_lies_between_is_scaled_and_nothing_else() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.relu(torch.neg(x.abs()) + torch.neg(y))

    graph = fx.symbolic_trace(Two())
    nodes = {node.name: node for node in graph.graph.nodes}
    for _ in range(2):
        note_factor(nodes["relu"], [nodes["neg"], nodes["neg_1"]], 3.0)
    found = {name: folded_factor(node) for name, node in nodes.items()}
    assert {name for name, factor in found.items() if factor != 1} == {"neg", "neg_1", "add", "relu"}
    assert found["relu"] == 9
