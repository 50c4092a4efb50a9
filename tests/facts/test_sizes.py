"""The arithmetic of sizes that are not known: what is equal, and what is a size, whatever the numbers are."""

from __future__ import annotations

import random

import pytest

from fxprune.facts.shape_rules.sizes import (
    Atom,
    Product,
    Size,
    computed,
    is_size,
    plus,
    product,
    replaced,
    size_of_axis,
    sliced,
)

N, M = size_of_axis("axis", "n"), size_of_axis("axis", "m")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (plus(N, M), plus(M, N)),
        (plus(plus(N, 3), -3), N),
        (plus(plus(N, M), N, -1), M),
        (computed("sub", plus(N, 2), N), 2),
        (plus(product((2, N)), N, -1), N),
        (computed("floordiv", product((-1, N)), 1), product((N, -1))),
        (computed("mod", N, 1), 0),
        (computed("max", 2, 0), 2),
        (sliced(plus(N, M), None, N, None), N),
        (sliced(plus(N, 2), 1, -1, None), N),
        (sliced(plus(N, 1), 1, None, None), N),
        (replaced(plus(N, plus(M, 1)), {("axis", "n"): 4}), plus(M, 5)),
    ],
)
def test_what_is_equal(one: Size | None, other: Size) -> None:
    assert one == other


def test_what_may_be_negative_is_no_size() -> None:
    assert is_size(plus(N, 1))
    assert not is_size(plus(N, -1))
    assert not is_size(plus(N, M, -1))
    assert not is_size(product((N, -1)))
    assert sliced(N, None, M, None) not in (N, M)  # which of them is smaller is not known


@pytest.mark.parametrize("seed", range(100))
def test_random_expressions_are_what_python_computes(seed: int) -> None:
    chance = random.Random(seed)
    numbers: dict[Atom, int] = {("axis", "n"): chance.randint(1, 9), ("axis", "m"): chance.randint(1, 9)}
    values: list[tuple[Size, int]] = [(N, numbers["axis", "n"]), (M, numbers["axis", "m"]), (2, 2), (-3, -3)]
    for _ in range(12):
        (a, x), (b, y) = chance.choice(values), chance.choice(values)
        operation = chance.choice(["add", "sub", "mul", "floordiv", "mod"])
        if operation in ("floordiv", "mod") and (not isinstance(b, int) or b <= 0):
            continue
        found = computed(operation, a, b)
        assert found is not None
        python = {"add": x + y, "sub": x - y, "mul": x * y, "floordiv": x // (y or 1), "mod": x % (y or 1)}
        values.append((found, python[operation]))
    for size, number in values:
        assert replaced(size, numbers) == number
        assert not is_size(size) or number >= 0
        assert isinstance(size, (int, Product))
