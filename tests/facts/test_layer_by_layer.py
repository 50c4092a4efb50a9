from pathlib import Path

import pytest
import torch
from helpers import Block, module_at, randomize, state_of
from torch import nn

import fxprune
from fxprune.errors import FxpruneError
from fxprune.facts import layer_by_layer
from fxprune.facts.layer_by_layer import LayerByLayer, bytes_held, room_for

X = torch.randn(6, 4, 5, 5, dtype=torch.float64)


def graph() -> torch.fx.GraphModule:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 3, 1))
    return fxprune.trace(randomize(model), X[:2])


@pytest.mark.parametrize("in_files", [False, True])
def test_every_value_is_what_the_graph_computes(
    in_files: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_by_layer, "_SMALL", 1)
    one = graph()
    *_, last, _ = one.graph.nodes
    with LayerByLayer(one, [(X[:4],), (X[4:],)], folder=str(tmp_path) if in_files else None).running() as run:
        run.until(last)
        assert torch.equal(torch.cat(run.values(last)), one(X))
    assert not list(tmp_path.iterdir())


def test_a_layer_that_is_replaced_counts_from_then_on() -> None:
    one = graph()
    first, norm, *_ = one.graph.find_nodes(op="call_module")
    with LayerByLayer(one, [(X,)], kept=[first]).running() as run:
        run.until(first)
        before = run.values(first)[0].clone()
        module_at(one, "1").running_mean += 1
        run.until(norm)
        torch.testing.assert_close(run.values(norm)[0], one.get_submodule("1")(before))


def test_values_are_kept_until_they_are_released() -> None:
    one = graph()
    first, *_ = one.graph.find_nodes(op="call_module")
    *_, last, _ = one.graph.nodes
    with LayerByLayer(one, [(X,)], kept=[first]).running() as run:
        run.until(last)
        assert run.is_known(first)
        run.release(first)
        assert not run.is_known(first)


def test_the_graph_is_as_before() -> None:
    one = graph().train()
    state = state_of(one)
    *_, end = one.graph.nodes
    with LayerByLayer(one, [(X,)]).running() as run:
        run.until(end)
    assert one.training
    assert all(torch.equal(state[name], value) for name, value in one.state_dict().items())


def test_inputs_that_do_not_fit_name_the_node() -> None:
    *_, end = (one := graph()).graph.nodes
    with (
        LayerByLayer(one, [(X[:, :3],)]).running() as run,
        pytest.raises(FxpruneError, match="does not take a batch"),
    ):
        run.until(end)


def test_memory_is_foretold_and_the_disk_is_asked() -> None:
    one = fxprune.trace(randomize(Block(4)), X[:2])
    whole = bytes_held(one, 2)
    assert whole >= X[:2].numel() * 8
    assert bytes_held(one, 20) == 10 * whole
    with room_for(100, memory=100) as folder:
        assert folder is None
    with room_for(101, memory=100) as folder:
        assert folder is not None
    with pytest.raises(FxpruneError, match="give fewer images"), room_for(1 << 60, memory=100):
        pass
