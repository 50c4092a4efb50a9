"""What wraps a model, or a part of it, is looked through: nothing in a graph, a key or a path tells of it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import assert_state_equal, state_of, targets
from torch import distributed, nn
from torch._subclasses.fake_tensor import FakeTensor

import fxprune
from fxprune import passes
from fxprune.errors import LoadError, TraceError
from fxprune.ir.trace_notes import opaque_modules
from fxprune.ir.wrappers import without_prefixes
from fxprune.sources.models import load_model, load_weights

ran: list[str] = []


def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
    """Compile to what must not meet fake tensors, and tells that it ran."""

    def compiled(*args: Any) -> Any:
        assert not any(isinstance(one, FakeTensor) for one in args)
        ran.append("compiled")
        return graph(*args)

    return compiled


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module, backend=backend)  # type: ignore[return-value]


def compiled_by_method(module: nn.Module) -> nn.Module:
    module.compile(backend=backend)
    return module


def with_compiled_forward(module: nn.Module) -> nn.Module:
    module.forward = torch.compile(module.forward, backend=backend)
    return module


def distributed_over_one(module: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(module)


WRAPPERS: list[Callable[[nn.Module], nn.Module]] = [
    compiled,
    nn.DataParallel,
    distributed_over_one,
    compiled_by_method,
    with_compiled_forward,
    torch.compiler.disable,
]


PAIRS = [pair for pair in itertools.product(WRAPPERS[:3], repeat=2) if pair != (compiled, compiled)]


@pytest.fixture(scope="module", autouse=True)
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    where = tmp_path_factory.mktemp("group") / "file"
    distributed.init_process_group("gloo", init_method=f"file://{where}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()
    torch._dynamo.reset()


class Block(nn.Module):
    """A residual block; it may look at sizes, or at values, which hides what is around its layers."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "values" and x.sum() > 1e6:
            return x
        if self.kind == "sizes" and x.shape[2] > 64:
            return x
        out: torch.Tensor = self.relu(self.norm(self.conv(x)) + x)
        return out


class Net(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.body = nn.Sequential(Block(kind), Block(kind))
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.body(self.stem(x)).mean((2, 3)))
        return out


def wrap(model: Net, place: str, around: tuple[Callable[[nn.Module], nn.Module], ...]) -> nn.Module:
    """Wrap ``model`` or a part of it, by the last of ``around`` outermost."""
    *path, name = place.split(".")
    module: nn.Module = model.get_submodule(place)
    for one in around:
        module = one(module)
    if not place:
        return module
    setattr(model.get_submodule(".".join(path)), name, module)
    return model


def images(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def described(graph: torch.fx.GraphModule) -> list[tuple[str, str]]:
    return [(node.op, str(getattr(node.target, "__name__", node.target))) for node in graph.graph.nodes]


def cases() -> Iterator[Any]:
    """Return each wrapper at each place and around each kind of block, and all pairs of the first three."""
    for one in WRAPPERS:
        for place in ("", "body", "body.1.conv", "body.0.relu"):
            if (one, place) != (distributed_over_one, "body.0.relu"):  # which wants parameters
                yield pytest.param("plain", place, (one,), id=f"{one.__name__}-{place}")
        for kind in ("sizes", "values"):
            yield pytest.param(kind, "body.1", (one,), id=f"{one.__name__}-{kind}")
    for one, other in PAIRS:
        for place in ("", "body"):
            yield pytest.param("plain", place, (one, other), id=f"{one.__name__}-{other.__name__}-{place}")


@pytest.mark.parametrize(("kind", "place", "around"), [*cases()])
def test_wrappers_leave_nothing_in_the_graph(
    kind: str, place: str, around: tuple[Callable[[nn.Module], nn.Module], ...]
) -> None:
    torch.manual_seed(0)
    plain = Net(kind).eval()
    model = wrap(copy.deepcopy(plain), place, around).eval()
    state = state_of(model)
    ran.clear()
    expected = fxprune.trace(plain, images())
    graph = fxprune.trace(model, images())
    assert not ran
    assert described(graph) == described(expected)
    assert_state_equal(graph, state_of(expected))
    assert [one.path for one in opaque_modules(graph)] == [one.path for one in opaque_modules(expected)]
    sparse = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(graph).graph_module
    result = fxprune.Pipeline(fxprune.AFTER_TRAINING)(sparse).graph_module
    torch.testing.assert_close(result(images(1)), plain(images(1)))
    assert not ran
    assert_state_equal(model, state)


def test_the_users_model_stays_compiled() -> None:
    model = wrap(Net("plain").eval(), "body", (compiled_by_method, compiled))
    fxprune.trace(model, images())
    ran.clear()
    with torch.no_grad():
        model(images())
    assert ran


@torch.compile(backend=backend)
def halved(x: torch.Tensor) -> torch.Tensor:
    return x * 0.5


@torch.compiler.disable  # type: ignore[untyped-decorator]
def doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2.0


class Decorated(nn.Module):
    """Its forward is compiled by a decorator, and calls functions that are."""

    def __init__(self, looks: bool) -> None:
        super().__init__()
        self.conv, self.looks = nn.Conv2d(3, 3, 1), looks

    @torch.compile(backend=backend)
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.looks and x.sum() > 1e6:
            return x
        out: torch.Tensor = halved(doubled(self.conv(x)))
        return out


@pytest.mark.parametrize("looks", [False, True])
def test_decorated_functions_are_looked_through(looks: bool) -> None:
    model = nn.Sequential(Decorated(looks), nn.ReLU()).eval()
    ran.clear()
    graph = fxprune.trace(model, images())
    passes.Simplify()(graph)
    assert not ran
    assert len(opaque_modules(graph)) == looks
    with torch.no_grad():
        torch.testing.assert_close(graph(images(1)), model(images(1)))


def test_shared_weights_of_wrapped_models_are_the_users() -> None:
    model = wrap(Net("plain"), "body", (compiled, distributed_over_one))
    graph = fxprune.trace(model, images(), share_weights=True)
    theirs = {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for parameter in graph.parameters()} == theirs


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_takes_a_graph_takes_a_wrapped_one(wrapper: Callable[[nn.Module], nn.Module], tmp_path: Path) -> None:
    graph = fxprune.trace(Net("plain").eval(), images())
    wrapped: Any = wrapper(graph)
    sparse = wrapper(passes.InsertResConv()(wrapped).graph_module)
    result = fxprune.Pipeline([passes.FuseResConv()])(sparse)  # type: ignore[arg-type]
    assert fxprune.diff(wrapped, sparse).differs  # type: ignore[arg-type]
    assert "ResConv" not in targets(result.graph_module)
    assert not fxprune.diff(wrapped, graph).differs
    assert fxprune.verify(wrapped, sparse, images()).equal  # type: ignore[arg-type]
    fxprune.strip(wrapped)(images())
    fxprune.emit(wrapped, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(load_model(str(tmp_path)).model(images(1)), graph(images(1)))


def test_compiled_layers_of_a_graph_meet_no_fake_tensors() -> None:
    graph = fxprune.trace(Net("plain").eval(), images())
    for layer in (graph.get_submodule("stem"), graph.get_submodule("body.0.conv")):
        layer.compile(backend=backend)
    sparse = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(graph).graph_module
    fxprune.Pipeline([passes.RemoveLayers(target_macs=0.6), *fxprune.AFTER_TRAINING], verify=False)(sparse)


class Changed(nn.DataParallel):  # type: ignore[type-arg]
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -super().forward(x)  # type: ignore[no-any-return]


def _with_hook(module: nn.Module) -> nn.Module:
    wrapper = nn.DataParallel(module)
    wrapper.register_forward_hook(lambda m, args, y: -y)
    return wrapper


def _with_other_forward(module: nn.Module) -> nn.Module:
    wrapper = compiled(module)
    wrapper.forward = lambda x: -module(x)
    return wrapper


@pytest.mark.parametrize(
    ("wrapper", "why"),
    [
        (Changed, r"body \(Changed\) has a forward of its own, and cannot be looked through: .* \.module"),
        (_with_hook, r"body \(DataParallel\) has hooks, .* \.module"),
        (_with_other_forward, r"body \(OptimizedModule\) has a forward of its own, .*, \._orig_mod"),
    ],
)
def test_wrappers_that_compute_more_are_refused(wrapper: Callable[[nn.Module], nn.Module], why: str) -> None:
    with pytest.raises(TraceError, match=why):
        fxprune.trace(wrap(Net("plain"), "body", (wrapper,)), images())


class Reaching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.DataParallel(nn.Conv2d(3, 3, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body.module(x)  # type: ignore[no-any-return]


def test_a_forward_that_reaches_into_a_wrapper_is_refused() -> None:
    with pytest.raises(TraceError, match=r"`return self\.body\.module\(x\).*has no attribute 'module'.*wrappers"):
        fxprune.trace(Reaching(), images())


@pytest.mark.parametrize("place", ["", "body"])
@pytest.mark.parametrize("way", ["module", "composable"])
def test_sharded_models_are_refused_by_name(place: str, way: str) -> None:
    from torch.distributed import device_mesh, fsdp

    def shard(module: nn.Module) -> nn.Module:
        if way == "module":
            whole = fsdp.ShardingStrategy.NO_SHARD  # all that one process can do
            return fsdp.FullyShardedDataParallel(module, sharding_strategy=whole, device_id=torch.device("cpu"))
        fsdp.fully_shard(module, mesh=device_mesh.init_device_mesh("cpu", (1,)))
        return module

    where = place or "the model"
    with pytest.raises(TraceError, match=rf"^{where} is wrapped by FSDP \(F.*\), .*before it is wrapped"):
        fxprune.trace(wrap(Net("plain"), place, (shard,)), images())


def file_of(tmp_path: Path, state: dict[str, torch.Tensor]) -> Path:
    torch.save(state, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


@pytest.mark.parametrize("place", ["", "body", "body.1", "body.1.conv"])
@pytest.mark.parametrize("around", [*((one,) for one in WRAPPERS), *PAIRS])
def test_weights_of_a_wrapped_model_load_into_a_plain_one_and_back(
    place: str, around: tuple[Callable[[nn.Module], nn.Module], ...], tmp_path: Path
) -> None:
    wrapped, plain, other = wrap(Net("plain"), place, around), Net("plain"), wrap(Net("plain"), place, around)
    load_weights(plain, file_of(tmp_path, wrapped.state_dict()))
    for key, value in without_prefixes(wrapped.state_dict(), plain.state_dict()).items():
        assert torch.equal(plain.state_dict()[key], value)
    load_weights(other, file_of(tmp_path, plain.state_dict()))
    assert_state_equal(other, wrapped.state_dict())


class Named(nn.Module):
    """Has a child with the name that wrappers use, beside one of the same shape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.module = nn.Sequential()
        self.module.conv = nn.Conv2d(3, 3, 1)


class Only(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.module = nn.ModuleDict({"_orig_mod": nn.Conv2d(3, 3, 1)})


@pytest.mark.parametrize("kind", [Named, Only])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "module.module."])
def test_names_that_are_the_models_own_stay(kind: type[nn.Module], prefix: str, tmp_path: Path) -> None:
    saved, model = kind(), kind()
    load_weights(model, file_of(tmp_path, {prefix + key: value for key, value in saved.state_dict().items()}))
    assert_state_equal(model, saved.state_dict())


def test_a_tensor_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    state = nn.Sequential(nn.Conv2d(3, 3, 1)).state_dict()
    doubled = {**state, **{f"_orig_mod.{key}": value + 1 for key, value in state.items()}}
    with pytest.raises(LoadError, match=r"has unknown _orig_mod\.0\.weight"):
        load_weights(nn.Sequential(nn.Conv2d(3, 3, 1)), file_of(tmp_path, doubled))


def test_a_factory_may_return_a_compiled_model(tmp_path: Path) -> None:
    (tmp_path / "makes.py").write_text("import torch\nmake = lambda: torch.compile(torch.nn.Conv2d(3, 3, 1))\n")
    saved = nn.Conv2d(3, 3, 1)
    loaded = load_model(f"{tmp_path}/makes.py:make", file_of(tmp_path, saved.state_dict()))
    assert_state_equal(loaded.model, saved.state_dict())
