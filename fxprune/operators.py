"""Python's operators as graphs call them: how each is written, and under which names sums and products go."""

from __future__ import annotations

import operator
from typing import Any

import torch

INFIX: dict[Any, str] = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.floordiv: "//",
    operator.mod: "%",
    operator.pow: "**",
    operator.matmul: "@",
    operator.eq: "==",
    operator.ne: "!=",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
    operator.and_: "&",
    operator.or_: "|",
    operator.xor: "^",
}
ADDITIONS: tuple[Any, ...] = (operator.add, torch.add, "add")
PRODUCTS: tuple[Any, ...] = (operator.mul, torch.mul, "mul")
