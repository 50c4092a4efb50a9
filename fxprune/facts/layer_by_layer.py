"""A run of a graph over many batches at once: each node for all of them, before the next node.

run = LayerByLayer(graph_module, batches)
run.until(node)           # works out all values up to there
run.values(node)          # one a batch

A layer can be changed once what it reads is known; what comes after it reads what it computes then. What is read
later is kept: in memory, or, where that would be too much, in files that the system pages in and out.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import fx

from fxprune.errors import FxpruneError, FxpruneValueError, first_line
from fxprune.facts.kept_state import keeping_state
from fxprune.facts.shapes import META, metadata_in
from fxprune.ir.autocast import under_autocast
from fxprune.ir.by_mode import only_in
from fxprune.ir.interpreter import Interpreter, last_reads
from fxprune.ir.module_tree import evaluating, every_path
from fxprune.ir.nodes import place
from fxprune.ir.pytrees import map_tensors

MEMORY = 1 << 30
"""How many bytes of values are held in memory; what is more is in a file."""
_SMALL = 1 << 16

Batches = Sequence[tuple[Any, ...]]


class LayerByLayer(Interpreter):
    """Runs a graph in eval mode, node by node; open it with :meth:`running`.

    Args:
        graph_module: the graph; its layers may be replaced between two steps.
        batches: what it is called with, one after the other.
        kept: nodes whose values are kept until :meth:`release`.
        folder: where values are kept in files; None: in memory.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        batches: Batches,
        kept: Collection[fx.Node] = (),
        folder: str | None = None,
    ) -> None:
        super().__init__(graph_module)
        self._graph_module = graph_module
        if under_autocast(graph_module.graph):
            raise FxpruneError("the graph switches autocast on and off: trace it without, and give it float32 inputs")
        self._inputs = [list(self.graph.process_inputs(*batch)) for batch in batches]
        self._kept = set(kept)
        self._folder = folder
        self._values: dict[fx.Node, list[Any]] = {}
        self._idle = only_in(self.graph, "train")
        self._last_reads = last_reads(self.graph)
        self._released: set[fx.Node] = set()
        self._past: set[fx.Node] = set()
        self._waiting = iter(self.graph.nodes)
        self._place = 0
        self._batch = 0

    def fork(
        self, graph_module: fx.GraphModule, same: Mapping[fx.Node, fx.Node], kept: Collection[fx.Node] = ()
    ) -> LayerByLayer:
        """Return a run of another graph, on the same batches, that knows what this one knows now.

        ``same`` are the first nodes of the other graph, by those of this one that compute the same.
        """
        other = LayerByLayer(graph_module, (), kept, self._folder)
        other._inputs = self._inputs
        other._values = {node: self._values[twin] for node, twin in same.items() if twin in self._values}
        other._past = set(same)
        other._waiting = (node for node in other.graph.nodes if node not in same)
        return other

    @contextmanager
    def running(self) -> Iterator[LayerByLayer]:
        """Keep the graph's state, and its mode, while it runs inside; layers that take others' places have theirs."""
        before = every_path(self._graph_module)
        flags = {path: module.training for path, module in before.items()}
        with keeping_state(self._graph_module), evaluating(self._graph_module), torch.no_grad():
            yield self
        for path, module in every_path(self._graph_module).items():
            if path in before and module is not before[path]:
                module.training = flags[path]

    def until(self, node: fx.Node) -> None:
        """Work out the values of all nodes up to ``node``, those that are not known yet."""
        while node not in self._values:
            self._work_out(next(self._waiting))

    def values(self, node: fx.Node) -> list[Any]:
        """Return the values of ``node``, one a batch; it must be known, and not be gone."""
        return self._values[node]

    def is_known(self, node: fx.Node) -> bool:
        """Say whether the values of ``node`` are there."""
        return node in self._values

    def is_past(self, node: fx.Node) -> bool:
        """Say whether ``node`` was worked out, here or where this run was forked."""
        return node in self._past

    def release(self, node: fx.Node) -> None:
        """Do not keep the values of ``node`` any longer than they are read."""
        self._kept.discard(node)
        if node in self._released:
            self._values.pop(node, None)

    def _work_out(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            place, self._place = self._place, self._place + 1
            self._values[node] = [batch[place] for batch in self._inputs]
        elif node in self._idle:
            self._values[node] = [None] * len(self._inputs)
        elif node.op == "get_attr":
            self._values[node] = [self.run_node(node)] * len(self._inputs)
        else:
            self._values[node] = [self._held(self._run_at(node, batch)) for batch in range(len(self._inputs))]
        self._past.add(node)
        for read in self._last_reads.get(node, ()):
            self._released.add(read)
            if read not in self._kept:
                self._values.pop(read, None)

    def _run_at(self, node: fx.Node, batch: int) -> Any:
        self.env = _Row(self._values, batch)  # type: ignore[assignment]  # all that is asked of it is to look up
        try:
            return self.run_node(node)
        except RuntimeError as error:
            raise FxpruneValueError(
                f"the graph does not take a batch of data: {place(node)}: {first_line(error)}"
            ) from error

    def _held(self, value: Any) -> Any:
        folder = self._folder
        return value if folder is None else map_tensors(value, lambda tensor: _in_file(tensor, folder))


class _Row:
    """The values of one batch, by node."""

    def __init__(self, values: Mapping[fx.Node, Sequence[Any]], batch: int) -> None:
        self._values = values
        self._batch = batch

    def __getitem__(self, node: fx.Node) -> Any:
        return self._values[node][self._batch]


def _in_file(tensor: torch.Tensor, folder: str) -> torch.Tensor:
    """Return ``tensor`` in a file of its own, which is gone with it; small ones stay where they are."""
    if tensor.numel() * tensor.element_size() < _SMALL or tensor.device.type != "cpu":
        return tensor
    handle, path = tempfile.mkstemp(dir=folder)
    os.close(handle)
    found = torch.from_file(path, shared=True, size=tensor.numel(), dtype=tensor.dtype).view(tensor.shape)
    with contextlib.suppress(OSError):  # where an open file cannot be removed it goes with its folder
        os.unlink(path)
    return found.copy_(tensor)


def bytes_held(graph_module: fx.GraphModule, images: int) -> int:
    """Return the most bytes that :class:`LayerByLayer` holds at a time for that many samples."""
    graph = graph_module.graph
    sizes = {node: _size(node) for node in graph.nodes}
    batch = max((meta.shape[0] for meta in _first_inputs(graph) if meta.shape), default=1)
    reads = last_reads(graph)
    held = largest = 0
    for node in graph.nodes:
        held += sizes[node]
        largest = max(largest, held)
        held -= sum(sizes[read] for read in reads.get(node, ()))
    return int(largest * images / max(batch, 1))


def _first_inputs(graph: fx.Graph) -> Iterable[Any]:
    return (meta for node in graph.find_nodes(op="placeholder") for meta in metadata_in(node.meta.get(META)))


def _size(node: fx.Node) -> int:
    if node.op in ("get_attr", "output"):
        return 0
    return sum(math.prod(one.shape) * one.dtype.itemsize for one in metadata_in(node.meta.get(META)))


def require_bytes(memory: int) -> None:
    """Raise FxpruneValueError unless ``memory`` is a number of bytes that values may take."""
    if memory < 0:
        raise FxpruneValueError(f"memory is a number of bytes, 0 at least; got {memory}")


@contextmanager
def room_for(needed: int, memory: int = MEMORY) -> Iterator[str | None]:
    """Yield a folder for values, where ``needed`` bytes are more than ``memory``; None where they fit.

    Raises FxpruneError if the disk has no space for them either; says how much is needed.
    """
    if needed <= memory:
        yield None
        return
    with ExitStack() as held:
        folder = held.enter_context(tempfile.TemporaryDirectory(prefix="fxprune-", ignore_cleanup_errors=True))
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise FxpruneError(
                f"the values of these images need {needed / 1e9:.1f} GB: more than the {memory / 1e9:.1f} GB of "
                f"memory that may be taken and the {free / 1e9:.1f} GB that are free in {folder}; give fewer images"
            )
        yield folder
