"""Sizes of axes that are not known, and their arithmetic: what two of them that look alike are for every input.

A size is a whole number, or a product of powers of atoms. An atom says where a number comes from (an axis of a value,
a window slid over a size); atoms that are equal are equal numbers, whatever the input.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

Atom = tuple[Hashable, ...]


class Product(NamedTuple):
    """``factor`` times atoms to their powers."""

    factor: int | Fraction
    powers: frozenset[tuple[Atom, int]]


Size = int | Product
_SIGNED = "signed"  # the kind of atoms that may be negative: no sizes yet


def size_of_axis(*atom: Hashable) -> Product:
    """Return the size that ``atom`` stands for."""
    return Product(1, frozenset({(atom, 1)}))


def atom_of(size: Size) -> Atom | None:
    """Return the atom that ``size`` is, if it is a single one."""
    if isinstance(size, int) or size.factor != 1 or len(size.powers) != 1:
        return None
    ((atom, power),) = size.powers
    return atom if power == 1 else None


def product(sizes: Iterable[Size], power: int = 1) -> Size:
    """Return the product of ``sizes``, or of their inverses if ``power`` is -1; those of an inverse are not zero."""
    factor: int | Fraction = 1
    powers: dict[Atom, int] = {}
    for size in sizes:
        if isinstance(size, int):
            if size == 0 and power == -1:
                return size_of_axis("none", size)
            factor *= size if power == 1 else Fraction(1, size)
            continue
        factor *= size.factor if power == 1 else Fraction(1) / size.factor
        for atom, own in size.powers:
            powers[atom] = powers.get(atom, 0) + own * power
    if factor == 0:
        return 0
    left = frozenset((atom, own) for atom, own in powers.items() if own)
    whole = int(factor) if factor.denominator == 1 else factor  # a Fraction that is one costs much to hash
    return whole if not left and isinstance(whole, int) else Product(whole, left)


def plus(size: Size, more: Size, times: int = 1) -> Size:
    """Return ``size + times * more``; what cancels out is gone."""
    if isinstance(more, int) and (more == 0 or isinstance(size, int)):
        return size + times * more if isinstance(size, int) else size
    terms = _terms(size)
    for powers, factor in _terms(more).items():
        terms[powers] = terms.get(powers, 0) + times * factor
    left = {powers: factor for powers, factor in terms.items() if factor}
    if len(left) > 1:
        return size_of_axis("sum", frozenset(left.items()))
    return product(Product(factor, powers) for powers, factor in left.items()) if left else 0


def _terms(size: Size) -> dict[frozenset[tuple[Atom, int]], int | Fraction]:
    """Return the products that ``size`` is the sum of: their powers, and their factors."""
    if isinstance(size, int):
        return {frozenset(): size} if size else {}
    if len(size.powers) == 1:
        ((atom, power),) = size.powers
        if atom[0] == "sum" and power == 1:
            return {powers: size.factor * factor for powers, factor in atom[1]}  # type: ignore[attr-defined]
    return {size.powers: size.factor}


def windowed(size: Size, stride: int, shift: int) -> Size:
    """Return at how many positions a window stands: (n + shift) // stride + 1."""
    if isinstance(size, int):
        return (size + shift) // stride + 1
    if stride == 1 and shift == -1:
        return size
    whole = plus(size, shift + 1)
    return whole if stride == 1 and is_size(whole) else size_of_axis("window", size, stride, shift)


def broadcast(a: Size, b: Size) -> Size | None:
    """Return the size of an axis over which both are broadcast; None if they do not fit."""
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    if isinstance(a, int):
        return None if isinstance(b, int) else a  # b is 1 or the same
    if isinstance(b, int):
        return b
    both = frozenset({a, b})
    for one, other in ((a, b), (b, a)):
        atom = atom_of(other)
        if atom is not None and atom[0] == "wide" and one in atom[1]:  # type: ignore[operator]
            return other
    return size_of_axis("wide", both)


def sliced(size: Size, start: Size | None, stop: Size | None, step: Size | None) -> Size:
    """Return how many positions a slice of an axis has."""
    whole = start in (None, 0) and step in (None, 1)
    if stop is None and start in (None, 0) and isinstance(step, int) and step > 0:
        return windowed(size, step, -1)
    if whole and (stop is None or stop == size):
        return size
    if whole and stop is not None and is_size(stop) and is_size(plus(size, stop, -1)):
        return stop
    if step in (None, 1) and isinstance(start or 0, int) and (stop is None or isinstance(stop, int)):
        first, less = start or 0, stop or 0
        left = plus(size, less - first) if first >= 0 >= less and stop != 0 else -1  # type: ignore[operator]
        if is_size(left):
            return left
    numbers: list[Any] = [start, stop, step]
    if isinstance(size, int) and all(one is None or isinstance(one, int) for one in numbers):
        return len(range(size)[slice(*numbers)])
    return size_of_axis("slice", size, *numbers)


def computed(operation: Hashable, a: Size, b: Size) -> Size | None:
    """Return what Python's ``operation`` (mul, add, sub, floordiv, mod, max) makes of two sizes; None if unknown."""
    if operation == "mul":
        return product((a, b))
    if operation in ("add", "sub"):
        return plus(a, b, 1 if operation == "add" else -1)
    if operation in ("max", "min") and isinstance(a, int) and isinstance(b, int):
        return max(a, b) if operation == "max" else min(a, b)
    if operation in ("floordiv", "mod") and b == 1:
        return a if operation == "floordiv" else 0
    if operation in ("floordiv", "mod") and isinstance(b, int) and b > 0:
        if isinstance(a, int):
            return a // b if operation == "floordiv" else a % b
        is_positive = operation == "mod" or is_size(a)
        return size_of_axis(operation, a, b) if is_positive else size_of_axis(_SIGNED, operation, a, b)
    return None


def is_size(size: Size) -> bool:
    """Say whether ``size`` is never negative: what is, is no size where one is asked for."""
    if isinstance(size, int):
        return size >= 0
    return size.factor >= 0 and all(_is_positive(atom) for atom, _ in size.powers)


def _is_positive(atom: Atom) -> bool:
    if atom[0] == "sum":
        return all(is_size(Product(factor, powers)) for powers, factor in atom[1])  # type: ignore[attr-defined]
    return atom[0] != _SIGNED


def replaced(size: Size, known: Mapping[Atom, Size]) -> Size:
    """Return ``size`` with the sizes that are ``known`` in the place of their atoms."""
    if isinstance(size, int) or not known:
        return size
    if (only := atom_of(size)) is not None:
        return known.get(only) or _replaced_atom(only, known)
    found: list[Size] = []
    for atom, power in size.powers:
        number: Size = known.get(atom) or _replaced_atom(atom, known)
        found += [number if power > 0 else product([number], -1)] * abs(power)
    rest = product(found)
    if isinstance(rest, int):
        value = size.factor * rest
        return int(value) if value.denominator == 1 else Product(value, frozenset())
    return Product(size.factor * rest.factor, rest.powers)


def _replaced_atom(atom: Atom, known: Mapping[Atom, Size]) -> Size:
    if atom[0] == "sum":
        total: Size = 0
        for powers, factor in atom[1]:  # type: ignore[attr-defined]
            total = plus(total, replaced(Product(factor, powers), known))
        return total
    parts = [replaced(part, known) if isinstance(part, Product) else part for part in atom]
    if parts == list(atom):
        return size_of_axis(*atom)
    if parts[0] == "window":
        return windowed(parts[1], parts[2], parts[3])  # type: ignore[arg-type]
    name = parts[1] if parts[0] == _SIGNED else parts[0]
    numbers = parts[-2:]
    if name in ("mod", "floordiv") and all(isinstance(one, int) for one in numbers):
        return computed(name, *numbers) or 0  # type: ignore[arg-type]
    return size_of_axis(*parts)
