"""What is replaced process-wide while a model is traced, and put back; one thread traces at a time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from torch import nn

ONE_AT_A_TIME = threading.RLock()
_MISSING = object()
# Their code asks what stand-ins are all the time and is known to get on with them, or is given none.
_NOT_THE_USERS = frozenset(sys.stdlib_module_names).union(
    (
        "torch",
        "fxprune",
        "functorch",
        "torchgen",
        "triton",
        "cuda",
        "numpy",
        "sympy",
        "mpmath",
        "networkx",
        "matplotlib",
    ),
    ("matplotlib", "scipy", "pandas", "PIL", "yaml", "tqdm", "filelock", "huggingface_hub", "safetensors"),
)

Namespace = dict[str, Any]


@contextmanager
def patched(patches: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """Replace attributes, given as (where, name, by what), inside."""
    before = [(home, name, vars(home).get(name, _MISSING)) for home, name, _ in patches]
    try:
        for home, name, new in patches:
            setattr(home, name, new)
        yield
    finally:
        for home, name, original in before:
            delattr(home, name) if original is _MISSING else setattr(home, name, original)


@contextmanager
def shadowed(names: Mapping[str, Any], spaces: Sequence[Namespace], bound: Mapping[int, Any]) -> Iterator[None]:
    """Give modules global ``names`` inside, which hide Python's builtins, and replace what they have ``bound``.

    Args:
        names: the globals, by name; every module of the user's gets them.
        spaces: namespaces that get them too, and in which what was imported by name is replaced.
        bound: what replaces an object, by the id of the object.
    """
    found = {id(space): space for space in (*_users_namespaces(len(sys.modules)), *spaces)}.values()
    own = [(space, name, space[name]) for space in found for name in names if name in space]
    imported = [(space, name, value) for space in spaces for name, value in space.items() if id(value) in bound]
    try:
        for space in found:
            space.update(names)
        for space, name, value in imported:
            space[name] = bound[id(value)]
        yield
    finally:
        for space in found:
            for name in names:
                space.pop(name, None)
        for space, name, value in (*own, *imported):
            space[name] = value


@lru_cache(maxsize=1)
def _users_namespaces(modules: int) -> list[Namespace]:
    """Return the globals of all ``modules`` that are loaded, but for torch's, Python's and ours."""
    named = [(name.partition(".")[0], module) for name, module in list(sys.modules.items())]
    return [vars(module) for top, module in named if top not in _NOT_THE_USERS and hasattr(module, "__dict__")]


def namespaces_of(modules: Sequence[nn.Module]) -> list[Namespace]:
    """Return the globals of the functions that are the forwards of ``modules``; those of torch's own are left out."""
    functions = {vars(kind).get("forward") for one in {type(module) for module in modules} for kind in one.__mro__}
    functions |= {vars(module)["forward"] for module in modules if "forward" in vars(module)}
    spaces = [getattr(function, "__globals__", None) for function in functions]
    found = {id(space): space for space in spaces if space is not None}
    return [space for space in found.values() if str(space.get("__name__")).partition(".")[0] not in _NOT_THE_USERS]
