"""The file of a search: read as it was written, and refused where it is of another one, or damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fxprune
from fxprune.choosing.blend_record import Generation, SearchRecord
from fxprune.choosing.criterion_clusters import Clusters

ASKED = {"pool": ["l1", "l2"], "images": "00ab", "options": {"ratio": "0.5", "seed": "0"}, "population": 4}
CLUSTERS = {"a": Clusters(("l1", "l2"), np.array([[1, 0.5], [0.5, 1]]), (("l1",), ("l2",)))}
RECORD = SearchRecord(ASKED, CLUSTERS, [Generation([[0.1, 0.2], [0.3, 0.4]], [0.5, 0.75])])


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "search.json"
    RECORD.save(file)
    found = SearchRecord.load(file)
    assert (found.asked, found.generations) == (ASKED, RECORD.generations)
    assert (found.clusters["a"].names, found.clusters["a"].members) == (CLUSTERS["a"].names, CLUSTERS["a"].members)
    np.testing.assert_array_equal(found.clusters["a"].correlation, CLUSTERS["a"].correlation)
    found.require_same(ASKED, file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pool": ["l1", "taylor"]}, r'pool is \["l1", "l2"\] there and \["l1", "taylor"\] here'),
        ({"images": "00ac"}, 'images is "00ab" there and "00ac" here'),
        ({"options": {"ratio": "0.6", "seed": "0"}}, 'ratio is "0.5" there and "0.6" here'),
        ({"population": 5}, "population is 4 there and 5 here"),
    ],
)
def test_another_search_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(fxprune.FxpruneError, match=f"search.json is of another search: {message}; name another file"):
        RECORD.require_same({**ASKED, **change}, Path("search.json"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: "{", "is no search for a blend: "),
        (lambda content: [], "is no search for a blend, which has 'fxprune_blend_search'"),
        (lambda content: {**content, "fxprune_blend_search": 2}, "is no search for a blend, which has"),
        (lambda content: {**content, "more": 1}, "is a damaged search: it has asked, clusters, generations"),
        (lambda content: {**content, "generations": {}}, "is a damaged search: it has"),
        (lambda content: {**content, "generations": [{"genes": []}]}, "is a damaged search: "),
        (lambda content: {**content, "generations": [3]}, "is a damaged search: "),
        (lambda content: {**content, "clusters": [{"group": "a"}]}, "is a damaged search: "),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, change: Any, message: str) -> None:
    file = tmp_path / "search.json"
    RECORD.save(file)
    content = change(json.loads(file.read_text()))
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(fxprune.FxpruneError, match=message) as caught:
        SearchRecord.load(file)
    assert "\n" not in str(caught.value)
