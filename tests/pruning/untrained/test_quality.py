import torch
from helpers import tiny

from fxprune.choosing.samples import Batch
from fxprune.pruning.untrained.quality import Quality, outputs_of, quality

X = torch.randn(6, 3, 4, 4, dtype=torch.float64)


def test_outputs_that_are_nan_are_the_worst() -> None:
    graph = tiny()
    batches = [Batch((X,), torch.arange(6) % 2)]
    wanted = outputs_of(graph, batches)
    assert quality(graph, batches, wanted).moved == 0
    with torch.no_grad():
        graph.get_submodule("head").bias.fill_(float("nan"))  # type: ignore[operator]
    found = quality(graph, batches, wanted)
    assert found == Quality(float("inf"))
    assert found.to_json() == {"moved": None, "agreement": None, "top1": None}
