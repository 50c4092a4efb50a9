"""Every row of the table of ops, in every spelling, on random arguments: each trait holds by numbers."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from new_ops import NEW
from op_examples import Example, example, imported, spellings
from torch import nn

from fxprune.ops.call import _ALIASES
from fxprune.ops.op import Op
from fxprune.ops.table import OWN, row_of_target, with_rows

_DRAWS = 8
# Where an example has to be made by hand, and is, in test_call.py or test_mac_rules.py; they claim nothing of values.
_BY_HAND = {
    "einsum",
    "multi_dot",
    "chain_matmul",
    "multi_head_attention_forward",
    "shifted_window_attention",
    *("getattr", "window_size", "relative_position_bias"),
}
CASES = [(op, spelling) for op in (*OWN, *NEW) for spelling in spellings(op) if op.name not in _BY_HAND]


@pytest.fixture(autouse=True, scope="module")
def _rows() -> Iterator[None]:
    with with_rows(NEW):
        yield


def label(value: Any) -> str:
    return value.name if isinstance(value, Op) else getattr(value, "__name__", str(value))


def examples(op: Op, spelling: Any) -> Iterator[Example]:
    found = [example(op, spelling, random.Random(seed)) for seed in range(_DRAWS)]
    assert any(found), f"no example of {op.name} as {spelling} runs"
    yield from (one for one in found if one is not None)


def tensors(value: Any) -> list[torch.Tensor]:
    parts = value if isinstance(value, (tuple, list)) else [value]
    return [one for one in parts if isinstance(one, torch.Tensor)]


def close(a: Any, b: Any) -> None:
    for one, other in zip(tensors(a), tensors(b), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11, equal_nan=True)


def first_input(one: Example) -> torch.Tensor:
    return one.inputs[0]


def with_first(one: Example, x: torch.Tensor, seed: int = 0) -> Any:
    with torch.no_grad():
        return one.run(x, *one.inputs[1:], seed=seed)


@pytest.mark.parametrize(("op", "spelling"), CASES, ids=label)
def test_arguments_are_read_by_name_however_they_are_given(op: Op, spelling: Any) -> None:
    for one in examples(op, spelling):
        call = one.call
        assert call.op is op
        assert call.exact is op
        for name, value in one.given.items():
            if name not in op.places:
                continue  # kernel_size, of a layer with weights
            read = call.argument(name)
            assert read == value or (isinstance(read, (tuple, list)) and set(read) == {value}), (name, read, value)
        if op.inputs and one.inputs and op.kind != "join":
            assert call.input is not None


@pytest.mark.parametrize(("op", "spelling"), [(o, s) for o, s in CASES if not isinstance(s, type)], ids=label)
def test_what_is_not_given_is_what_torch_takes(op: Op, spelling: Any) -> None:
    """Leaving out what is as the row says that it is by default changes nothing."""
    for one in examples(op, spelling):
        for parameter in op.parameters[op.inputs :]:
            if parameter.default is None or parameter.variadic or parameter.name not in one.given:
                continue
            explicit = example(op, spelling, random.Random(1), {parameter.name: parameter.default})
            if explicit is None:
                continue
            node = explicit.node
            node.kwargs = {name: value for name, value in node.kwargs.items() if name != parameter.name}
            if parameter.name in explicit.given and len(node.args) <= op.places[parameter.name]:
                with torch.no_grad():
                    expected = explicit.run()
                    explicit.graph.recompile()
                    close(explicit.run(), expected)


@pytest.mark.parametrize(("op", "spelling"), [c for c in CASES if c[0].homogeneous != "no"], ids=label)
def test_homogeneous(op: Op, spelling: Any) -> None:
    for one in examples(op, spelling):
        x = first_input(one)
        for factor in (3.0, 0.25, *((-2.0,) if op.homogeneous == "all" else ())):
            scaled = [factor * y for y in tensors(with_first(one, x))]
            close(with_first(one, factor * x), scaled)


@pytest.mark.parametrize(("op", "spelling"), [c for c in CASES if c[0].monotone], ids=label)
def test_monotone(op: Op, spelling: Any) -> None:
    for one in examples(op, spelling):
        if one.call.claims is None:
            continue
        x = torch.linspace(-30.0, 30.0, 4 * 301, dtype=torch.float64)
        y = with_first(one, x)
        assert bool((y.diff() >= -1e-12).all())


@pytest.mark.parametrize(("op", "spelling"), [c for c in CASES if c[0].image is not None], ids=label)
def test_image(op: Op, spelling: Any) -> None:
    assert op.image is not None
    low, high = op.image
    for one in examples(op, spelling):
        if one.call.claims is None:
            continue
        sizes = (0.1, 1.0, 50.0) if one.inputs and op.kind != "random" else (1.0,)
        for size in sizes:
            found = with_first(one, size * first_input(one)) if one.inputs else one.run()
            assert all(bool((y >= low).all()) and bool((y <= high).all()) for y in tensors(found)), size


@pytest.mark.parametrize(("op", "spelling"), [c for c in CASES if c[0].identity_on is not None], ids=label)
def test_identity_between_bounds(op: Op, spelling: Any) -> None:
    assert op.identity_on is not None
    low, high = op.identity_on
    for one in examples(op, spelling):
        x = first_input(one).clamp(max(low, -1e3), min(high, 1e3))
        close(with_first(one, x), x)


@pytest.mark.parametrize(("op", "spelling"), [c for c in CASES if c[0].zero], ids=label)
def test_zeros_of_zeros(op: Op, spelling: Any) -> None:
    for one in examples(op, spelling):
        if one.call.claims is not None:
            found = with_first(one, torch.zeros_like(first_input(one)))
            assert all(not y.count_nonzero() for y in tensors(found))


@pytest.mark.parametrize(("op", "spelling"), [c for c in CASES if c[0].values and c[0].kind != "join"], ids=label)
def test_elements_of_the_result(op: Op, spelling: Any) -> None:
    for one in examples(op, spelling):
        if one.call.claims is None:
            continue
        for x in (first_input(one), first_input(one) + 5.0, first_input(one) - 5.0):
            for y in tensors(with_first(one, x)):
                low, high = float(x.min()) - 1e-12, float(x.max()) + 1e-12
                if op.values == "selects":
                    assert bool(torch.isin(y, x).all())
                elif op.values == "averages":
                    assert low <= y.min()
                    assert y.max() <= high
                elif op.values == "pads":
                    assert min(low, 0.0) <= y.min()
                    assert y.max() <= max(high, 0.0)
                else:
                    assert bool(((y == 0) | (y.sign() == x.sign())).all())


@pytest.mark.parametrize(("op", "spelling"), [c for c in CASES if c[0].neutral is not None], ids=label)
def test_neutral_operands(op: Op, spelling: Any) -> None:
    for one in examples(op, spelling):
        if one.call.claims is not None:
            x, y = one.inputs
            close(one.run(x, torch.full_like(y, float(op.neutral or 0))), x)


@pytest.mark.parametrize(("op", "spelling"), [c for c in CASES if c[0].commutes], ids=label)
def test_operands_that_may_be_exchanged(op: Op, spelling: Any) -> None:
    for one in examples(op, spelling):
        if one.call.claims is not None:
            close(one.run(*one.inputs), one.run(*reversed(one.inputs)))


@pytest.mark.parametrize(
    ("op", "spelling"), [c for c in CASES if c[0].fresh and c[0].layers + c[0].functions], ids=label
)
def test_new_memory(op: Op, spelling: Any) -> None:
    for one in examples(op, spelling):
        if one.call.argument("inplace") is True:
            continue
        given = tuple(x.clone() for x in one.inputs)
        with torch.no_grad():
            found = tensors(one.graph(*given))
        owned = {x.untyped_storage().data_ptr() for x in (*given, *one.graph.buffers(), *one.graph.parameters())}
        assert all(y.untyped_storage().data_ptr() not in owned for y in found if y.numel())


@pytest.mark.parametrize(("op", "spelling"), [c for c in CASES if c[0].unsaved], ids=label)
def test_results_that_backward_does_not_need(op: Op, spelling: Any) -> None:
    for one in examples(op, spelling):
        leaves = [x.clone().requires_grad_() for x in one.inputs]
        y = one.graph(*(x * 1.0 for x in leaves))
        if y.requires_grad:
            y.detach().mul_(2.0)
            y.sum().backward()  # raises, if what was overwritten was kept


@pytest.mark.parametrize(("op", "spelling"), [c for c in CASES if c[0].dtype], ids=label)
def test_dtypes_under_autocast(op: Op, spelling: Any) -> None:
    for one in examples(op, spelling):
        if one.call.claims is None:
            continue
        for dtype in (torch.float32, torch.bfloat16):
            graph = one.graph.float()
            given = [x.to(dtype if place == 0 else torch.float32) for place, x in enumerate(one.inputs)]
            try:
                with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
                    found = tensors(graph(*given))
            except RuntimeError:
                continue  # it takes no such input
            expected = {"keeps": dtype, "lower": torch.bfloat16, "widest": torch.float32}[op.dtype]
            if op.dtype == "widest" and len(given) == 1:
                expected = dtype
            assert {y.dtype for y in found} == {expected}, dtype


@pytest.mark.parametrize(("op", "spelling"), [c for c in CASES if c[0].weights], ids=label)
def test_axes_of_weights(op: Op, spelling: Any) -> None:
    """A change of one row along "out" changes that channel alone; along "in" none where that channel is zero."""
    for seed in range(_DRAWS):
        one = example(op, spelling, random.Random(seed), {"groups": 1} if "groups" in op.places else None)
        if one is None:
            continue
        state = dict(one.graph.named_parameters()) | dict(one.graph.named_buffers())
        for name, axes in op.weights.items():
            tensor = next((t for path, t in state.items() if path.rpartition(".")[2] == name), None)
            if tensor is None or one.call.argument(name) is None:
                continue
            assert len(axes) <= tensor.dim()
            for axis, what in enumerate(axes):
                _check_axis(one, tensor, axis, what)


def _check_axis(one: Example, tensor: torch.Tensor, axis: int, what: str) -> None:
    channels = -1 if one.op.kind == "linear" else 1
    x = first_input(one).clone()
    if what == "in":
        x.select(channels, 1).zero_()
    before = with_first(one, x)
    with torch.no_grad():
        tensor.select(axis, 1).add_(1.0)
    after = with_first(one, x)
    with torch.no_grad():
        tensor.select(axis, 1).sub_(1.0)
    changed = (after != before).movedim(channels, 0).flatten(1).any(1).nonzero().flatten().tolist()
    assert changed in ([[1], []] if what == "out" else [[]])


@pytest.mark.parametrize(("op", "spelling"), [c for c in CASES if c[0].kind == "dropout"], ids=label)
def test_dropout_is_the_identity_in_eval_mode(op: Op, spelling: Any) -> None:
    assert op.train_flag == "training"
    one = example(op, spelling, random.Random(0), {"training": False})
    assert one is not None
    assert one.call.argument("training") is False
    close(with_first(one, first_input(one)), first_input(one))


@pytest.mark.parametrize(("op", "spelling"), [c for c in CASES if c[0].draws], ids=label)
def test_draws_are_random(op: Op, spelling: Any) -> None:
    one = next(examples(op, spelling))
    found = [one.run(seed=seed) for seed in range(8)]
    assert any(not torch.equal(found[0], other) for other in found[1:])


def test_no_spelling_stands_in_two_rows() -> None:
    found = [spelling for op in OWN for spelling in spellings(op)]
    assert len(found) == len(set(found))


def test_a_function_is_known_with_all_that_it_takes() -> None:
    """A call with an argument that a row does not know is none that the row is claimed of."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    for op in OWN:
        for function in op.functions if not any(one.variadic for one in op.parameters) else ():
            try:
                whole = imported(function) if isinstance(function, str) else function
                given = inspect.signature(whole).parameters.values()
            except (TypeError, ValueError):
                continue  # built in
            names = {one.name for one in given if one.kind in kinds}
            assert names <= {*op.places, *_ALIASES.values(), "out"}, (op.name, function)


def test_what_a_layer_takes_are_its_attributes() -> None:
    for op in OWN:
        for kind in op.layers:
            assert issubclass(kind, nn.Module)
        assert op.inputs <= len(op.parameters)
        assert all(name in op.places for name in (*op.where, *op.weights)), op
        assert op.image is None or op.image[0] <= op.image[1]
        assert op.identity_on is None or not math.isnan(op.identity_on[0])


def test_functions_of_packages_that_are_not_imported_are_there() -> None:
    named = [one for op in OWN for one in op.functions if isinstance(one, str)]
    assert named
    for one in named:
        assert row_of_target(imported(one)) is not None


def test_two_operands_alone_are_as_arithmetic_claims() -> None:
    for op in OWN:
        if op.kind == "arithmetic":
            defaults = {one.name: one.default for one in op.parameters}
            assert all(defaults[name] in values for name, values in op.where.items()), op
