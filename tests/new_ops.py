"""Ops that the table does not have: each is one row here, as a package of somebody else's would add it."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from fxprune.ops.op import Op


def soft_clip(input: torch.Tensor, bound: float = 2.0) -> torch.Tensor:  # torch's word
    """Return values between -bound and bound, that grow with ``input``."""
    return bound * torch.tanh(input / bound)


ELEMENTWISE = Op(
    "asinh",
    "elementwise",
    "input;",
    functions=(torch.asinh, torch.arcsinh),
    methods=("asinh", "arcsinh"),
    monotone=True,
    zero=True,
    fresh=True,
)
WINDOW = Op(
    "lp_pool2d",
    "window",
    "input; norm_type, kernel_size, stride=None, ceil_mode=False",
    functions=(functional.lp_pool2d,),
    axes=2,
    where={"norm_type": (2,)},
    image=(0.0, math.inf),
    homogeneous="positive",
    zero=True,
    fresh=True,
)
MOVEMENT = Op(
    "swapdims",
    "movement",
    "input; dim0, dim1",
    functions=(torch.swapdims,),
    methods=("swapdims",),
    shape="transpose",
    values="selects",
    homogeneous="all",
    zero=True,
    dtype="keeps",
)
FOREIGN = Op(
    "soft_clip",
    "elementwise",
    "input; bound=2.0",
    functions=(soft_clip,),
    monotone=True,
    zero=True,
    fresh=True,
    dtype="keeps",
)
NEW = (ELEMENTWISE, WINDOW, MOVEMENT, FOREIGN)
