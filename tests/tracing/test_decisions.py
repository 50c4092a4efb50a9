"""What Python decides while a model is traced is seen: the graph follows, asserts it, or the module is opaque."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Wrapped
from torch import nn
from tracing_helpers import conv, opaque

import fxprune
from fxprune.errors import FxpruneError
from fxprune.ir.trace_notes import assumptions_of

SMALL, LARGE = torch.randn(2, 4, 6, 6), torch.randn(3, 4, 8, 8)
TABLE = {6: 2.0, 8: 3.0, (6, 6): 4.0, "6": 5.0, torch.float32: 6.0, torch.device("cpu"): 7.0}


def by_match(x: Any) -> float:
    match x:
        case torch.Tensor():
            return 1.0
        case _:
            return 2.0


def by_try(x: Any) -> float:
    try:
        return 1.0 / len(x)
    except Exception:
        return 0.25


def by_try_of_text(x: Any) -> float:
    try:
        return TABLE[str(x.shape[-1])]
    except Exception:
        return 0.25


def rest(x: Any) -> int:
    first, *others = x.shape
    return first + len(others)  # type: ignore[no-any-return]


DECISIONS: dict[str, Callable[[Any, Any], Any]] = {
    "a dict's key": lambda m, x: TABLE[x.shape[-1]],
    "a dict's get": lambda m, x: TABLE.get(x.shape[-1], 1.0),
    "a tuple as key": lambda m, x: TABLE.get((x.shape[-2], x.shape[-1]), 1.0),
    "a shape as key": lambda m, x: TABLE.get(x.shape[-2:], 1.0),
    "in a dict": lambda m, x: 2.0 if x.shape[-1] in {6: 1} else 3.0,
    "in a set": lambda m, x: 2.0 if x.shape[-1] in {6} else 3.0,
    "in a list": lambda m, x: 2.0 if x.shape[-1] in [6] else 3.0,
    "in a shape": lambda m, x: 2.0 if 6 in x.shape else 3.0,
    "text": lambda m, x: TABLE.get(str(x.shape[-1]), 1.0),
    "formatted text": lambda m, x: TABLE.get(f"{x.shape[-1]}", 1.0),
    "text by %": lambda m, x: TABLE.get("%s" % x.shape[-1], 1.0),  # noqa: UP031
    "text by format": lambda m, x: TABLE.get("{}".format(x.shape[-1]), 1.0),  # noqa: UP032
    "text by repr": lambda m, x: TABLE.get(repr(x.shape[-1]), 1.0),
    "text of a shape": lambda m, x: 2.0 if "6" in str(x.shape) else 3.0,
    "getattr": lambda m, x: getattr(m, f"scale_{x.shape[-1]}", 1.0),
    "a comparison": lambda m, x: 2.0 if x.shape[-1] == 6 else 3.0,
    "an index": lambda m, x: [1.0, 2.0, 3.0, 4.0][x.shape[0]],
    "a range": lambda m, x: sum(1 for _ in range(x.shape[-1])),
    "int": lambda m, x: int(x.shape[-1] / 4),
    "float": lambda m, x: float(x.shape[-1]),
    "complex": lambda m, x: complex(x.shape[-1]).real,
    "round": lambda m, x: round(x.shape[-1] / 4),
    "len": lambda m, x: len(x),
    "try": lambda m, x: by_try(x),
    "try of a text": lambda m, x: by_try_of_text(x),
    "unpacked": lambda m, x: sum(part.mean() for part in x),
    "max": lambda m, x: max(x.shape[-1], 7),
    "sorted": lambda m, x: sorted(x.shape)[-1],
    "unpacked rest": lambda m, x: rest(x),
    "isinstance and size": lambda m, x: 2.0 if isinstance(x, torch.Tensor) and x.shape[-1] > 6 else 3.0,
    "is_tensor and size": lambda m, x: 2.0 if torch.is_tensor(x) and x.shape[-1] > 6 else 3.0,
    "isinstance of a size": lambda m, x: x.shape[-1] if isinstance(x.shape[-1], int) else 2.0,
    "type": lambda m, x: x.shape[-1] if type(x) is torch.Tensor else 2.0,
    "type of a size": lambda m, x: x.shape[-1] if type(x.shape[-1]) is int else 2.0,
    "class": lambda m, x: x.shape[-1] if x.__class__ is torch.Tensor else 2.0,
    "match": lambda m, x: by_match(x),
    "subclass": lambda m, x: x.shape[-1] if issubclass(type(x), torch.Tensor) else 2.0,
    "hasattr": lambda m, x: 2.0 if hasattr(x, "tensors") else 3.0,
    "hasattr of a size": lambda m, x: 2.0 if hasattr(x.shape[-1], "ndim") else 3.0,
    "getattr of a tensor": lambda m, x: getattr(x, "mask", 3.0),
    "no gradient": lambda m, x: 2.0 if x.grad is None else 3.0,
    "needs gradient": lambda m, x: 2.0 if x.requires_grad else 3.0,
}
OTHERS: dict[str, Callable[[Any, Any], Any]] = {
    "a dtype": lambda m, x: TABLE.get(x.dtype, 1.0),
    "text of a dtype": lambda m, x: 2.0 if str(x.dtype) == "torch.float32" else 3.0,
    "type of dtype": lambda m, x: 2.0 if torch.is_tensor(x) and x.dtype == torch.float32 else 3.0,
}


def traced(function: Callable[[Any, Any], Any], tier: str) -> tuple[nn.Module, Any]:
    """Return a model that multiplies by what ``function`` says, and its graph; in tier 2 for another reason too."""

    def forward(m: Any, x: Any) -> Any:
        y = m.layer(x.float())
        if tier == "values" and x.shape[1] > 100:
            y = y * 2
        return y * function(m, x)

    model = Wrapped(forward, layer=conv()).eval()
    model.scale_6, model.scale_8 = 2.0, 3.0  # type: ignore[assignment]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model, fxprune.trace(copy.deepcopy(model), SMALL)


def require_same_or_refused(model: nn.Module, graph: Any, x: torch.Tensor) -> None:
    expected = model(x)
    found = result_or_refusal(graph, x)
    if isinstance(found, str):
        assert "trace the model on inputs like them" in found
    else:
        torch.testing.assert_close(found, expected)


def result_or_refusal(graph: Any, x: torch.Tensor) -> torch.Tensor | str:
    try:
        return graph(x)  # type: ignore[no-any-return]
    except AssertionError as error:
        return str(error)


@pytest.mark.parametrize("tier", ["symbolic", "values"])
@pytest.mark.parametrize("name", DECISIONS)
def test_what_is_decided_by_a_size_or_a_type_is_followed_or_asserted(name: str, tier: str) -> None:
    model, graph = traced(DECISIONS[name], tier)
    torch.testing.assert_close(graph(SMALL), model(SMALL))
    require_same_or_refused(model, graph, LARGE)
    require_same_or_refused(model, graph, LARGE.requires_grad_())


@pytest.mark.parametrize("tier", ["symbolic", "values"])
@pytest.mark.parametrize("name", OTHERS)
def test_what_is_decided_by_a_dtype_is_followed_or_asserted(name: str, tier: str) -> None:
    model, graph = traced(OTHERS[name], tier)
    torch.testing.assert_close(graph(SMALL), model(SMALL))
    require_same_or_refused(model, graph, SMALL.double())


def fails_unless(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def shown_texts(x: torch.Tensor) -> None:
    height, width = x.shape[-2], x.shape[-1]
    torch._assert(height % 2 == 0, f"height {height} of {tuple(x.shape)} is odd")
    warnings.warn("sizes %s and %s" % (height, width), stacklevel=1)  # noqa: UP031
    print("sizes", str(height), "x".join(str(size) for size in (height, width)))
    assert x is not None, f"no input of {height} x {width}"


def test_a_text_that_is_only_shown_pins_no_size() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        shown_texts(x)
        return m.layer(x)  # type: ignore[no-any-return]

    model = Wrapped(forward, layer=conv()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = fxprune.trace(model, SMALL)
        torch.testing.assert_close(graph(LARGE), model(LARGE))
    assert opaque(graph) == []
    assert not any(size in one.what for one in assumptions_of(graph) for size in ("6", "8"))


def test_the_rank_that_is_unpacked_is_asserted() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        first, second, third, fourth = x.shape
        return m.layer(x).reshape(first, second * third * fourth)  # type: ignore[no-any-return]

    graph = fxprune.trace(Wrapped(forward, layer=nn.ReLU()), SMALL)
    assert len(assumptions_of(graph)) == 1
    assert graph(LARGE).shape == (3, 4 * 64)
    with pytest.raises(AssertionError, match="has 4 entries"):
        graph(torch.randn(2, 3, 4, 5, 6))


def test_an_error_that_forward_catches_is_no_way_to_go() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.layer(x)
        try:
            return y + m.bias[: x.shape[0]].reshape(1, 4, 1, 1)  # type: ignore[no-any-return]
        except RuntimeError:
            return y * 2  # type: ignore[no-any-return]

    model = Wrapped(forward, layer=conv())
    model.bias = nn.Parameter(torch.randn(8))
    graph = fxprune.trace(model.eval(), SMALL)
    assert opaque(graph) == ["model"]
    for x in (SMALL, torch.randn(4, 4, 6, 6)):
        torch.testing.assert_close(graph(x), model(x))


def test_a_swallowed_refusal_names_the_module_and_the_line() -> None:
    model = nn.Sequential(conv(), Wrapped(lambda m, x: m.layer(x) * by_try(x.sum().item()), layer=conv()), conv())
    graph = fxprune.trace(model.eval(), SMALL)
    assert opaque(graph) == ["1"]
    torch.testing.assert_close(graph(LARGE), model(LARGE))


def test_builtins_are_their_own_again() -> None:
    before = dict(globals())
    with pytest.raises(FxpruneError):
        fxprune.trace(Wrapped(lambda m, x: m.missing(x), layer=conv()), SMALL)
    fxprune.trace(Wrapped(lambda m, x: m.layer(x), layer=conv()), SMALL)
    assert globals().keys() - before.keys() <= {"__warningregistry__"}
    assert type(type) is type
    assert "isinstance" not in vars(torch)
