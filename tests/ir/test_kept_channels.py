import numpy as np
from helpers import tiny

from fxprune.ir.kept_channels import KeptPlaces, kept_places, note_kept


def test_places_are_those_of_the_traced_node() -> None:
    node = next(iter(tiny().graph.nodes))
    assert not kept_places(node)
    note_kept(node, {1: KeptPlaces(np.array([0, 2, 3]), 6)})
    note_kept(node, {1: KeptPlaces(np.array([1, 2]), 3)})
    assert kept_places(node)[1].places.tolist() == [2, 3]
    assert kept_places(node)[1].of == 6
    note_kept(node, {})
    assert list(kept_places(node)) == [1]
