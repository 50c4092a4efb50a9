"""What stands for a value while a model is traced: it records what is done to it, and asks where Python decides.

Everything by which Python may decide goes to the tracer: truth, length, hash, text, number, type. A tracer that knows
no value refuses to answer; one that does answers for the example, and puts an assertion of that into the graph.
"""

from __future__ import annotations

import dis
import operator
import sys
from collections.abc import Iterator
from functools import cache
from types import FrameType
from typing import Any, NoReturn

import torch
from torch import fx
from torch.nn import functional

from fxprune.tracing.source import is_librarys

_OWN = ("node", "tracer")  # attributes of a stand-in itself
_AUTOGRAD_STATE = frozenset(
    (
        "grad",
        "grad_fn",
        "requires_grad",
        "is_leaf",
        "retains_grad",
        "_base",
        "_backward_hooks",
        "_version",
        "output_nr",
    )
)
_ASKS_BY_NAME = frozenset(("CALL", "PRECALL", "CALL_FUNCTION", "CALL_KW", "CALL_FUNCTION_EX", "CALL_BUILTIN"))
_is_instance = isinstance  # which tier 2 replaces
_ASKS_CLASS = frozenset(("LOAD_ATTR", "MATCH_CLASS"))


class RecordingTracer(fx.Tracer):
    """What stand-ins ask of a tracer beside what torch.fx's asks of one; a tier says how it answers."""

    @property
    def is_running(self) -> bool:
        """Whether a node is being run, to know its value: nothing is recorded then."""
        raise NotImplementedError

    @property
    def is_elsewhere(self) -> bool:
        """Whether another thread runs this, which has nothing to do with what is traced."""
        raise NotImplementedError

    def refuse(self, reason: str) -> NoReturn:
        """Raise TraceError, which counts where forward catches it too."""
        raise NotImplementedError

    def fixed(self, proxy: RecordingProxy, name: str) -> Any:
        """Return the attribute ``name`` of ``proxy`` if it is the same for every input; None otherwise."""
        raise NotImplementedError

    def type_of(self, proxy: RecordingProxy) -> type:
        """Return the type of what ``proxy`` stands for."""
        raise NotImplementedError

    def is_of(self, proxy: RecordingProxy, kinds: Any) -> bool:
        """Say whether what ``proxy`` stands for is of one of ``kinds``."""
        raise NotImplementedError

    def unpacked(self, proxy: Any, count: int) -> Iterator[Any]:
        """Return the ``count`` parts that ``proxy`` is unpacked into."""
        raise NotImplementedError

    def length(self, proxy: RecordingProxy) -> int:
        """Return the length of what ``proxy`` stands for."""
        raise NotImplementedError

    def hashed(self, proxy: RecordingProxy) -> int:
        """Return the hash of what ``proxy`` stands for."""
        raise NotImplementedError

    def concrete(self, proxy: Any) -> Any:
        """Return the number that ``proxy`` stands for."""
        raise NotImplementedError

    def told(self, proxy: RecordingProxy, frame: FrameType) -> Any:
        """Return what the text of ``proxy`` is made of, which ``frame`` asks for."""
        raise NotImplementedError

    def known(self, value: Any) -> Any:
        """Return ``value``, or what it stands for."""
        raise NotImplementedError

    def record_switch(self, function: Any, args: tuple[Any, ...]) -> fx.Node:
        """Record a call that switches what later nodes do, and was made already; return its node."""
        raise NotImplementedError


class RecordingProxy(fx.Proxy):
    """Records ``x += y`` as what it is: torch.fx's own Proxy loses that it writes into ``x``."""

    tracer: RecordingTracer
    __array_ufunc__ = None  # NumPy's numbers leave sums and products with it to it

    @classmethod
    def __torch_function__(cls, orig_method: Any, types: Any, args: Any = None, kwargs: Any = None) -> Any:
        """Record a call of ``orig_method``; torch.fx asks more of a function than those of torch.nn need."""
        if args and isinstance(args[0], cls) and getattr(orig_method, "__module__", "") == functional.__name__:
            return args[0].tracer.create_proxy("call_function", orig_method, args, kwargs or {})
        return super().__torch_function__(orig_method, types, args, kwargs)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The class of what this stands for where the user's code asks for it; torch's C++ code must not be deceived.

        It would read the memory of a stand-in as that of a tensor.
        """
        frame = sys._getframe(1)
        if not is_librarys(frame.f_code.co_filename) and _instruction(frame)[0] in _ASKS_CLASS:
            return self.tracer.type_of(self)
        return type(self)

    def __getattr__(self, k: str) -> Any:
        """Return a stand-in for an attribute; one that may be missing, or None, may decide something: refuse it."""
        if k.startswith("__") and k.endswith("__"):
            raise AttributeError(k)
        self.refuse_autograd_state(k)
        if type(self) is RecordingProxy and (fixed := self.tracer.fixed(self, k)) is not None:
            return fixed
        if k not in _known_names():
            self.tracer.refuse(f"it asks a value for its {k}, which a tensor has not")
        frame = sys._getframe(1)
        if _instruction(frame)[0] in _ASKS_BY_NAME and not is_librarys(frame.f_code.co_filename):
            self.tracer.type_of(self)  # hasattr, or getattr with a default
        return _Attribute(self, k)

    def refuse_autograd_state(self, name: str) -> None:
        """Raise TraceError if ``name`` is of what autograd notes on a tensor, which differs from call to call."""
        if name in _AUTOGRAD_STATE:
            self.tracer.refuse(f"it asks a tensor for its {name}, which is not the same in every call")

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse ``x.data = y`` and the like, which would change nothing but this stand-in."""
        if name not in _OWN and hasattr(torch.Tensor, name):
            self.tracer.refuse(f"it sets {name} of a tensor, which a graph cannot")
        super().__setattr__(name, value)

    def __bool__(self) -> bool:
        return self.tracer.to_bool(self)

    def __iter__(self) -> Iterator[Any]:
        name, count = _instruction(sys._getframe(1))
        return self.tracer.unpacked(self, count) if name == "UNPACK_SEQUENCE" else self.tracer.iter(self)

    def __len__(self) -> int:
        return self.tracer.length(self)

    def __contains__(self, item: Any) -> bool:
        return bool(self.tracer.create_proxy("call_function", operator.contains, (self, item), {}))

    def __hash__(self) -> int:
        return self.tracer.hashed(self)

    def __index__(self) -> int:
        return operator.index(self.tracer.concrete(self))

    def __int__(self) -> int:
        return int(self.tracer.concrete(self))

    def __float__(self) -> float:
        return float(self.tracer.concrete(self))

    def __complex__(self) -> complex:
        return complex(self.tracer.concrete(self))

    def __round__(self, digits: int | None = None) -> Any:
        return self.tracer.create_proxy("call_function", round, (self,) if digits is None else (self, digits), {})

    def __str__(self) -> str:
        return str(self.tracer.told(self, sys._getframe(1)))

    def __repr__(self) -> str:
        return repr(self.tracer.told(self, sys._getframe(1)))

    def __format__(self, format_spec: str) -> str:
        value = self.tracer.told(self, sys._getframe(1))
        return value if isinstance(value, str) else format(value, format_spec)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        self.tracer.refuse("it copies a value by copy.deepcopy; write .clone()")


def _in_place_operator(target: Any) -> Any:
    def record(self: RecordingProxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", target, (self, other), {})

    return record


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"):
    setattr(RecordingProxy, f"__i{_name}__", _in_place_operator(getattr(operator, f"i{_name}")))


class _Attribute(RecordingProxy):
    """An attribute of a value: nothing is recorded before it is used, since it may be a method that is called."""

    def __init__(self, owner: RecordingProxy, name: str) -> None:
        self.__dict__.update(_owner=owner, _name=name, _node=None, tracer=owner.tracer)

    @property
    def node(self) -> fx.Node:  # type: ignore[override]
        """The node that reads the attribute."""
        if self._node is None:
            self.__dict__["_node"] = self.tracer.create_proxy(
                "call_function", getattr, (self._owner, self._name), {}
            ).node
        return self._node  # type: ignore[no-any-return]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.tracer.create_proxy("call_method", self._name, (self._owner, *args), kwargs)


def _instruction(frame: FrameType) -> tuple[str, int]:
    """Return the name and the argument of the instruction that ``frame`` is at."""
    code = frame.f_code.co_code
    return dis.opname[code[frame.f_lasti]], code[frame.f_lasti + 1]


@cache
def _known_names() -> frozenset[str]:
    """Return the names of what values in graphs have: tensors, sizes, numbers, dtypes, devices, named results."""
    results = [getattr(torch.return_types, name) for name in dir(torch.return_types) if name[0] != "_"]
    kinds = (torch.Tensor, torch.Size, torch.dtype, torch.device, torch.finfo, torch.iinfo, int, str, dict, *results)
    return frozenset(name for kind in kinds for name in dir(kind))


def is_instance(obj: Any, kinds: Any) -> bool:
    """Do what ``isinstance`` does, but of a stand-in tell what it stands for."""
    if _is_instance(obj, kinds):
        return True
    return issubclass(type(obj), RecordingProxy) and obj.tracer.is_of(obj, kinds)


class _TellsTypes(type):
    """The class of what stands for ``type`` while a model is traced."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and issubclass(type(args[0]), RecordingProxy):
            return args[0].tracer.type_of(args[0])
        return type(*args, **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, type)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, type)

    def __eq__(cls, other: object) -> bool:
        return other is type or other is cls

    def __hash__(cls) -> int:
        return hash(type)


class TypeThatSees(type, metaclass=_TellsTypes):
    """Does what ``type`` does, but tells the type of what a stand-in stands for."""
