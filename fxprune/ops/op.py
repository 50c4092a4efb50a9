"""A row of the table of ops: what holds of an op, whatever its spelling. Plain data, which reads no node.

    Op("relu", "elementwise", layers=(nn.ReLU,), functions=(functional.relu, torch.relu), methods=("relu",),
       takes="input; inplace=False", monotone=True, identity_on=(0.0, math.inf), homogeneous="positive", zero=True)

Every trait is a claim, and what no row claims is not known: a barrier. A test calls every row in every spelling, on
random arguments, and checks each claim by numbers.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from torch import nn

Bounds = tuple[float, float]
Kind = (
    Literal["elementwise", "arithmetic", "identity", "cast", "dropout", "axis", "movement", "join", "pad", "resize"]
    | Literal["window", "adaptive pool", "reduction", "norm", "conv", "transposed conv", "linear", "product"]
    | Literal["attention", "recurrent", "lookup", "random", "new", "size", "check"]
)
"""What an op is like: its shapes and its MACs follow from that, where nothing says more.

elementwise (each element from the one at its place), arithmetic (of several tensors, broadcast), identity (a copy at
most), cast, dropout (the identity in eval mode), axis (each element
from those along one axis), movement
(elements put elsewhere), join (tensors put together), pad, resize, window (pools), adaptive pool, reduction, norm,
conv, transposed conv, linear, product (of matrices), attention, recurrent, lookup (rows by indices), random (drawn
by values), new (made from sizes, whatever the values), size (no tensor), check (assertions).
"""
WEIGHTED = ("conv", "transposed conv", "linear")
"""The kinds that multiply by a weight of one kernel, or one matrix."""
MULTIPLYING = (*WEIGHTED, "product", "attention", "recurrent")
"""The kinds that have MACs."""
Values = Literal["", "selects", "averages", "pads", "drops"]
"""What each element of the result is: an element of the input, an average of some, either of these or zeros beside
them, or an element times a factor that is not negative."""


class Between(NamedTuple):
    """A number that a claim holds for: any from ``low`` to ``high``."""

    low: float
    high: float

    def __contains__(self, value: Any) -> bool:
        """Say whether ``value`` is such a number."""
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high


class Parameter(NamedTuple):
    """What an op takes: a name, what is taken where it is not given, if it may be left out.

    A ``variadic`` one is all that follows, a ``named`` one is given by name alone.
    """

    name: str
    default: Any
    required: bool
    variadic: bool
    named: bool


@dataclass(frozen=True, eq=False, repr=False)
class Op:
    """What holds of an op, whatever its spelling.

    Attributes:
        name: as torch calls it; ops that take other arguments in each spelling are rows of one name.
        kind: what it is like, see :data:`Kind`.
        takes: the parameters, as Python writes them, in the order of the functions and methods. Those before ``;`` a
            layer's forward takes, the others are its attributes. ``*`` before the last one: it may be spread out;
            what follows a lone ``*`` is given by name.
        layers: the classes that compute this, and nothing else.
        functions: likewise; a text is the full name of a function of a package that is not imported for that.
        methods: likewise, of tensors.
        axes: how many axes behind the channels a window slides over.
        shape: how the result's shape follows, where that is not as for others of its kind.
        where: the arguments for which the claims hold, by name: those equal to one listed, or in a :class:`Between`;
            others may have any value.
        homogeneous: f(a x) = a f(x) for the first input x, all other arguments as they are, whatever these are: for
            "all" a, for "positive" ones, or for "no" others than 1.
        monotone: x <= y gives f(x) <= f(y), for an elementwise f.
        image: the bounds that every value has.
        identity_on: the bounds between which f(x) = x.
        zero: f(0) = 0.
        values: what the elements of the result are, see :data:`Values`.
        neutral: the number as second operand for which the first is returned.
        commutes: the operands may be exchanged.
        fresh: the result is new memory, no view of an input, unless an argument says "in place".
        unsaved: the backward pass needs no value of the result: it may be overwritten.
        dtype: of the result, under autocast: that of the input ("keeps"), the lower one ("lower"), the widest of the
            inputs ("widest"); "" if it depends.
        weights: the arguments that are trained, each with what its axes are: "out" (channels that the result has),
            "in" (channels of the input, in their group), and "" for others.
        train_flag: the argument that says whether it is in train mode.
        draws: what it returns is random, and it does nothing else.
    """

    name: str
    kind: Kind
    takes: str
    layers: tuple[type[nn.Module], ...] = ()
    functions: tuple[Callable[..., Any] | str, ...] = ()
    methods: tuple[str, ...] = ()
    _: KW_ONLY
    axes: int = 0
    shape: str = ""
    where: Mapping[str, tuple[Any, ...] | Between] = field(default_factory=lambda: MappingProxyType({}))
    homogeneous: Literal["no", "positive", "all"] = "no"
    monotone: bool = False
    image: Bounds | None = None
    identity_on: Bounds | None = None
    zero: bool = False
    values: Values = ""
    neutral: float | None = None
    commutes: bool = False
    fresh: bool = False
    unsaved: bool = False
    dtype: Literal["", "keeps", "lower", "widest"] = ""
    weights: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    train_flag: str = ""
    draws: bool = False

    def __repr__(self) -> str:
        return f"Op({self.name!r}, {self.kind!r})"

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """What it takes, in order."""
        made = eval(f"lambda {self.takes.replace(';', ',').strip(', ')}: 0", {"inf": math.inf})
        return tuple(
            Parameter(
                one.name,
                None if one.default is one.empty else one.default,
                required=one.default is one.empty and one.kind is not one.VAR_POSITIONAL,
                variadic=one.kind is one.VAR_POSITIONAL,
                named=one.kind is one.KEYWORD_ONLY,
            )
            for one in inspect.signature(made).parameters.values()
        )

    @cached_property
    def places(self) -> dict[str, int]:
        """Where each parameter stands."""
        return {one.name: place for place, one in enumerate(self.parameters)}

    @cached_property
    def most(self) -> float:
        """How many arguments it takes by position."""
        if any(one.variadic for one in self.parameters):
            return math.inf
        return len([one for one in self.parameters if not one.named])

    @cached_property
    def inputs(self) -> int:
        """How many of the parameters a layer's forward takes."""
        return len([part for part in self.takes.partition(";")[0].split(",") if part.strip()])
