"""What criteria look at: batches of inputs, with labels where there are some.

Samples.of(graph, loader)     the user's: tensors, or pairs of inputs and labels
Samples.of(graph)             the graph's example inputs, without labels; ``advice`` says so
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import fx

from fxprune.errors import FxpruneError, FxpruneTypeError, FxpruneValueError
from fxprune.ir.nodes import EXAMPLE_INPUTS
from fxprune.ir.pytrees import map_tensors, tensors_in


class Batch(NamedTuple):
    """What a graph is called with, and the labels of its samples, (N, ...), if they are known."""

    inputs: tuple[Any, ...]
    labels: torch.Tensor | None = None

    @property
    def size(self) -> int:
        """How many samples it has: the first dimension of the labels, or of the first input that has any."""
        sized = [self.labels] if self.labels is not None else tensors_in(self.inputs)
        return next((len(one) for one in sized if one.dim()), 1)

    def alone(self) -> Iterator[Batch]:
        """Yield each sample as a batch of one."""
        for index in range(self.size):
            yield self._part(slice(index, index + 1))

    def first(self, count: int) -> Batch:
        """Return its first samples, at most ``count``."""
        return self._part(slice(count))

    def every(self, number: int, others: bool = False) -> list[Batch]:
        """Return every ``number``-th of its samples, or all others, as a batch; no batch if there is none."""
        places = [one for one in range(self.size) if (one % number == number - 1) != others]
        return [self._part(places)] if places else []

    def _part(self, where: slice | list[int]) -> Batch:
        inputs = map_tensors(self.inputs, partial(_part, where, self.size))
        return Batch(inputs, None if self.labels is None else self.labels[where])


def _part(where: slice | list[int], count: int, tensor: torch.Tensor) -> torch.Tensor:
    return tensor[where] if tensor.dim() > 0 and len(tensor) == count else tensor


class Samples:
    """Batches, read anew each time that they are asked for; what can be read only once is kept.

    Args:
        given: an iterable of batches: a tensor of inputs (N, ...), or a pair of inputs and labels (N, ...), as a
            DataLoader brings them. Of a graph with several inputs a batch's are a tuple, in a pair: ``((x, mask),
            labels)``, or without labels ``((x, mask), None)``. A batch that is None is left out.
        advice: what to say where they are not the user's own; "" if they are.
        takes: how many inputs a batch has; any number by default.
    """

    def __init__(self, given: Iterable[Any], advice: str = "", takes: range | None = None) -> None:
        self._given = list(given) if isinstance(given, Iterator) else given
        self._takes = takes
        self.advice = advice

    @classmethod
    def of(cls, graph_module: fx.GraphModule, data: Iterable[Any] | None = None) -> Samples:
        """Return those of ``data``, or the example inputs of ``graph_module``; none if it has none."""
        if data is not None:
            _require_batches(data)
            return cls(data, takes=_taken_by(graph_module))
        inputs = graph_module.meta.get(EXAMPLE_INPUTS)
        if inputs is None:
            return cls(())
        batch = Batch(tuple(inputs))
        more = "" if batch.size == 1 else "s"
        return cls([batch], f"the graph's {batch.size} example input{more}; give data= (fxprune run --data)")

    @classmethod
    def of_inputs(cls, inputs: Iterable[Any]) -> Samples:
        """Return one batch without labels: what a graph is called with."""
        return cls([Batch(tuple(inputs))])

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches; raises FxpruneTypeError or FxpruneValueError for what is none."""
        for index, given in enumerate(self._given):
            if given is not None:
                batch = given if isinstance(given, Batch) else _batch(given, index, self._takes)
                self._require_taken(batch, index)
                yield batch

    def _require_taken(self, batch: Batch, index: int) -> None:
        if self._takes is not None and len(batch.inputs) not in self._takes:
            raise FxpruneValueError(
                f"batch {index} of data has {len(batch.inputs)} of the {self._takes[-1]} inputs of the graph; a "
                "batch is inputs and labels, of several inputs ((x, mask), labels), with None for no labels"
            )

    @property
    def inputs(self) -> tuple[Any, ...]:
        """The inputs of the first batch; raises FxpruneError if there is none."""
        batch = next(iter(self), None)
        if batch is None:
            raise FxpruneError("there are no inputs to compare on: give data=, or a graph that fxprune.trace made")
        return batch.inputs

    @property
    def is_empty(self) -> bool:
        """Whether there is no batch."""
        return next(iter(self), None) is None

    @property
    def is_labelled(self) -> bool:
        """Whether the first batch has labels."""
        batch = next(iter(self), None)
        return batch is not None and batch.labels is not None

    def alone(self) -> Iterator[Batch]:
        """Yield every sample as a batch of one."""
        for batch in self:
            yield from batch.alone()


def _taken_by(graph_module: fx.GraphModule) -> range:
    """Return with how many inputs a graph can be called."""
    inputs = graph_module.graph.find_nodes(op="placeholder")
    return range(sum(not one.args for one in inputs), len(inputs) + 1)


def _require_batches(data: Any) -> None:
    """Raise FxpruneTypeError for one batch in the place of several: a tensor's rows, a pair's halves are none."""
    is_pair = (
        isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(one, torch.Tensor) for one in data)
    )
    if isinstance(data, torch.Tensor) or (is_pair and data[0].dim() != data[1].dim()):
        raise FxpruneTypeError("data is an iterable of batches, and this is one: write data=[(inputs, labels)]")
    if not isinstance(data, Iterable):
        raise FxpruneTypeError(f"data is an iterable of inputs, or of pairs of inputs and labels; got {_told(data)}")


def _batch(given: Any, index: int, takes: range | None) -> Batch:
    """Return what the user gave as a batch; loaders make a list of a tuple of as many as the graph ``takes``."""
    pair = given if isinstance(given, (tuple, list)) and len(given) == 2 else (given, None)
    first = pair[0]
    is_several = isinstance(first, tuple) or (isinstance(first, list) and (takes is None or len(first) in takes))
    inputs = tuple(first) if is_several else (first,)
    labels = pair[1]
    if not tensors_in(inputs) or not (labels is None or isinstance(labels, torch.Tensor)):
        raise FxpruneTypeError(
            f"data is an iterable of inputs, or of pairs of inputs and labels, all tensors; batch {index} is "
            f"{_told(given)}"
        )
    batch = Batch(inputs, labels)
    if labels is not None and (not labels.dim() or len(labels) != Batch(inputs).size):
        raise FxpruneValueError(
            f"batch {index} of data has {Batch(inputs).size} inputs and labels of shape {tuple(labels.shape)}: "
            "one label a sample"
        )
    return batch


def _told(given: Any) -> str:
    if isinstance(given, (tuple, list)):
        return f"a {type(given).__name__} of {', '.join(type(one).__name__ for one in given) or 'nothing'}"
    return f"a {type(given).__name__}"
